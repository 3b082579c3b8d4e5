"""A single network of inverted residual blocks: one code of a space, or a published network.

Training uses stochastic depth (arXiv 1603.09382) as in EfficientNet: it drops whole residual blocks per image, the i-th
block with ``i / blocks`` of the given probability. It also uses dropout before the classifier.
The layers are those of `models/mobilenet/network.py`. The trainer provides loss, schedules and augmentation.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int, PRNGKeyArray

from lanas_jax.models import layers
from lanas_jax.models.functional import Functional, Tree
from lanas_jax.models.layers.initial import draw_weights
from lanas_jax.models.layers.norm import NORM, NormConstants
from lanas_jax.models.mobilenet.network import MobileNetNetwork
from lanas_jax.spaces.attentive import AttentiveSpace
from lanas_jax.spaces.inverted_residuals import MobileNet
from lanas_jax.spaces.mobilenet import MobileNetSpace
from lanas_jax.spaces.published_mobilenets import PublishedMobileNets


@dataclasses.dataclass(frozen=True)
class FinalMobileNet:
    """The network of one code as pure functions of its parameters and batch statistics.

    Args:
      space: space of the code.
      code: architecture, NumPy integers ``[dims]``.
      compute_dtype: float32, or bfloat16 for activations and convolutions; parameters are always float32.
      dropout: dropout probability before the classifier in training, in [0, 1).
      norm: constants of batch normalisation.
      zero_residuals: scale 0 in the last normalisation of each residual block at the start of a training, so that the
        block begins as its shortcut (arXiv 1706.02677, section 5.1; BigNAS, arXiv 2003.11142).

    Raises:
      ValueError: the code is invalid, the dtype is neither float32 nor bfloat16, or the probability is out of range.
    """

    space: MobileNetSpace | AttentiveSpace | PublishedMobileNets
    code: Int[np.ndarray, " dims"] = dataclasses.field(compare=False)
    compute_dtype: DTypeLike = jnp.float32
    dropout: float = 0.2
    norm: NormConstants = NORM
    zero_residuals: bool = False
    integers: tuple[int, ...] = dataclasses.field(init=False, repr=False)  # the code as a tuple, for comparison

    def __post_init__(self) -> None:
        object.__setattr__(self, "code", self.space.check(np.asarray(self.code)[None])[0])
        object.__setattr__(self, "integers", tuple(self.code.tolist()))
        layers.check_compute_dtype(self.compute_dtype)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1); got {self.dropout}")
        self.norm.check()

    @functools.cached_property
    def spec(self) -> MobileNet:
        """The specification of the network."""
        return self.space.network(self.code)

    def init(self, key: PRNGKeyArray) -> tuple[Tree, Tree]:
        """Returns initial weights and batch statistics (`initial_weights`) as pure dicts. The key is consumed."""
        params, batch_stats = initial_weights(key, self.module)
        if self.zero_residuals:
            for i, block in enumerate(self.spec.blocks):
                if block.residual or block.connected:
                    norm = params["blocks"][i]["projection"]["norm"]
                    norm["scale"] = jnp.zeros_like(norm["scale"])
        return params, batch_stats

    def apply(
        self,
        params: Tree,
        batch_stats: Tree,
        images: Float[Array, "n h w c"],
        *,
        train: bool,
        key: PRNGKeyArray,
        drop_path: Float[Array, ""],
    ) -> tuple[Float32[Array, "n classes"], None, Tree]:
        """Runs the network.

        Args:
          params: weights in the layout of `init`.
          batch_stats: running means and variances in the layout of `init`.
          images: batch of images, resized to the network's resolution if necessary.
          train: True to normalise by the statistics of the batch, and drop paths and units.
          key: PRNG key of drop-path and dropout; consumed in training, otherwise not used.
          drop_path: drop probability, scaled linearly with depth, in [0, 1]; may be traced, so that a schedule compiles
            once; not used unless training.

        Returns:
          Logits, None for auxiliary logits, and updated batch statistics (unchanged unless training).
        """
        images = layers.resized(images, self.spec.resolution)
        paths, units = self._scales(key, drop_path, len(images)) if train else (None, None)
        logits, batch_stats = self.module.run(
            params, batch_stats, lambda network: network(images, paths, units), train=train
        )
        return logits, None, batch_stats

    def features(
        self, params: Tree, batch_stats: Tree, images: Float[Array, "n h w c"]
    ) -> tuple[Float[Array, "n h2 w2 d"], ...]:
        """Returns the output of the last block of each resolution, from fine to coarse, in evaluation mode.

        Args:
          params: weights in the layout of `init`.
          batch_stats: running means and variances in the layout of `init`.
          images: batch of images of any height and width, which are not resized.
        """
        maps, _ = self.module.run(params, batch_stats, lambda network: network.features(images), train=False)
        return maps

    def _scales(
        self, key: PRNGKeyArray, drop_path: Float[Array, ""], images: int
    ) -> tuple[Float[Array, "blocks n"], Float[Array, "n d"] | None]:
        """Draws the factors of drop-path and dropout."""
        path_key, unit_key = jax.random.split(key)
        blocks = len(self.spec.blocks)
        growing = drop_path * jnp.arange(blocks, dtype=jnp.float32) / blocks
        paths = layers.path_scales(path_key, growing[:, None], (blocks, images))
        if not self.dropout:
            return paths, None
        shape = (images, self.spec.hidden or self.spec.last)
        return paths, layers.path_scales(unit_key, jnp.float32(self.dropout), shape)

    @functools.cached_property
    def module(self) -> Functional:
        """The network as a module without arrays."""
        return Functional(
            lambda: MobileNetNetwork(self.spec, dtype=self.compute_dtype, norm=self.norm, rngs=nnx.Rngs(0))
        )


def initial_weights(key: PRNGKeyArray, module: Functional) -> tuple[Tree, Tree]:
    """Draws initial weights and batch statistics as EfficientNet's authors do. The key is consumed.

    Convolutions are normal with variance ``2 / fan_out``; fan-out is the number of kernel pixels times the outputs per
    input, one for a depthwise convolution. Dense layers are normal with variance ``1 / fan_in``.
    """
    shapes = jax.tree.map(lambda x: x.shape, module.params)
    noise = draw_weights(key, shapes)
    params = jax.tree.map_with_path(_initial, noise)
    fill = {"mean": jnp.zeros, "var": jnp.ones}
    stats = jax.tree.map_with_path(lambda path, x: fill[path[-1].key](x.shape), module.batch_stats)
    return params, stats


def _initial(path: tuple[jax.tree_util.DictKey, ...], noise: Array) -> Array:
    name = path[-1].key
    if name != "kernel":
        return jnp.ones_like(noise) if name == "scale" else jnp.zeros_like(noise)
    if noise.ndim == 2:
        return noise * math.sqrt(1 / noise.shape[0])
    groups = noise.shape[3] if any(entry.key == "depthwise" for entry in path) else 1
    return noise * math.sqrt(2 / (math.prod(noise.shape[:2]) * noise.shape[3] / groups))
