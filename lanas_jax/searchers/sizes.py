"""Sizes of networks as columns of embeddings: logarithms of multiply-adds and parameters, mean 0 and variance 1.

Listed codes have the sizes of `SearchSpace.cost`, standardised over the list. Codes that are sampled by chains have
those of `SearchSpace.traced_cost`, standardised over random valid codes, or over all random codes if few are valid.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lanas_jax.searchers.objectives import traced_costs
from lanas_jax.spaces.base import Codes, Cost, SearchSpace
from lanas_jax.spaces.feature_scale import random_codes

ENOUGH = 32  # least number of valid ones among random codes whose sizes say how much sizes vary


def listed_sizes(space: SearchSpace, codes: Int[np.ndarray, "n dims"]) -> Float[np.ndarray, "n s"]:
    """Returns the sizes of listed codes; no columns if the space has no costs, or one is negative or not finite."""
    nothing = np.zeros((len(codes), 0), np.float32)
    try:
        costs = np.stack([np.asarray(cost, np.float64) for cost in space.cost(codes)], axis=1)
    except NotImplementedError:
        return nothing
    scale = _scale(costs)
    return nothing if scale is None else ((np.log1p(costs) - scale[0]) / scale[1]).astype(np.float32)


def sizes(space: SearchSpace, codes: Codes) -> Float[Array, "n s"]:
    """Returns the sizes of valid codes inside a compiled program; no columns if the space cannot compute them there."""
    scale = _scale_of_space(space)
    if scale is None:
        return jnp.zeros((codes.shape[0], 0))
    costs = traced_costs(space, Cost._fields, codes)
    assert costs is not None
    return (jnp.log1p(jnp.maximum(-costs, 0.0)) - scale[0][None]) / scale[1][None]


def number_of_sizes(space: SearchSpace) -> int:
    """Returns the number of columns of `sizes`."""
    scale = _scale_of_space(space)
    return 0 if scale is None else len(scale[0])


def _scale(costs: Float[np.ndarray, "n s"]) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"]] | None:
    """Returns means and deviations of the logarithms of costs, infinite for a cost that does not vary."""
    if not len(costs) or not (np.isfinite(costs) & (costs >= 0)).all():
        return None
    spread = np.log1p(costs).std(axis=0)
    return np.log1p(costs).mean(axis=0), np.where(spread > 1e-6, spread, np.inf)


@functools.lru_cache(maxsize=64)
def _scale_of_space(space: SearchSpace) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"]] | None:
    """Returns `_scale` of random codes: the valid ones, if there are `ENOUGH`."""
    codes = random_codes(space)
    with jax.ensure_compile_time_eval():
        costs = traced_costs(space, Cost._fields, codes)
        if costs is None:
            return None
        valid = np.asarray(space.valid(codes))
        found = _scale(-np.asarray(costs, np.float64)[valid if valid.sum() >= ENOUGH else slice(None)])
    return None if found is None else (found[0].astype(np.float32), found[1].astype(np.float32))
