"""Features of MobileNets: their choices, and counts of large layers.

Layers of a stage differ little. Counts of large kernels and expansions, per stage and over the whole network, therefore
show their effect from far fewer samples than separate layers do. Absent layers are not counted, so equivalent codes
have equal features.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lanas_jax.spaces.base import Codes
from lanas_jax.spaces.embedding import SHARED
from lanas_jax.spaces.feature_scale import feature_scale
from lanas_jax.spaces.mobilenet_settings import MobileNetSettings


def names(space: MobileNetSettings) -> tuple[str, ...]:
    """Returns the name of each column of `counts`."""
    larger = [f"kernel>={kernel}" for kernel in space.kernels[1:]]
    larger += [f"expansion>={expansion}" for expansion in space.expansions[1:]]
    places = ["", *(f"stage {s} " for s in range(len(space.stages)))]
    return ("layers", *(f"{place}layers with {size}" for place in places for size in larger))


def counts(space: MobileNetSettings, codes: Codes) -> Float[Array, "n d"]:
    """Returns the number of layers, then the numbers of layers with at least each kernel and expansion.

    The smallest kernel and expansion are omitted. Numbers for the whole network precede those for each stage.
    """
    parts, there = space.parts(codes), space.present(codes)
    kernel = _at_least(parts.kernel, len(space.kernels), there)
    larger = jnp.concatenate([kernel, _at_least(parts.expansion, len(space.expansions), there)], axis=2)
    layers = there.sum(axis=(1, 2))[:, None]
    columns = [jnp.asarray(layers), larger.sum(axis=1), jax.lax.collapse(larger, 1)]
    return jnp.concatenate([column.astype(jnp.float32) for column in columns], axis=1)


def _at_least(
    taken: Int[Array | np.ndarray, "n stages layers"], options: int, there: Bool[Array | np.ndarray, "n stages layers"]
) -> Int[Array, "n stages steps"]:
    """Returns the number of layers per stage whose option is at or above each option, except the first."""
    steps = np.arange(1, options, dtype=np.int32)
    return ((jnp.asarray(taken)[..., None] >= steps[None, None, None]) & there[..., None]).sum(axis=2)


def embedding_scale(space: MobileNetSettings) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Returns means and scale factors of the features; the counts have a share `SHARED` of the prior variance."""
    mean, scale = feature_scale(space)
    counted = np.arange(len(scale)) >= len(scale) - len(names(space))
    varying = scale > 0
    share = np.where(counted, SHARED, 1 - SHARED) * varying.sum()
    in_part = np.where(counted, (counted & varying).sum(), (~counted & varying).sum())
    return mean, (scale * np.sqrt(share / np.maximum(in_part, 1))).astype(np.float32)
