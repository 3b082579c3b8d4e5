"""What a device reaches, measured: operations per second of matrix products, and bytes per second of memory."""

import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

PEAK_SIZE = {"cpu": 1024}  # rows of the matrix product that tells a device's peak
PEAK_SIZE_DEFAULT = 8192
COPIED = 2**24  # numbers of 4 bytes that are read and written to tell the bandwidth


def measure_peak(dtype: jnp.dtype, devices: Sequence[jax.Device], size: int | None = None, repeats: int = 8) -> float:
    """Operations per second of square matrix products, one on each device at the same time; best of three."""
    size = size or PEAK_SIZE.get(devices[0].platform, PEAK_SIZE_DEFAULT)
    product = jax.jit(jnp.matmul)
    key = jax.random.key(0)
    factor = (jax.random.normal(key, (size, size)) / np.sqrt(size).astype(np.float32)).astype(dtype)
    factors = [jax.device_put(factor, device) for device in devices]
    jax.block_until_ready([product(x, x) for x in factors])
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(repeats):
            results = [product(x, x) for x in factors]
        jax.block_until_ready(results)
        seconds.append(time.perf_counter() - began)
    return 2.0 * size**3 * repeats * len(devices) / min(seconds)


def measure_bandwidth(devices: Sequence[jax.Device], size: int = COPIED) -> float:
    """Bytes per second that all devices together read and write, each adding one to many numbers; best of three."""
    add = jax.jit(lambda x: x + 1)
    numbers = [jax.device_put(np.zeros(size, np.float32), device) for device in devices]
    jax.block_until_ready([add(x) for x in numbers])
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready([add(x) for x in numbers])
        seconds.append(time.perf_counter() - began)
    return 2.0 * 4 * size * len(devices) / min(seconds)
