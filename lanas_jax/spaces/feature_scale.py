"""Means and scales of features over the codes of a space, which make the columns comparable.

Spaces whose embedding consists of their features use it, so that all columns have equal prior weight.
"""

import functools
import math

import jax
import numpy as np
from jaxtyping import Float, Int

from lanas_jax.spaces.base import SearchSpace

CODES = 2048  # number of random codes


def random_codes(space: SearchSpace) -> Int[np.ndarray, "n dims"]:
    """Returns `CODES` random codes, valid or not, always the same ones of a space."""
    return np.random.default_rng(0).integers(0, space.cardinalities, (CODES, space.dims)).astype(np.int32)


@functools.lru_cache(maxsize=64)
def feature_scale(space: SearchSpace) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Returns feature means over random codes, and factors that make the mean squared norm of centred features 1."""
    codes = random_codes(space)
    with jax.ensure_compile_time_eval():
        features = np.asarray(space.features(codes), np.float64)
    deviation = features.std(axis=0)
    varies = deviation > 0
    scale = np.where(varies, 1 / np.where(varies, deviation, 1.0), 0.0) / math.sqrt(max(varies.sum(), 1))
    return features.mean(axis=0).astype(np.float32), scale.astype(np.float32)
