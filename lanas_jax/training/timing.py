"""How long a training step takes."""

import time

import jax
import numpy as np
from jaxtyping import Int, Key

from lanas_jax.training.population import CompiledPopulation

ENDLESS = 2**30  # steps of a training that is timed at its beginning


def time_steps(
    programs: CompiledPopulation,
    codes: Int[np.ndarray, "n dims"],
    keys: Key[jax.Array, " n"],
    steps: int | None = None,
) -> tuple[float, Int[np.ndarray, "m dims"]]:
    """Seconds of one step of one candidate: those of a whole dispatch by its steps and candidates.

    Candidates fill the programs' `width`, some of them again where they are too few; each takes the steps of one
    dispatch. A step before all others is not timed. Initial weights and evaluation are not counted.

    Args:
      programs: what trains them.
      codes: candidates.
      keys: of their trainings.
      steps: to take, at most those of a dispatch; default: all of them.

    Returns:
      The mean over all that were timed, and their codes.

    Raises:
      FloatingPointError: a loss became NaN or infinite, so that fewer steps were taken than timed.
    """
    width, steps = programs.population.width, steps or programs.population.steps_per_dispatch
    rows = np.arange(-(-len(codes) // width) * width) % len(codes)
    totals, one, untils = (jax.device_put(np.full(width, n, np.int32), programs.sharding) for n in (ENDLESS, 1, steps))
    data, seconds = (programs.numbers, *programs.placed.train), 0.0
    for first in range(0, len(rows), width):
        here = rows[first : first + width]
        placed, placed_keys = (jax.device_put(x[here], programs.sharding) for x in (codes, keys))
        if not first:
            programs.advance(programs.start(placed, placed_keys), placed, totals, one, *data)
        state = jax.block_until_ready(programs.start(placed, placed_keys))
        began = time.perf_counter()
        state = jax.block_until_ready(programs.advance(state, placed, totals, untils, *data))
        seconds += time.perf_counter() - began
        if not np.all(np.asarray(state.step) == steps):
            raise FloatingPointError(f"a loss became NaN or infinite: of {steps} steps were taken {state.step}")
    return seconds / (steps * len(rows)), codes[rows]
