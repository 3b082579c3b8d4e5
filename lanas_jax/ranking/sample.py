"""Which architectures are trained from scratch: a sample that covers the whole range of an estimate.

A few uniform draws would crowd where most architectures lie, in the middle. So many are drawn and valued by an
estimate, which is cheap; their order is cut into as many parts as networks can be trained, and one is taken from each.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from lanas_jax.ranking.base import RankingError
from lanas_jax.searchers.sampling import draw_valid
from lanas_jax.spaces.base import SearchSpace

TRIES = 4096  # batches of draws: a million, for spaces in which few codes are valid


def pool_of(key: PRNGKeyArray, space: SearchSpace, n: int, fewest: int) -> Int[np.ndarray, "m dims"]:
    """Distinct valid codes in canonical form, drawn uniformly.

    Args:
      key: consumed.
      space: the space.
      n: how many; a space that has not as many gives those it has.
      fewest: that will do.

    Raises:
      RankingError: fewer than that were found.
    """
    drawn = np.asarray(draw_valid(key, space, lambda codes: jnp.ones(len(codes), bool), n, tries=TRIES))
    codes = drawn[(drawn >= 0).all(axis=1)]
    if len(codes) < fewest:
        raise RankingError(
            f"the space gave {len(codes)} valid codes, but {fewest} networks are asked for: ask for fewer"
        )
    return codes


def stratified(values: Float[np.ndarray, " m"], strata: int, seed: int) -> Int[np.ndarray, " strata"]:
    """One index out of each of equal parts of the order of `values`, by ascending value.

    Args:
      values: NaN: failed, never taken.
      strata: number of parts; where they cannot be equal, the first ones hold one more.
      seed: of what is taken.

    Raises:
      RankingError: fewer values than parts.
    """
    order = np.argsort(values, kind="stable")[: np.count_nonzero(~np.isnan(values))]  # NaN is sorted to the end
    if len(order) < strata:
        raise RankingError(
            f"{len(order)} of {len(values)} architectures have an estimate, but {strata} networks are asked for: "
            f"ask for fewer, or for a larger pool"
        )
    draw = np.random.default_rng(seed)
    return np.array([draw.choice(part) for part in np.array_split(order, strata)])
