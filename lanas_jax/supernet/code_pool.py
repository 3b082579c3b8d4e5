"""Codes to train a supernet by: uniform over a space, or over a region of it, drawn before the training.

A training draws its codes from a pool of them, which is data to its program, so that the supernet and all
sub-supernets share one. The pool is itself drawn uniformly; for the length of a training it stands for the region.
"""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Bool, Int

from lanas_jax.spaces.base import SearchSpace

DRAWN = 2**14  # codes drawn at a time
TRIES = 64  # times so many

Within = Callable[[Int[np.ndarray, "n dims"]], Bool[np.ndarray, " n"]]


class EmptyRegionError(Exception):
    """A region of which no code was found."""


def draw(space: SearchSpace, n: int, seed: int, within: Within | None = None) -> Int[np.ndarray, "n dims"]:
    """`n` valid codes in canonical form, uniform draws by rejection; a code may be drawn more than once.

    A network is as likely as it has codes: all are alike where that number is the same for all, as for masks.

    Args:
      space: to draw from.
      n: how many. Of a region that is too rare for the tries, those that were found, repeated.
      seed: of the draws.
      within: whether canonical codes belong to the region; None: all do.

    Raises:
      EmptyRegionError: none was found.
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
        raise EmptyRegionError(f"no code of the region among {TRIES * DRAWN:,} uniform draws")
    return np.resize(codes, (n, space.dims))
