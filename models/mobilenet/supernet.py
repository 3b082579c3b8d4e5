"""The elastic supernet of a MobileNet space: every network of the space is a slice of the largest one.

As in once-for-all (arXiv 1908.09791), whose space arXiv 1906.06832 (section 5.2) searches, a code uses the first
layers of each stage, the first channels of each expansion, and the centre of the depthwise kernels
(`models/layers/slices.py`; once-for-all transforms the centre, this implementation does not). A smaller width uses the
first channels of all layers, and a smaller resolution resizes the images. The code is data: one compiled program runs
every network, and layers that a code does not use are not computed. The weights of a code form an ordinary network of
`models/mobilenet/final.py`.

A layer masks the channels of its expansion and switches between its kernels (`models/mobilenet/masked.py`). Widths and
resolutions change the shapes of all layers, so the program contains a whole network for each pair of width and
resolution, a *variant*; keep their number small. If the code is known in advance, `apply_variant` runs the network of
one variant alone.
"""

import dataclasses
import functools
import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int, PRNGKeyArray

from lanas_jax.models import layers
from lanas_jax.models.functional import Functional, Tree
from lanas_jax.models.layers import slices
from lanas_jax.models.layers.norm import NORM, NormConstants, batch_statistics
from lanas_jax.models.mobilenet.final import FinalMobileNet
from lanas_jax.models.mobilenet.masked import LayerChoice, MaskedLayer
from lanas_jax.models.mobilenet.network import Head, InvertedResidual, stem
from lanas_jax.spaces.inverted_residuals import Block, Gate, MobileNet
from lanas_jax.spaces.mobilenet import MobileNetSpace

Code = Int[Array | np.ndarray, " dims"]


@dataclasses.dataclass(frozen=True)
class MobileNetSupernet:
    """The supernet of a space.

    Args:
      space: search space, which defines the networks.
      compute_dtype: float32, or bfloat16 for activations and convolutions; parameters are always float32.
      norm: constants of batch normalisation.
      zero_residuals: scale 0 in the last normalisation of each residual block at the start (`FinalMobileNet`).

    Raises:
      ValueError: the dtype is neither float32 nor bfloat16, or an expansion is less than 2.
    """

    space: MobileNetSpace
    compute_dtype: DTypeLike = jnp.float32
    norm: NormConstants = NORM
    zero_residuals: bool = False

    def __post_init__(self) -> None:
        layers.check_compute_dtype(self.compute_dtype)
        self.norm.check()
        if min(self.space.expansions) < 2:
            raise ValueError(
                f"expansions must be at least 2, so that every layer has an expanding convolution; "
                f"got {self.space.expansions}"
            )

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
        variants = [
            functools.partial(self.apply_variant, variant, train=train) for variant in range(len(self.variants))
        ]
        index = code[1] * len(self.space.resolutions) + code[0]
        logits, new_stats = lax.switch(index, variants, params, batch_stats, jnp.asarray(code, jnp.int32), images)
        return logits, new_stats

    @property
    def variants(self) -> tuple[str, ...]:
        """A name for each pair of width and resolution, each of which has shapes of its own."""
        space = self.space
        names = itertools.product(space.widths, space.resolutions)
        return tuple(f"{size} pixels" + (f", width {width:g}" if space.widths[1:] else "") for width, size in names)

    def variant(self, code: Int[np.ndarray, " dims"]) -> int:
        """Returns the index of a code's variant."""
        return int(code[1]) * len(self.space.resolutions) + int(code[0])

    def apply_variant(
        self, variant: int, params: Tree, batch_stats: Tree, code: Code, images: Float[Array, "n h w c"], *, train: bool
    ) -> tuple[Float32[Array, "n classes"], Tree]:
        """Runs the network of a code of the given variant; see `apply`."""
        codes = jnp.asarray(code, jnp.int32)[None]
        parts = self.space.parts(codes)
        choices = LayerChoice(parts.kernel[0], parts.expansion[0], self.space.present(codes)[0])
        size = divmod(variant, len(self.space.resolutions))
        logits, new_stats = self._run(*size, train, params, batch_stats, choices, images)
        return logits, new_stats if train else batch_stats

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
            blocks = {i: tree["blocks"][row] for i, row in enumerate(self._rows(network.code))}
            return slices.part(tree | {"blocks": blocks}, shapes)

        return taken(params, network.module.params), taken(batch_stats, network.module.batch_stats)

    def with_statistics(self, batch_stats: Tree, own: Tree, code: Int[np.ndarray, " dims"]) -> Tree:
        """Returns batch statistics in which those that `extract` takes for a code are replaced by `own`."""
        rows = {row: i for i, row in enumerate(self._rows(code))}
        blocks = {
            row: slices.replaced(stats, own["blocks"][rows[row]]) if row in rows else stats
            for row, stats in batch_stats["blocks"].items()
        }
        others = {name: slices.replaced(batch_stats[name], own[name]) for name in ("stem", "head")}
        return {**others, "blocks": blocks}

    def _rows(self, code: Int[np.ndarray, " dims"]) -> list[int]:
        """Returns the blocks of the largest network that a code uses."""
        present = np.asarray(self.space.present(code[None])[0]).reshape(-1)
        return [0, *(1 + np.flatnonzero(present)).tolist()]

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
        """Returns the network of all last options; its weights have the layout of `init`."""
        return dataclasses.replace(self.standalone(self.space.cardinalities - 1), dropout=dropout)

    def _run(
        self,
        width: int,
        resolution: int,
        train: bool,
        params: Tree,
        batch_stats: Tree,
        choices: LayerChoice,
        images: Float[Array, "n h w c"],
    ) -> tuple[Array, Tree]:
        """Runs the network of one width and one resolution, given as indices; `choices` are ``[stages, layers]``."""
        spec = self._spec(width)
        x = layers.resized(images, self.space.resolutions[resolution])
        new_stats: dict[str, Any] = {"blocks": {}}
        start = Functional(lambda: stem(spec, dtype=self.compute_dtype, norm=self.norm, rngs=nnx.Rngs(0)))
        x, new_stats["stem"] = _layer(start, train, (x, params["stem"]), batch_stats["stem"])
        first = _block(spec.blocks[0], spec.gate, self._dtype, self.norm)
        x, new_stats["blocks"][0] = _layer(first, train, (x, params["blocks"][0]), batch_stats["blocks"][0])
        for row, (s, i) in enumerate(np.ndindex(choices.present.shape), start=1):
            masked = self._masked(spec.gate, width, s, i)
            shapes = _block(masked.block, spec.gate, self._dtype, self.norm)
            own = slices.part(params["blocks"][row], shapes.params)
            stats = slices.part(batch_stats["blocks"][row], shapes.batch_stats)
            x, moved = masked(x, own, stats, LayerChoice(*(choice[s, i] for choice in choices)), train=train)
            new_stats["blocks"][row] = slices.replaced(batch_stats["blocks"][row], moved)
        head = Functional(lambda: Head(spec, dtype=self.compute_dtype, norm=self.norm, rngs=nnx.Rngs(0)))
        logits, new_stats["head"] = _layer(head, train, (x, params["head"]), batch_stats["head"])
        return logits, new_stats

    def _masked(self, gate: Gate, width: int, stage: int, layer: int) -> MaskedLayer:
        """Returns all options of a layer of a stage."""
        space = self.space
        blocks = [
            space.block(space.widths[width], stage, layer, space.kernels[-1], times) for times in space.expansions
        ]
        expanded, squeezed = (tuple(getattr(block, name) for block in blocks) for name in ("expanded", "squeezed"))
        optional = layer >= space.depths[0]
        return MaskedLayer(blocks[-1], space.kernels, expanded, squeezed, gate, self.norm, optional)

    def _spec(self, width: int) -> MobileNet:
        """Returns the specification of a network of that width, used for its stem, first block and head."""
        code = np.zeros(self.space.dims, np.int32)
        code[1] = width
        return self.space.network(code)

    @property
    def _dtype(self) -> np.dtype:
        return jnp.dtype(self.compute_dtype)


@functools.cache
def _block(block: Block, gate: Gate, dtype: np.dtype, norm: NormConstants) -> Functional:
    return Functional(lambda: InvertedResidual(block, gate, dtype=dtype, norm=norm, rngs=nnx.Rngs(0)))


def _layer(module: Functional, train: bool, operands: tuple[Array, Tree], stats: Tree) -> tuple[Array, Tree]:
    """Runs a layer with slices of the largest layer's weights; returns the output and updated statistics."""
    x, weights = operands
    own = slices.part(stats, module.batch_stats)
    y, moved = module.run(slices.part(weights, module.params), own, lambda layer: layer(x), train=train)
    return y, slices.replaced(stats, moved) if train else stats
