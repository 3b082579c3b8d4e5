"""The prior covariance of the values of a product space's codes, as an embedding of the options of its choices."""

import functools
import math

import numpy as np
from jaxtyping import Float

from lanas_jax.spaces.choices import Choice

SHARED = 0.4  # fraction of the prior variance shared by choices with the same options
CURVATURE = 2.0  # decay of the squared-exponential covariance over a scale's levels, scaled to [0, 1]
DOUBT = 0.2  # fraction of a scale's prior variance that is independent between options, as if they were labels


@functools.lru_cache(maxsize=64)
def product_embedding(choices: tuple[Choice, ...], doubts_scales: bool) -> Float[np.ndarray, "t e"]:
    """Returns `SearchSpace.term_embedding` of a product space; 0 for options that a choice does not have.

    Args:
      choices: choices of the space.
      doubts_scales: as in `SearchSpace`.
    """
    kinds = [(choice.options, choice.is_scale) for choice in choices]
    groups = list(dict.fromkeys(kinds))
    own, shared = [], [np.zeros((0, 0))] * len(groups)
    for choice, kind in zip(choices, kinds, strict=True):
        root = _root_covariance(choice, DOUBT if doubts_scales else 0.0)
        own.append(root * math.sqrt((1 - SHARED) / len(choices)))
        shared[groups.index(kind)] = root * math.sqrt(SHARED / (len(choices) * kinds.count(kind)))
    starts = np.cumsum([0] + [len(block) for block in own + shared])
    columns, most = [], max(len(choice.options) for choice in choices)
    for i in range(len(choices)):
        rows = np.zeros((most, starts[-1]), np.float32)
        for part, block in (
            (i, own[i]),
            (len(choices) + groups.index(kinds[i]), shared[groups.index(kinds[i])]),
        ):
            rows[: len(block), starts[part] : starts[part] + len(block)] = block
        columns.append(rows)
    return np.concatenate(columns)


def _root_covariance(choice: Choice, doubt: float) -> np.ndarray:
    """Returns a square root of the prior covariance of the options' effects."""
    n = len(choice.options)
    if not choice.is_scale:
        return np.eye(n)
    place = np.array(choice.levels) / (n - 1)
    smooth = np.exp(-CURVATURE * np.square(place[:, None] - place))
    values, vectors = np.linalg.eigh((1 - doubt) * smooth + doubt * np.eye(n))
    return vectors * np.sqrt(np.maximum(values, 0))
