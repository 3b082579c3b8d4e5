"""The winner of a search over the NASNet space, with the regularisation of its long training.

As in the published networks, after DARTS (arXiv 1806.09055), training adds an auxiliary head with its own logits, and
drop-path (arXiv 1605.07648), which drops a branch's output for an image with a probability that grows during
training. Weight standardisation is an option of `NASNet`. The trainer provides loss, schedules and
augmentation.
"""

import dataclasses
import functools

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, Int, PRNGKeyArray

from lanas_jax.models import layers
from lanas_jax.models.fixed import FixedNetwork
from lanas_jax.models.functional import Tree
from lanas_jax.models.nasnet.auxiliary import pool_window
from lanas_jax.models.nasnet.candidate import NASNet
from lanas_jax.models.nasnet.network import NASNetNetwork, auxiliary_cell, auxiliary_head
from lanas_jax.spaces.nasnet import NASNetSpace


@dataclasses.dataclass(frozen=True)
class FinalNASNet:
    """The network of one code as pure functions of its parameters and batch statistics.

    Args:
      network: family of networks of the space, with their numerics.
      code: architecture, NumPy integers ``[dims]``.
      auxiliary: True to add an auxiliary head.

    Raises:
      ValueError: the code is invalid, or the images are too small for an auxiliary head.
    """

    network: NASNet
    code: Int[np.ndarray, " dims"] = dataclasses.field(compare=False)
    auxiliary: bool = True
    integers: tuple[int, ...] = dataclasses.field(init=False, repr=False)  # the code as a tuple, for comparison

    def __post_init__(self) -> None:
        object.__setattr__(self, "code", self.space.check(np.asarray(self.code)[None])[0])
        object.__setattr__(self, "integers", tuple(self.code.tolist()))
        if self.auxiliary:
            pool_window(self.space.shapes[auxiliary_cell(self.space)].output_size)

    @property
    def space(self) -> NASNetSpace:
        """The space of the code."""
        return self.network.space

    def init(self, key: PRNGKeyArray) -> tuple[Tree, Tree]:
        """Returns initial weights and batch statistics as pure dicts. The key is consumed.

        Except for the auxiliary head, ``auxiliary``, they equal those of `NASNet.for_code` with the same key.
        """
        return self._fixed.init(key, self.code)

    def apply(
        self,
        params: Tree,
        batch_stats: Tree,
        images: Float[Array, "n h w c"],
        *,
        train: bool,
        key: PRNGKeyArray,
        drop_path: Float[Array, ""],
    ) -> tuple[Float32[Array, "n classes"], Float32[Array, "n classes"] | None, Tree]:
        """Runs the network.

        Args:
          params: weights in the layout of `init`.
          batch_stats: running means and variances in the layout of `init`.
          images: batch with the image size and channels of the space.
          train: True to normalise by the statistics of the batch, drop paths and run the auxiliary head.
          key: PRNG key of drop-path; consumed in training, otherwise not used.
          drop_path: probability that a branch is dropped for an image, in [0, 1); may be traced, so that a schedule
            compiles once; not used unless training.

        Returns:
          Logits, auxiliary logits (None unless training with an auxiliary head), and updated batch statistics
          (unchanged unless training).
        """
        if not train:
            logits, _ = self._fixed.run(params, batch_stats, lambda network: network(images), train=False)
            return logits, None, batch_stats
        shape = (self.space.cells, 2 * self.space.blocks, len(images))
        scales = layers.path_scales(key, drop_path, shape)

        def call(network: NASNetNetwork) -> tuple[Array, Array | None]:
            return network.with_auxiliary(images, scales) if self.auxiliary else (network(images, scales), None)

        (logits, auxiliary_logits), batch_stats = self._fixed.run(params, batch_stats, call, train=True)
        return logits, auxiliary_logits, batch_stats

    def features(
        self, params: Tree, batch_stats: Tree, images: Float[Array, "n h w c"]
    ) -> tuple[Float[Array, "n h2 w2 d"], ...]:
        """Returns the output of the last cell of each resolution, from fine to coarse, in evaluation mode.

        Args:
          params: weights in the layout of `init`.
          batch_stats: running means and variances in the layout of `init`.
          images: batch of images of any height and width.
        """
        maps, _ = self._fixed.run(params, batch_stats, lambda network: network.features(images), train=False)
        return maps

    @functools.cached_property
    def _fixed(self) -> FixedNetwork:
        return FixedNetwork(self.space, self._build)

    def _build(self, key: PRNGKeyArray) -> NASNetNetwork:
        params, batch_stats = self.network.init(key, self.code)
        if not self.auxiliary:
            return self.network.specialise(params, batch_stats, self.code)
        rngs = nnx.Rngs(jax.random.fold_in(key, 1))
        head = auxiliary_head(self.space, self.code, dtype=self.network.compute_dtype, rngs=rngs)
        return self.network.specialise(params, batch_stats, self.code, head)
