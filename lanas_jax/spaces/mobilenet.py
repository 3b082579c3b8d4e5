"""The MobileNetV3 / EfficientNet space: stages of inverted residuals, elastic in depth, kernel, expansion and width.

The ImageNet experiments of arXiv 1906.06832 (section 5.2) search the networks of once-for-all (arXiv 1908.09791): five
stages of two to four layers, of which each has a kernel of 3, 5 or 7 pixels and expands its input 3, 4 or 6 times; a
multiplier of all widths and the resolution of the images belong to the code. That is ``(9**2 + 9**3 + 9**4)**5``, or
2.2e19, networks for each width and resolution. Squeeze-and-excitation and activations are those of MobileNetV3.

A code holds the resolution, the width, and of each stage the depth and then, for as many layers as it can have, kernel
and expansion. Layers beyond the depth are not there: all codes that differ in them alone are one network. A network's
layers, and what they cost, are those of `inverted_residuals.py`; `mobilenet_costs.py` sums the costs of many codes,
`mobilenet_features.py` counts what regressors see of them, and `models/mobilenet.py` builds the networks.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lanas_jax.spaces import mobilenet_checks, mobilenet_costs, mobilenet_features
from lanas_jax.spaces.base import Choice, Codes, Cost, LimitedCost, SearchSpace
from lanas_jax.spaces.exact import exceeds
from lanas_jax.spaces.inverted_residuals import Activation, Block, MobileNet, rounded
from lanas_jax.spaces.latency import LatencyTable
from lanas_jax.spaces.mobilenet_costs import COLUMNS, Totals


@dataclasses.dataclass(frozen=True)
class Stage:
    """What is the same for all layers of a stage.

    Attributes:
      width: channels of its output, before the multiplier.
      stride: of its first layer.
      activation: of its layers.
      squeezes: whether they have squeeze-and-excitation.
    """

    width: int
    stride: int
    activation: Activation = "hard_swish"
    squeezes: bool = False


STAGES = (
    Stage(24, 2, "relu"),
    Stage(40, 2, "relu", squeezes=True),
    Stage(80, 2),
    Stage(112, 1, squeezes=True),
    Stage(160, 2, squeezes=True),
)
SQUEEZE = 4  # expanded channels per channel of squeeze-and-excitation's bottleneck


class Parts(NamedTuple):
    """A batch of codes, choice by choice."""

    resolution: Int[Array | np.ndarray, " n"]  # which of the resolutions
    width: Int[Array | np.ndarray, " n"]  # which of the multipliers
    depth: Int[Array | np.ndarray, "n stages"]  # which of the depths
    kernel: Int[Array | np.ndarray, "n stages layers"]  # which of the kernels
    expansion: Int[Array | np.ndarray, "n stages layers"]  # which of the expansions


@dataclasses.dataclass(frozen=True)
class MobileNetSpace(SearchSpace):
    """Networks of stages of inverted residuals.

    Args:
      stages: from stem to head.
      depths: layers that a stage may have, ascending.
      kernels: sides of depthwise kernels, ascending.
      expansions: how many times a layer's input may be expanded, ascending.
      widths: multipliers of all channels, ascending.
      resolutions: heights and widths of images, in pixels, ascending.
      stem: channels of the stem and of the one block before the first stage, before the multiplier.
      last: channels of the 1x1 convolution after the last stage, before the multiplier.
      hidden: channels of the dense layer before the classifier, before the multiplier.
      stem_stride: of the stem.
      image_channels: channels of the images.
      classes: outputs of the network.
      max_multiply_adds: hard limit on the multiply-adds of one image's forward pass; a part of `valid`.
      max_parameters: hard limit on the trainable parameters; a part of `valid`.
      latency: what the layers take on a device, where that is to be known.
      max_latency: hard limit on the nanoseconds that a batch takes by that table; a part of `valid`.

    Raises:
      ValueError: settings of which no network can be made, a limit below the smallest network, a table that lacks
        layers, or a limit on the latency without a table.
    """

    stages: tuple[Stage, ...]
    depths: tuple[int, ...]
    kernels: tuple[int, ...]
    expansions: tuple[int, ...]
    widths: tuple[float, ...]
    resolutions: tuple[int, ...]
    stem: int
    last: int
    hidden: int
    stem_stride: int
    image_channels: int
    classes: int
    max_multiply_adds: int | None
    max_parameters: int | None
    latency: LatencyTable | None
    max_latency: int | None

    def __init__(
        self,
        stages: Sequence[Stage] = STAGES,
        *,
        depths: Sequence[int] = (2, 3, 4),
        kernels: Sequence[int] = (3, 5, 7),
        expansions: Sequence[int] = (3, 4, 6),
        widths: Sequence[float] = (1.0,),
        resolutions: Sequence[int] = (224,),
        stem: int = 16,
        last: int = 960,
        hidden: int = 1280,
        stem_stride: int = 2,
        image_channels: int = 3,
        classes: int = 1000,
        max_multiply_adds: int | None = None,
        max_parameters: int | None = None,
        latency: LatencyTable | None = None,
        max_latency: int | None = None,
    ):
        settings = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        for name, value in settings.items():
            object.__setattr__(self, name, tuple(value) if isinstance(value, Sequence) else value)
        mobilenet_checks.check_settings(self)
        choices = [Choice("resolution", self.resolutions), Choice("width", self.widths)]
        for s in range(len(self.stages)):
            choices.append(Choice(f"stage {s} depth", self.depths))
            for i in range(self.layers):
                choices.append(Choice(f"stage {s} layer {i} kernel", self.kernels))
                choices.append(Choice(f"stage {s} layer {i} expansion", self.expansions))
        super().__init__(choices)
        mobilenet_checks.check_limits(self)

    @property
    def named_codes(self) -> Mapping[str, tuple[int, ...]]:
        """The network of all last options, of which every other one is a part, and that of all first ones."""
        return {"largest": tuple((self.cardinalities - 1).tolist()), "smallest": (0,) * self.dims}

    @property
    def layers(self) -> int:
        """Layers of the deepest stage."""
        return self.depths[-1]

    @property
    def networks(self) -> int:
        """Number of different networks, exact; limits are not looked at."""
        layer = len(self.kernels) * len(self.expansions)
        stage = sum(layer**depth for depth in self.depths)
        return len(self.widths) * len(self.resolutions) * stage ** len(self.stages)

    def parts(self, codes: Codes) -> Parts:
        """The integers of codes by what they decide; NumPy codes give NumPy arrays."""
        stages = codes[:, 2:].reshape(codes.shape[0], len(self.stages), 1 + 2 * self.layers)
        layers = stages[:, :, 1:].reshape(*stages.shape[:2], self.layers, 2)
        return Parts(codes[:, 0], codes[:, 1], stages[:, :, 0], layers[..., 0], layers[..., 1])

    def present(self, codes: Codes) -> Bool[Array | np.ndarray, "n stages layers"]:
        """Which layers are there; NumPy codes give a NumPy array."""
        table = np.arange(self.layers)[None] < np.array(self.depths)[:, None]
        depth = self.parts(codes).depth
        return table[depth] if isinstance(depth, np.ndarray) else jnp.asarray(table)[depth]

    def canonical(self, codes: Codes) -> Int[Array, "n dims"]:
        """Layers that are not there have the first kernel and the first expansion."""
        codes = jnp.asarray(codes, jnp.int32)
        return jnp.where(self._decides(codes), codes, 0)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """A name for each column of `features`."""
        return super().feature_names + mobilenet_features.names(self)

    def features(self, codes: Codes) -> Float[Array, "n d"]:
        """Choice after choice as in any space, 0 for layers that are not there; then the counts of `counts`."""
        codes = jnp.asarray(codes, jnp.int32)
        columns = [len(choice.options) - choice.ordered for choice in self.choices]
        decides = self._decides(codes)[:, np.repeat(np.arange(self.dims), columns)]
        own = jnp.where(decides, super().features(codes), 0.0)
        return jnp.concatenate([own, mobilenet_features.counts(self, codes)], axis=1)

    def terms(self, codes: Codes) -> Float[Array, "n t"]:
        """The features, each of mean 0 over random codes."""
        return self.features(codes) - mobilenet_features.embedding_scale(self)[0][None]

    @property
    def term_embedding(self) -> Float[np.ndarray, "t e"]:
        """A column for each feature; squared norms are 1 on average over random codes."""
        return np.diag(mobilenet_features.embedding_scale(self)[1])

    @property
    def limits(self) -> tuple[int | None, int | None, int | None]:
        """The hard limits on multiply-adds, parameters and nanoseconds, where there are any."""
        return self.max_multiply_adds, self.max_parameters, self.max_latency

    @property
    def smallest(self) -> Totals:
        """The smallest of each cost that a network has, limits not looked at."""
        return mobilenet_costs.bounds(self)[0]

    @property
    def largest(self) -> Totals:
        """The largest of each cost that a network has, limits not looked at."""
        return mobilenet_costs.bounds(self)[1]

    def valid(self, codes: Codes) -> Bool[Array, " n"]:
        """Whether each code may be built: integers in range, and the network within the hard limits, exactly."""
        codes = jnp.asarray(codes, jnp.int32)
        allowed = super().valid(codes)
        for column, limit in enumerate(self.limits):
            if limit is not None:
                allowed &= ~exceeds(mobilenet_costs.limbs(self, codes, column), limit)
        return allowed

    def starting_codes(self) -> Int[np.ndarray, "k dims"]:
        """Cheap networks within the limits, one for each resolution and width that allow one; none without limits."""
        if self.limits == (None, None, None):
            return super().starting_codes()
        return mobilenet_costs.cheapest_valid(self)

    def cost(self, codes: Codes) -> Cost:
        """Multiply-adds of one image's forward pass and trainable parameters, exact."""
        totals = mobilenet_costs.totals(self, codes)
        return Cost(totals[:, 0], totals[:, 1])

    def nanoseconds(self, codes: Codes) -> Int[np.ndarray, " n"]:
        """What a batch takes by the table of latencies, exact.

        Raises:
          ValueError: there is no table.
        """
        if self.latency is None:
            raise ValueError("the space has no table of latencies: give it one, latency=LatencyTable.read(path)")
        return mobilenet_costs.totals(self, codes)[:, COLUMNS.index("nanoseconds")]

    def limited(self, codes: Codes) -> tuple[LimitedCost, ...]:
        """Each limited cost, with its limit."""
        totals = mobilenet_costs.totals(self, codes)
        return tuple(
            LimitedCost(name.replace("_", "-"), limit, totals[:, column])
            for column, (name, limit) in enumerate(zip(COLUMNS, self.limits, strict=True))
            if limit is not None
        )

    def at_resolution(self, codes: Codes, resolution: int) -> Int[np.ndarray, "n dims"]:
        """The same networks on images of another resolution, whether within the limits or not.

        Raises:
          ValueError: the space has no such resolution.
        """
        if resolution not in self.resolutions:
            raise ValueError(
                f"the space has no resolution of {resolution} pixels: there are {len(self.resolutions)}, "
                f"the smallest {self.resolutions[0]} and the largest {self.resolutions[-1]}"
            )
        codes = self.check(codes)
        codes[:, 0] = self.resolutions.index(resolution)
        return codes

    def describe(self, code: Int[Array | np.ndarray, " dims"]) -> str:
        """Resolution and width, then a line per stage: its layers, each with kernel and expansion."""
        parts = Parts(*(part[0] for part in self.parts(self.check(np.asarray(code)[None]))))
        width = self.widths[parts.width]
        lines = [f"resolution {self.resolutions[parts.resolution]}, width {width:g}"]
        for s, stage in enumerate(self.stages):
            depth = self.depths[parts.depth[s]]
            layers = ", ".join(
                f"k{self.kernels[parts.kernel[s, i]]} x{self.expansions[parts.expansion[s, i]]}" for i in range(depth)
            )
            noun = "layer" if depth == 1 else "layers"
            lines.append(f"stage {s}: {depth} {noun} of {rounded(stage.width * width)} channels: {layers}")
        return "\n".join(lines)

    def network(self, code: Int[Array | np.ndarray, " dims"]) -> MobileNet:
        """The network of a code, layer by layer.

        Raises:
          ValueError: a bad code.
        """
        parts = Parts(*(part[0] for part in self.parts(self.check(np.asarray(code)[None]))))
        width = self.widths[parts.width]
        blocks = [self.first_block(width)]
        for s in range(len(self.stages)):
            for i in range(self.depths[parts.depth[s]]):
                kernel, expansion = self.kernels[parts.kernel[s, i]], self.expansions[parts.expansion[s, i]]
                blocks.append(self.block(width, s, i, kernel, expansion))
        return MobileNet(
            tuple(blocks),
            stem=rounded(self.stem * width),
            last=rounded(self.last * width),
            hidden=rounded(self.hidden * width),
            hidden_bias=False,
            stem_stride=self.stem_stride,
            resolution=self.resolutions[parts.resolution],
            image_channels=self.image_channels,
            classes=self.classes,
        )

    def first_block(self, width: float) -> Block:
        """The block before the first stage, the same for all codes of a width multiplier."""
        channels = rounded(self.stem * width)
        return Block(channels, channels, channels)

    def block(self, width: float, stage: int, layer: int, kernel: int, expansion: int) -> Block:
        """Of a layer, counted from the first of its stage, and a width multiplier."""
        about = self.stages[stage]
        before = self.stages[stage - 1].width if stage else self.stem
        inputs = rounded((about.width if layer else before) * width)
        expanded = inputs * expansion
        return Block(
            inputs,
            expanded,
            rounded(about.width * width),
            kernel,
            1 if layer else about.stride,
            about.activation,
            rounded(expanded / SQUEEZE) if about.squeezes else 0,
        )

    def _decides(self, codes: Int[Array, "n dims"]) -> Bool[Array, "n dims"]:
        """Which choices are of something that is there."""
        there = jnp.repeat(self.present(codes), 2, axis=2)
        there = jnp.pad(there, ((0, 0), (0, 0), (1, 0)), constant_values=True)
        return jnp.pad(there.reshape(codes.shape[0], -1), ((0, 0), (2, 0)), constant_values=True)
