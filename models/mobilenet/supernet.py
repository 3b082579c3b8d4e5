"""The elastic supernet of a MobileNet space: every network of the space is a slice of the largest one.

As in once-for-all (arXiv 1908.09791), whose space arXiv 1906.06832 (section 5.2) searches, a code uses the first
layers of each stage, the first channels of each expansion, and the centre of the depthwise kernels
(`models/layers/slices.py`; once-for-all transforms the centre, this implementation does not). A smaller width uses the
first channels of all layers, and a smaller resolution resizes the images. The code is data: one compiled program runs
every network, and layers that a code does not use are not computed.

A layer masks the channels of its expansion and switches between its kernels (`models/mobilenet/masked.py`). Widths and
resolutions change the shapes of all layers, so the program contains a whole network for each pair of width and
resolution, a variant; keep their number small.
"""

import dataclasses
import functools
import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int

from lanas_jax.models import layers
from lanas_jax.models.functional import Functional, Tree
from lanas_jax.models.layers import slices
from lanas_jax.models.layers.norm import NormConstants
from lanas_jax.models.mobilenet.masked import LayerChoice, MaskedLayer
from lanas_jax.models.mobilenet.network import Head, InvertedResidual, stem
from lanas_jax.models.mobilenet.sliced import Code, SlicedSupernet
from lanas_jax.spaces.inverted_residuals import Block, Gate, MobileNet
from lanas_jax.spaces.mobilenet import MobileNetSpace


@dataclasses.dataclass(frozen=True)
class MobileNetSupernet(SlicedSupernet):
    """The supernet of a `MobileNetSpace`; arguments as for `SlicedSupernet`.

    Raises:
      ValueError: as `SlicedSupernet`, or an expansion is less than 2.
    """

    space: MobileNetSpace

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.space.expansions) < 2:
            raise ValueError(
                f"expansions must be at least 2, so that every layer has an expanding convolution; "
                f"got {self.space.expansions}"
            )

    @property
    def variants(self) -> tuple[str, ...]:
        """A name for each pair of width and resolution, each of which has shapes of its own."""
        space = self.space
        names = itertools.product(space.widths, space.resolutions)
        return tuple(f"{size} pixels" + (f", width {width:g}" if space.widths[1:] else "") for width, size in names)

    def variant_index(self, code: Code) -> Int[Array | np.ndarray, ""]:
        """Returns the index of a code's variant; the code may be traced."""
        return code[1] * len(self.space.resolutions) + code[0]

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

    def present(self, code: Int[np.ndarray, " dims"]) -> Bool[np.ndarray, " layers"]:
        """Returns which layers of the largest network a code uses."""
        return np.concatenate([[True], np.asarray(self.space.present(code[None])[0]).reshape(-1)])

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
            choice = LayerChoice(choices.kernel[s, i], choices.expansion[s, i], choices.present[s, i])
            x, moved = masked(x, own, stats, choice, train=train)
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
        block, optional = blocks[-1], layer >= space.depths[0]
        outputs = (block.outputs,)
        return MaskedLayer(
            block, space.kernels, expanded, squeezed, outputs, gate, self.norm, optional, residual=block.residual
        )

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
