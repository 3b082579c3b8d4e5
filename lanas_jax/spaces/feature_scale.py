"""How features are spread over the codes of a space: what makes them comparable, column by column.

Spaces whose embedding is made of their features use it, so that each column says as much as any other a priori.
"""

import functools
import math

import jax
import numpy as np
from jaxtyping import Float

from lanas_jax.spaces.base import SearchSpace

CODES = 2048  # drawn at random


@functools.lru_cache(maxsize=64)
def feature_scale(space: SearchSpace) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Means of the features over random codes, and the factors that make their squared sum 1 on average."""
    codes = np.random.default_rng(0).integers(0, space.cardinalities, (CODES, space.dims)).astype(np.int32)
    with jax.ensure_compile_time_eval():
        features = np.asarray(space.features(codes), np.float64)
    deviation = features.std(axis=0)
    varies = deviation > 0
    scale = np.where(varies, 1 / np.where(varies, deviation, 1.0), 0.0) / math.sqrt(max(varies.sum(), 1))
    return features.mean(axis=0).astype(np.float32), scale.astype(np.float32)
