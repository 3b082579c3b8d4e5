"""Means and scales of features over the codes of a space, which make the columns comparable.

Spaces whose embedding consists of their features use it, so that all columns have equal prior weight.
"""

import functools
import math

import jax
import numpy as np
from jaxtyping import Float

from lanas_jax.spaces.base import SearchSpace

CODES = 2048  # number of random codes


@functools.lru_cache(maxsize=64)
def feature_scale(space: SearchSpace) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Returns feature means over random codes, and factors that make the mean squared norm of centred features 1."""
    codes = np.random.default_rng(0).integers(0, space.cardinalities, (CODES, space.dims)).astype(np.int32)
    with jax.ensure_compile_time_eval():
        features = np.asarray(space.features(codes), np.float64)
    deviation = features.std(axis=0)
    varies = deviation > 0
    scale = np.where(varies, 1 / np.where(varies, deviation, 1.0), 0.0) / math.sqrt(max(varies.sum(), 1))
    return features.mean(axis=0).astype(np.float32), scale.astype(np.float32)
