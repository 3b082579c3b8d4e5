"""A network of inverted residual blocks on its own: of one code of a space, or a published one.

Training drops paths (arXiv 1603.09382) as EfficientNet's does: whole blocks to which their input is added, the i-th of
them with ``i / blocks`` of the probability asked for, image by image; and units before the classifier (dropout).
The layers are those of `models/mobilenet/network.py`. Loss, schedules and augmentation are the business of the trainer.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int, PRNGKeyArray

from lanas_jax.spaces.inverted_residuals import MobileNet
from lanas_jax.spaces.mobilenet import MobileNetSpace
from lanas_jax.spaces.published_mobilenets import PublishedMobileNets
from models import layers
from models.functional import Functional, Tree
from models.layers.initial import draw_normal
from models.mobilenet.network import MobileNetNetwork


@dataclasses.dataclass(frozen=True, eq=False)
class FinalMobileNet:
    """The network of one code as pure functions of its parameters and batch statistics.

    Args:
      space: says what its codes mean.
      code: the architecture, NumPy integers ``[dims]``.
      compute_dtype: float32, or bfloat16 for activations and convolutions; parameters are float32 in any case.
      dropout: probability with which a unit before the classifier is dropped in training, in [0, 1).

    Raises:
      ValueError: a bad code, another dtype, or a probability out of range.
    """

    space: MobileNetSpace | PublishedMobileNets
    code: Int[np.ndarray, " dims"]
    compute_dtype: DTypeLike = jnp.float32
    dropout: float = 0.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "code", self.space.check(np.asarray(self.code)[None])[0])
        layers.check_compute_dtype(self.compute_dtype)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1); got {self.dropout}")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[Any, ...]:
        """By which it is told from others: arrays have no equality of that kind."""
        return self.space, tuple(self.code.tolist()), self.compute_dtype, self.dropout

    @functools.cached_property
    def spec(self) -> MobileNet:
        """What the network consists of."""
        return self.space.network(self.code)

    def init(self, key: PRNGKeyArray) -> tuple[Tree, Tree]:
        """Weights and batch statistics, as pure dicts; `initial_weights`. The key is consumed."""
        return initial_weights(key, self.module)

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
          params: weights, as `init` gives them.
          batch_stats: running means and variances, as `init` gives them.
          images: a batch; images of another size than the network's resolution are resized to it.
          train: whether to normalise by the statistics of the batch, and drop paths and units.
          key: of what is dropped; consumed in training, else not used.
          drop_path: the probability that grows towards the last block, in [0, 1]; may be traced, so that a schedule
            compiles once; not used unless training.

        Returns:
          Logits, no auxiliary ones, and the batch statistics that follow (unchanged unless training).
        """
        images = layers.resized(images, self.spec.resolution)
        paths, units = self._scales(key, drop_path, len(images)) if train else (None, None)
        logits, batch_stats = self.module.run(
            params, batch_stats, lambda network: network(images, paths, units), train=train
        )
        return logits, None, batch_stats

    def _scales(
        self, key: PRNGKeyArray, drop_path: Float[Array, ""], images: int
    ) -> tuple[Float[Array, "blocks n"], Float[Array, "n d"] | None]:
        """What blocks and units are multiplied by."""
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
        return Functional(lambda: MobileNetNetwork(self.spec, dtype=self.compute_dtype, rngs=nnx.Rngs(0)))


def initial_weights(key: PRNGKeyArray, module: Functional) -> tuple[Tree, Tree]:
    """Weights and batch statistics before training, as EfficientNet's authors draw them. The key is consumed.

    Convolutions are normal with variance ``2 / fan_out``, where fan-out counts the pixels of the kernel and the outputs
    of an input: one of a depthwise convolution. Dense layers are normal with variance ``1 / fan_in``.
    """
    shapes = jax.tree.map(lambda x: x.shape, module.params)
    noise = draw_normal(key, shapes)
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
    return noise * math.sqrt(2 / (math.prod(noise.shape[:2]) * noise.shape[3] / _groups(path, noise)))


def _groups(path: tuple[jax.tree_util.DictKey, ...], kernel: Array) -> int:
    return kernel.shape[3] if any(entry.key == "depthwise" for entry in path) else 1
