"""Stratified sample of architectures to train from scratch, covering the whole range of an estimate.

A small uniform sample would concentrate in the middle, where most architectures lie. So a large pool is drawn and
valued by an estimate, which is cheap. The sorted pool is cut into as many parts as networks will be trained, and one
architecture is drawn from each part.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from lanas_jax.ranking.base import RankingError
from lanas_jax.runtime.arithmetic import in_32_bits
from lanas_jax.searchers.sampling import LISTED, draw_valid
from lanas_jax.spaces.base import SearchSpace

TRIES = 4096  # batches of draws, about a million codes in all, for spaces with few valid codes


@in_32_bits
def pool_of(key: PRNGKeyArray, space: SearchSpace, n: int, fewest: int) -> Int[np.ndarray, "m dims"]:
    """Draws distinct valid codes uniformly, in canonical form.

    Args:
      key: PRNG key; consumed.
      space: search space.
      n: number of codes; a smaller space yields all its codes.
      fewest: smallest acceptable number of codes.

    Raises:
      RankingError: fewer than `fewest` codes were found.
    """
    if space.size <= LISTED:
        every = space.enumerate()
        codes = every[np.asarray(jax.random.permutation(key, len(every)))[:n]]
    else:
        drawn = np.asarray(draw_valid(key, space, lambda codes: jnp.ones(len(codes), bool), n, tries=TRIES))
        codes = drawn[(drawn >= 0).all(axis=1)]
    if len(codes) < fewest:
        raise RankingError(
            f"the space gave {len(codes)} valid codes, but {fewest} networks are requested; request fewer networks"
        )
    return codes


def stratified(values: Float[np.ndarray, " m"], strata: int, seed: int) -> Int[np.ndarray, " strata"]:
    """Draws one index from each of `strata` equal parts of the sorted values, in ascending order of value.

    Args:
      values: values of the pool; NaN: failed, never drawn.
      strata: number of parts; if they cannot be equal, the first parts hold one more value.
      seed: random seed of the draw.

    Raises:
      RankingError: there are fewer values than parts.
    """
    order = np.argsort(values, kind="stable")[: np.count_nonzero(~np.isnan(values))]  # NaN sorts to the end
    if len(order) < strata:
        raise RankingError(
            f"{len(order)} of {len(values)} architectures have an estimate, but {strata} networks are requested; "
            f"request fewer networks or a larger pool"
        )
    draw = np.random.default_rng(seed)
    return np.array([draw.choice(part) for part in np.array_split(order, strata)])


def spread(n: int) -> Int[np.ndarray, " n"]:
    """Returns 0 to `n` - 1 in an order of which every beginning covers the whole range: van der Corput's sequence."""
    digits = max(n - 1, 0).bit_length()
    order = [int(f"{i:0{digits}b}"[::-1], 2) for i in range(2**digits)]
    return np.array([i for i in order if i < n], np.int64)
