"""The peak throughput of devices, measured by large matrix products, and the operations of a training step.

A training step counts as three forward passes (one forward, two backward), with two operations per multiply-add of
`space.cost`. Pooling, normalization and the optimizer are not counted. The peak is that of a large square matrix
product in the same dtype on the same devices, at JAX's default precision. The memory bandwidth is that of adding one to
a large array.
"""

import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

PEAK_SIZE = {"cpu": 1024}  # rows of the matrices whose product measures a device's peak
PEAK_SIZE_DEFAULT = 8192
COPIED = 2**24  # number of float32 values that are read and written to measure the bandwidth


def step_flops(multiply_adds: Int[np.ndarray, " n"], batch_size: int) -> Float[np.ndarray, " n"]:
    """Returns the operations of one training step of each network: ``2 * 3 * multiply_adds * batch_size``."""
    return 6.0 * batch_size * multiply_adds


def measure_peak(dtype: jnp.dtype, devices: Sequence[jax.Device], size: int | None = None, repeats: int = 8) -> float:
    """Measures the operations per second of square matrix products on all devices at once; best of three."""
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
    """Measures the bytes per second that all devices together read and write, adding one to an array; best of three."""
    add = jax.jit(lambda x: x + 1)
    numbers = [jax.device_put(np.zeros(size, np.float32), device) for device in devices]
    jax.block_until_ready([add(x) for x in numbers])
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready([add(x) for x in numbers])
        seconds.append(time.perf_counter() - began)
    return 2.0 * 4 * size * len(devices) / min(seconds)
