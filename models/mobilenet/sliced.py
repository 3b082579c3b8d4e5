"""Supernets whose subnetworks are slices of one large network: first channels, first layers, centres of kernels.

A code may be data: one compiled program runs every code of a *variant*, and there are few variants. Or it is known in
advance, and its slices of the weights form an ordinary network of `models/mobilenet/final.py`.
"""

import abc
import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Int, PRNGKeyArray

from lanas_jax.models import layers
from lanas_jax.models.functional import Tree
from lanas_jax.models.layers import slices
from lanas_jax.models.layers.norm import NORM, NormConstants, batch_statistics
from lanas_jax.models.mobilenet.final import FinalMobileNet
from lanas_jax.spaces.attentive import AttentiveSpace
from lanas_jax.spaces.mobilenet import MobileNetSpace

Code = Int[Array | np.ndarray, " dims"]


@dataclasses.dataclass(frozen=True)
class SlicedSupernet(abc.ABC):
    """The supernet of a space.

    Args:
      space: search space, which defines the networks.
      compute_dtype: float32, or bfloat16 for activations and convolutions; parameters are always float32.
      norm: constants of batch normalisation.
      zero_residuals: scale 0 in the last normalisation of each residual block at the start (`FinalMobileNet`).
      only: index of the variant of all codes; None for codes of all variants.

    Raises:
      ValueError: the dtype is neither float32 nor bfloat16, or a constant is out of range.
    """

    space: MobileNetSpace | AttentiveSpace
    compute_dtype: DTypeLike = jnp.float32
    norm: NormConstants = NORM
    zero_residuals: bool = False
    only: int | None = None

    def __post_init__(self) -> None:
        layers.check_compute_dtype(self.compute_dtype)
        self.norm.check()

    @property
    @abc.abstractmethod
    def variants(self) -> tuple[str, ...]:
        """A name for each variant, whose networks have shapes of their own."""

    @abc.abstractmethod
    def variant_index(self, code: Code) -> Int[Array | np.ndarray, ""]:
        """Returns the index of a code's variant; the code may be traced."""

    @abc.abstractmethod
    def apply_variant(
        self, variant: int, params: Tree, batch_stats: Tree, code: Code, images: Float[Array, "n h w c"], *, train: bool
    ) -> tuple[Float32[Array, "n classes"], Tree]:
        """Runs the network of a code of the given variant; see `apply`."""

    @abc.abstractmethod
    def present(self, code: Int[np.ndarray, " dims"]) -> Bool[np.ndarray, " layers"]:
        """Returns which layers of the largest network a code uses."""

    def init(self, key: PRNGKeyArray) -> tuple[Tree, Tree]:
        """Returns initial weights and batch statistics of the largest network, in the layout of `FinalMobileNet.init`.

        The key is consumed.
        """
        return self.largest(0.0).init(key)

    def apply(
        self, params: Tree, batch_stats: Tree, code: Code, images: Float[Array, "n h w c"], *, train: bool
    ) -> tuple[Float32[Array, "n classes"], Tree]:
        """Runs the network of one code; `code` may be traced.

        Args:
          params: weights in the layout of `init`.
          batch_stats: running means and variances in the layout of `init`.
          code: architecture, ``int32[dims]``.
          images: batch of images, resized to the resolution of the code if necessary.
          train: True to normalise by the statistics of the batch, False by running statistics.

        Returns:
          Logits and updated batch statistics: training updates only the statistics that the code uses.
        """
        if self.only is not None:
            return self.apply_variant(self.only, params, batch_stats, code, images, train=train)
        variants = [
            functools.partial(self.apply_variant, variant, train=train) for variant in range(len(self.variants))
        ]
        code = jnp.asarray(code, jnp.int32)
        logits, new_stats = lax.switch(self.variant_index(code), variants, params, batch_stats, code, images)
        return logits, new_stats

    def variant(self, code: Int[np.ndarray, " dims"]) -> int:
        """Returns the index of a code's variant."""
        return int(self.variant_index(code))

    def of_variant(self, variant: int) -> "SlicedSupernet":
        """Returns the supernet of the codes of one variant, with the same weights and codes."""
        return dataclasses.replace(self, only=variant)

    def statistics(self, params: Tree, code: Code, images: Float[Array, "n h w c"]) -> Tree:
        """Returns `batch_statistics` of one code, which may be traced."""
        stats = self.largest(0.0).module.batch_stats
        return batch_statistics(
            lambda stats: self.apply(params, stats, code, images, train=True)[1], stats, self.norm.momentum
        )

    def extract(self, params: Tree, batch_stats: Tree, code: Code) -> tuple[Tree, Tree]:
        """Returns the weights and batch statistics that a code uses, in the layout of its `standalone` network.

        Raises:
          ValueError: the code has the wrong length or an integer out of range.
        """
        network = self.standalone(code)

        def taken(tree: Tree, shapes: Tree) -> Tree:
            blocks = {i: tree["blocks"][row] for i, row in enumerate(np.flatnonzero(self.present(network.code)))}
            return slices.part(tree | {"blocks": blocks}, shapes)

        return taken(params, network.module.params), taken(batch_stats, network.module.batch_stats)

    def with_statistics(self, batch_stats: Tree, own: Tree, code: Int[np.ndarray, " dims"]) -> Tree:
        """Returns batch statistics in which those that `extract` takes for a code are replaced by `own`."""
        rows = {row: i for i, row in enumerate(np.flatnonzero(self.present(code)))}
        blocks = {
            row: slices.replaced(stats, own["blocks"][rows[row]]) if row in rows else stats
            for row, stats in batch_stats["blocks"].items()
        }
        others = {name: slices.replaced(batch_stats[name], own[name]) for name in ("stem", "head")}
        return {**others, "blocks": blocks}

    def standalone(self, code: Code) -> FinalMobileNet:
        """Returns the network of a code, without dropout; the weights from `extract` give the same outputs.

        Raises:
          ValueError: see `extract`.
        """
        return FinalMobileNet(
            self.space,
            np.asarray(code),
            self.compute_dtype,
            dropout=0.0,
            norm=self.norm,
            zero_residuals=self.zero_residuals,
        )

    def largest(self, dropout: float) -> FinalMobileNet:
        """Returns the network of all last options, which contains all others."""
        return dataclasses.replace(self.standalone(self.space.cardinalities - 1), dropout=dropout)
