"""Layers shared by the networks of several spaces, as functions of arrays and as Flax modules."""

from lanas_jax.models.layers.convolutions import (
    alternate_pixels,
    convolution,
    depthwise,
    factorised_reduce,
    pointwise,
    separable,
)
from lanas_jax.models.layers.functions import (
    MOMENTUM,
    batch_norm,
    check_compute_dtype,
    path_scales,
    resized,
    scale_images,
    standardise,
)
from lanas_jax.models.layers.pools import average_of_four, average_pool, average_pool_within, max_pool

__all__ = [
    "MOMENTUM",
    "alternate_pixels",
    "average_of_four",
    "average_pool",
    "average_pool_within",
    "batch_norm",
    "check_compute_dtype",
    "convolution",
    "depthwise",
    "factorised_reduce",
    "max_pool",
    "path_scales",
    "pointwise",
    "resized",
    "scale_images",
    "separable",
    "standardise",
]
