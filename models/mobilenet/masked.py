"""A layer of a MobileNet supernet: one block of the largest size that runs every kernel, expansion and width.

Channels beyond an expansion or a width are masked: their activations are zero, so they neither change the output nor
receive a gradient. The depthwise convolution alone is a switch between kernels, since a masked 7x7 kernel takes several
times as long as a 3x3 kernel. An absent layer passes its input on. Three conditionals, for the expansion, the depthwise
convolution and the rest, replace one around the whole layer, because libtpu 0.0.42 does not compile a switch inside a
conditional.

The gradient recomputes the expansion and the projection of a layer that may be absent. If it saved what they compute
instead, each conditional would return it, and an absent layer would fill all of it with zeros.

Such a program has one body for each layer, in which only the depthwise convolution has a branch for each kernel. It
computes all channels of the largest expansion.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lanas_jax.models import layers
from lanas_jax.models.layers.norm import NormConstants
from lanas_jax.models.layers.switch import Branch, switch
from lanas_jax.models.mobilenet.network import ACTIVATIONS, BEFORE_GATES, GATES
from lanas_jax.spaces.inverted_residuals import Block, Gate

Tree = dict[str, Any]
Images = Float[Array, "n h w c"]


class LayerChoice(NamedTuple):
    """The part of a code that decides on one layer; may be traced."""

    kernel: Int[Array, ""]  # index into the kernels
    expansion: Int[Array, ""]  # index into the numbers of expanded channels
    present: Bool[Array, ""]  # False for an absent layer, whose other options do not matter
    width: Int[Array, ""] | None = None  # index into the numbers of output channels; None if there is only one


@dataclasses.dataclass(frozen=True)
class MaskedLayer:
    """All options of a layer.

    Args:
      block: largest block, which has the last kernel, the last expansion and the last width.
      kernels: sides of the kernels, ascending.
      expanded: possible numbers of expanded channels.
      squeezed: number of bottleneck channels for each of them; zeros without squeeze-and-excitation.
      outputs: possible numbers of output channels, ascending.
      gate: gate of squeeze-and-excitation.
      norm: constants of batch normalisation.
      optional: True if the layer may be absent.
      residual: True if the input is added to the output.
    """

    block: Block
    kernels: tuple[int, ...]
    expanded: tuple[int, ...]
    squeezed: tuple[int, ...]
    outputs: tuple[int, ...]
    gate: Gate
    norm: NormConstants
    optional: bool
    residual: bool

    def __call__(
        self, x: Images, weights: Tree, stats: Tree, choice: LayerChoice, *, train: bool
    ) -> tuple[Float[Array, "n h2 w2 d"], Tree]:
        """Runs the layer.

        Args:
          x: input, with zeros in channels that the code lacks.
          weights: weights of the largest block.
          stats: running batch statistics of the largest block.
          choice: options of the layer.
          train: True to normalise by the statistics of the batch.

        Returns:
          The output and updated statistics; statistics of masked channels and of an absent layer do not change.
        """
        used = jnp.arange(self.block.expanded) < jnp.asarray(self.expanded)[choice.expansion]
        own = {name: weights[name] for name in ("depthwise", "projection")}
        if self.block.squeezed:
            own["excitation"] = weights["excitation"]
        after = {name: stats[name] for name in ("depthwise", "projection")}
        wide = jax.ShapeDtypeStruct((*x.shape[:3], self.block.expanded), x.dtype)
        y, expanded = x, {}
        if self.block.expands:
            expand = functools.partial(self._expand, train)
            y, expanded["expansion"] = self._if_present(
                choice,
                lambda operands, state: expand(*operands, *state),
                lambda operands, state: (jnp.zeros(wide.shape, wide.dtype), state[0]),
                (x, weights["expansion"]),
                (stats["expansion"], used),
            )
        y = self._depthwise(y, weights["depthwise"]["convolution"]["kernel"][:, :, 0], choice)
        project = functools.partial(self._project, train)
        x, after = self._if_present(
            choice,
            lambda operands, state: project(*operands, *state),
            lambda operands, state: (operands[0], state[0]),
            (x, y, own),
            (after, used, choice),
        )
        return x, {**expanded, **after}

    def _if_present(
        self, choice: LayerChoice, run: Branch, otherwise: Branch, operands: tuple[Any, ...], state: tuple[Any, ...]
    ) -> tuple[Any, Any]:
        """Returns `run`, or `otherwise` for an absent layer; the arguments are those of `layers.switch`."""
        if not self.optional:
            return run(operands, state)
        return switch((otherwise, run), choice.present.astype(jnp.int32), operands, state)

    def _expand(
        self, train: bool, x: Images, weights: Tree, stats: Tree, used: Bool[Array, " c2"]
    ) -> tuple[Float[Array, "n h w c2"], Tree]:
        y = layers.convolution(x, weights["convolution"]["kernel"])
        return self._activated(y, weights["norm"], stats, used, train)

    def _depthwise(self, y: Images, kernel: Float[Array, "k k c"], choice: LayerChoice) -> Float[Array, "n h2 w2 c"]:
        """Convolves by the centre of the kernel; returns zeros if the layer is absent."""

        def convolve(side: int, operands: tuple[Array, Array], state: tuple[()]) -> tuple[Array, tuple[()]]:
            images, kernel = operands
            edge = (kernel.shape[0] - side) // 2
            centre = kernel[edge : edge + side, edge : edge + side]
            return layers.depthwise(images, centre, self.block.stride), state

        def nothing(operands: tuple[Array, Array], state: tuple[()]) -> tuple[Array, tuple[()]]:
            return jnp.zeros_like(operands[0]), state

        branches = tuple(functools.partial(convolve, side) for side in self.kernels)
        if not self.optional:
            return switch(branches, choice.kernel, (y, kernel), ())[0]
        return switch((nothing, *branches), jnp.where(choice.present, 1 + choice.kernel, 0), (y, kernel), ())[0]

    def _project(
        self,
        train: bool,
        x: Images,
        y: Float[Array, "n h2 w2 c2"],
        weights: Tree,
        stats: Tree,
        used: Bool[Array, " c2"],
        choice: LayerChoice,
    ) -> tuple[Float[Array, "n h2 w2 d"], Tree]:
        """Runs all of the block that follows its depthwise convolution."""
        y, depthwise = self._activated(y, weights["depthwise"]["norm"], stats["depthwise"], used, train)
        if self.block.squeezed:
            own, squeezed = weights["excitation"], jnp.asarray(self.squeezed)[choice.expansion]
            means = jnp.mean(y.astype(jnp.float32), axis=(1, 2))
            inner = ACTIVATIONS[BEFORE_GATES[self.gate]](
                means @ own["squeeze"]["kernel"] + own["squeeze"]["bias"][None]
            )
            inner = jnp.where((jnp.arange(self.block.squeezed) < squeezed)[None], inner, 0)
            gates = GATES[self.gate](inner @ own["excite"]["kernel"] + own["excite"]["bias"][None])
            y = y * gates[:, None, None].astype(y.dtype)
        y = layers.convolution(y, weights["projection"]["convolution"]["kernel"])
        kept = None if choice.width is None else used_channels(self.outputs, choice.width)
        y, projection = normalised(y, weights["projection"]["norm"], stats["projection"], kept, self.norm, train=train)
        y = y if kept is None else masked(y, kept)
        return x + y if self.residual else y, {"depthwise": depthwise, "projection": projection}

    def _activated(
        self, y: Images, weights: Tree, stats: Tree, used: Bool[Array, " c"], train: bool
    ) -> tuple[Images, Tree]:
        y, moved = normalised(y, weights, stats, used, self.norm, train=train)
        return masked(ACTIVATIONS[self.block.activation](y), used), moved


def used_channels(options: tuple[int, ...], index: Int[Array, ""]) -> Bool[Array, " c"]:
    """Returns which of the last option's channels the option of that index uses: the first ones."""
    return jnp.arange(options[-1]) < jnp.asarray(options)[index]


def masked(y: Float[Array, "*n c"], used: Bool[Array, " c"]) -> Float[Array, "*n c"]:
    """Returns the array with zeros in unused channels."""
    return jnp.where(used.reshape((1,) * (y.ndim - 1) + used.shape), y, 0)


def normalised(
    y: Images, weights: Tree, stats: Tree, used: Bool[Array, " c"] | None, norm: NormConstants, *, train: bool
) -> tuple[Images, Tree]:
    """Normalises a batch; returns it with updated statistics, which do not change for unused channels."""
    old = stats["norm"]
    y, mean, var = layers.batch_norm(
        y, weights["scale"], weights["bias"], old["mean"], old["var"], train=train, **norm._asdict()
    )
    new = {"mean": mean, "var": var}
    if used is not None and train:
        new = {name: jnp.where(used, value, old[name]) for name, value in new.items()}
    return y, {"norm": new}
