"""Pools of training codes for supernets: drawn uniformly from a space or a region before training.

Training draws its codes from a pool, which is data to the program, so that the supernet and all sub-supernets share one
program. The pool is a uniform sample that represents the space or region during training.
"""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Bool, Int

from lanas_jax.runtime.arithmetic import in_32_bits
from lanas_jax.spaces.base import SearchSpace

DRAWN = 2**14  # codes per draw
TRIES = 64  # maximum number of draws

Within = Callable[[Int[np.ndarray, "n dims"]], Bool[np.ndarray, " n"]]


class EmptyRegionError(Exception):
    """No code was found in a region."""


@in_32_bits
def draw_codes(space: SearchSpace, n: int, seed: int, within: Within | None = None) -> Int[np.ndarray, "n dims"]:
    """Draws `n` valid codes uniformly by rejection, in canonical form; a code may be drawn more than once.

    The probability of a network is proportional to its number of codes. It is uniform if all networks have equally many
    codes, as for masks.

    Args:
      space: search space.
      n: number of codes. If the draws yield fewer codes, the codes that were found are repeated.
      seed: random seed of the draws.
      within: function that tests which canonical codes belong to the region; None: the whole space.

    Raises:
      EmptyRegionError: no code of the region was found.
    """
    found: list[np.ndarray] = []
    for key in jax.random.split(jax.random.key(seed), TRIES):
        drawn = space.random(key, DRAWN)
        kept = np.asarray(space.canonical(drawn))[np.asarray(space.valid(drawn))]
        found.append(kept if within is None else kept[within(kept)])
        if sum(map(len, found)) >= n:
            break
    codes: np.ndarray = np.concatenate(found)
    if not len(codes):
        raise EmptyRegionError(f"no code of the region among {TRIES * DRAWN:,} uniform draws; choose larger regions")
    return np.resize(codes, (n, space.dims))
