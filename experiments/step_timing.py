"""How long a training step takes, and what share of a device's measured matrix-multiply peak it reaches.

A step of training is counted as three forward passes (one forward, two backward) of two operations per multiply-add;
`space.cost` knows the multiply-adds. What pooling, normalising and the optimiser compute is not counted. The peak is
that of a large square matrix product in the same dtype on the same devices, at JAX's default precision.
"""

import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from lanas_jax.training.population import CompiledPopulation

ENDLESS = 2**30  # steps of a training that is timed at its beginning
PEAK_SIZE = {"cpu": 1024}  # rows of the matrix product that tells a device's peak
PEAK_SIZE_DEFAULT = 8192


def step_flops(multiply_adds: Int[np.ndarray, " n"], batch_size: int) -> Float[np.ndarray, " n"]:
    """Operations of a training step of each network: ``2 * 3 * multiply_adds * batch_size``."""
    return 6.0 * batch_size * multiply_adds


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


def time_steps(
    programs: CompiledPopulation, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"]
) -> tuple[float, Int[np.ndarray, "m dims"]]:
    """Seconds of one step of one candidate: those of a whole dispatch by its steps and candidates.

    Candidates fill the programs' `width`, some of them again where they are too few; each takes the steps of one
    dispatch. The first dispatch of all is not timed. Initial weights and evaluation are not counted.

    Returns:
      The mean over all that were timed, and their codes.

    Raises:
      FloatingPointError: a loss became NaN or infinite, so that fewer steps were taken than timed.
    """
    width, steps = programs.population.width, programs.population.steps_per_dispatch
    rows = np.arange(-(-len(codes) // width) * width) % len(codes)
    totals = jax.device_put(np.full(width, ENDLESS, np.int32), programs.sharding)
    seconds = 0.0
    for first in range(0, len(rows), width):
        here = rows[first : first + width]
        placed, placed_keys = (jax.device_put(x[here], programs.sharding) for x in (codes, keys))
        if not first:
            programs.advance(programs.start(placed, placed_keys), placed, totals, *programs.train)
        state = jax.block_until_ready(programs.start(placed, placed_keys))
        began = time.perf_counter()
        state = jax.block_until_ready(programs.advance(state, placed, totals, *programs.train))
        seconds += time.perf_counter() - began
        if not np.all(np.asarray(state.step) == steps):
            raise FloatingPointError(f"a loss became NaN or infinite: of {steps} steps were taken {state.step}")
    return seconds / (steps * len(rows)), codes[rows]


def planned_bytes(programs: CompiledPopulation) -> int | None:
    """Memory of one device that XLA plans for the training program: data, states and temporaries; None: unknown."""
    analysis = programs.advance.memory_analysis()
    if analysis is None:
        return None
    sizes = (analysis.argument_size_in_bytes, analysis.output_size_in_bytes, analysis.temp_size_in_bytes)
    return sum(sizes) - analysis.alias_size_in_bytes
