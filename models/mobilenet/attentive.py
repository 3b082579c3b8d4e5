"""The supernet of an `AttentiveSpace`: all of its widths, depths, kernels and expansions by one body for each layer.

As in AttentiveNAS (arXiv 2011.09011), a code uses the first channels of each width and expansion, the first layers of
each stage, and the centre of the depthwise kernels. Stem, layers and head mask the channels that a code lacks, so
widths are data. A resolution changes the shapes of all layers: each is a variant with a program of its own.

A shortcut between channels that some codes have in equal numbers is the identity for these and a convolution for all
others. So the supernet may have kernels that its largest network lacks.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, PRNGKeyArray

from lanas_jax.models import layers
from lanas_jax.models.functional import Tree
from lanas_jax.models.mobilenet.masked import LayerChoice, MaskedLayer, masked, normalised, used_channels
from lanas_jax.models.mobilenet.network import ACTIVATIONS, averaged
from lanas_jax.models.mobilenet.sliced import Code, SlicedSupernet
from lanas_jax.spaces.attentive import LAST, AttentiveSpace

Images = Float[Array, "n h w c"]


class _Channels(NamedTuple):
    """Possible numbers of channels of an activation, and the index of that of the code."""

    options: tuple[int, ...]
    chosen: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class AttentiveSupernet(SlicedSupernet):
    """The supernet of an `AttentiveSpace`; arguments as for `SlicedSupernet`."""

    space: AttentiveSpace

    def init(self, key: PRNGKeyArray) -> tuple[Tree, Tree]:
        """Returns initial weights and batch statistics. The key is consumed."""
        own, other = jax.random.split(key)
        params, batch_stats = super().init(own)
        for row, shape in self._other_shortcuts.items():
            noise = jax.random.normal(jax.random.fold_in(other, row), (1, 1, *shape))
            params["blocks"][row]["shortcut"] = {"kernel": noise * math.sqrt(2 / shape[1])}
        return params, batch_stats

    @property
    def variants(self) -> tuple[str, ...]:
        """A name for each resolution."""
        return tuple(f"{size} pixels" for size in self.space.resolutions)

    def variant_index(self, code: Code) -> Int[Array | np.ndarray, ""]:
        """Returns the index of a code's resolution; the code may be traced."""
        return code[0]

    def present(self, code: Int[np.ndarray, " dims"]) -> Bool[np.ndarray, " layers"]:
        """Returns which layers of the largest network a code uses."""
        depths = self.space.parts(np.asarray(code)[None]).depth[0]
        used = [
            np.arange(stage.depths[-1]) < stage.depths[depth]
            for stage, depth in zip(self.space.stages, depths, strict=True)
        ]
        return np.concatenate(used)

    def apply_variant(
        self, variant: int, params: Tree, batch_stats: Tree, code: Code, images: Images, *, train: bool
    ) -> tuple[Float32[Array, "n classes"], Tree]:
        """Runs the network of a code of the given variant; see `apply`."""
        space, parts = self.space, self.space.parts(jnp.asarray(code, jnp.int32)[None])
        spec, blocks = space.network(space.cardinalities - 1), {}
        x = layers.resized(images, space.resolutions[variant]).astype(self.compute_dtype)
        before = _Channels(space.stems, parts.stem[0])
        x = layers.convolution(x, params["stem"]["convolution"]["kernel"], spec.stem_stride)
        x, stem = self._activated(x, params["stem"], batch_stats["stem"], before, train)
        row = 0
        for s, stage in enumerate(space.stages):
            after = _Channels(stage.widths, parts.width[0, s])
            for i in range(stage.depths[-1]):
                present = i < jnp.asarray(stage.depths)[parts.depth[0, s]]
                expansion = before.chosen * len(stage.expansions) + parts.expansion[0, s]
                choice = LayerChoice(parts.kernel[0, s], expansion, present, after.chosen)
                layer, weights = self._masked(s, i, before.options), params["blocks"][row]
                y, blocks[row] = layer(x, weights, batch_stats["blocks"][row], choice, train=train)
                x = y if i else y + _shortcut(averaged(x, layer.block.stride), weights, before, after)
                before, row = after, row + 1
        logits, head = self._head(x, params["head"], batch_stats["head"], before, parts.head[0], train)
        return logits, {"stem": stem, "blocks": blocks, "head": head} if train else batch_stats

    def _masked(self, stage: int, layer: int, inputs: tuple[int, ...]) -> MaskedLayer:
        """Returns all options of a layer that reads one of the given numbers of channels."""
        space, settings = self.space, self.space.stages[stage]
        blocks = [
            space.block(stage, layer, channels, settings.widths[-1], settings.kernels[-1], times)
            for channels in inputs
            for times in settings.expansions
        ]
        return MaskedLayer(
            blocks[-1],
            settings.kernels,
            tuple(block.expanded for block in blocks),
            tuple(block.squeezed for block in blocks),
            settings.widths,
            space.network(space.cardinalities - 1).gate,
            self.norm,
            optional=layer >= settings.depths[0],
            residual=layer > 0,
        )

    def _activated(
        self, x: Images, weights: Tree, stats: Tree, channels: _Channels, train: bool
    ) -> tuple[Images, Tree]:
        used = used_channels(*channels)
        x, moved = normalised(x, weights["norm"], stats, used, self.norm, train=train)
        return masked(ACTIVATIONS["swish"](x), used), moved

    def _head(
        self, x: Images, weights: Tree, stats: Tree, inputs: _Channels, hidden: Int[Array, ""], train: bool
    ) -> tuple[Float32[Array, "n classes"], Tree]:
        last = _Channels(tuple(LAST * channels for channels in inputs.options), inputs.chosen)
        x = layers.convolution(x, weights["last"]["convolution"]["kernel"])
        x, moved = self._activated(x, weights["last"], stats["last"], last, train)
        features = ACTIVATIONS["swish"](jnp.mean(x.astype(jnp.float32), axis=(1, 2)) @ weights["hidden"]["kernel"])
        features = masked(features, used_channels(self.space.heads, hidden))
        return features @ weights["classifier"]["kernel"] + weights["classifier"]["bias"][None], {"last": moved}

    @property
    def _other_shortcuts(self) -> dict[int, tuple[int, int]]:
        """Channels before and after each block whose shortcut some codes project, but not the largest network."""
        found, row = {}, 0
        for s, stage in enumerate(self.space.stages):
            before, after = self.space.widths_before(s), stage.widths
            if before[-1] == after[-1] and len({*before, *after}) > 1:
                found[row] = before[-1], after[-1]
            row += stage.depths[-1]
        return found


def _shortcut(x: Images, weights: Tree, before: _Channels, after: _Channels) -> Images:
    """Returns the input of a stage's first layer, in the channels of its output."""
    y = x
    if "shortcut" in weights:
        y = masked(layers.convolution(x, weights["shortcut"]["kernel"]), used_channels(*after))
    if set(before.options).isdisjoint(after.options):
        return y
    equal = jnp.asarray(before.options)[before.chosen] == jnp.asarray(after.options)[after.chosen]
    missing = max(y.shape[-1] - x.shape[-1], 0)
    same = jnp.pad(x, ((0, 0),) * 3 + ((0, missing),))[..., : y.shape[-1]]
    return jnp.where(equal, same, y)
