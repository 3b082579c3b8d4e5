"""The settings of a MobileNet space, and what they decide without costs: its choices, and the network of each code.

`mobilenet_costs.py` and `mobilenet_features.py` take these settings; `mobilenet.py` puts all of it together.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from lanas_jax.spaces.base import Choice, Codes, SearchSpace
from lanas_jax.spaces.inverted_residuals import Activation, Block, MobileNet, rounded
from lanas_jax.spaces.latency import LatencyTable

SQUEEZE = 4  # expanded channels per channel of squeeze-and-excitation's bottleneck


@dataclasses.dataclass(frozen=True)
class MobileNetStage:
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
    MobileNetStage(24, 2, "relu"),
    MobileNetStage(40, 2, "relu", squeezes=True),
    MobileNetStage(80, 2),
    MobileNetStage(112, 1, squeezes=True),
    MobileNetStage(160, 2, squeezes=True),
)


class CodesByChoice(NamedTuple):
    """A batch of codes, choice by choice."""

    resolution: Int[Array | np.ndarray, " n"]  # which of the resolutions
    width: Int[Array | np.ndarray, " n"]  # which of the multipliers
    depth: Int[Array | np.ndarray, "n stages"]  # which of the depths
    kernel: Int[Array | np.ndarray, "n stages layers"]  # which of the kernels
    expansion: Int[Array | np.ndarray, "n stages layers"]  # which of the expansions


@dataclasses.dataclass(frozen=True)
class MobileNetSettings(SearchSpace):
    """Networks of stages of inverted residuals, by the settings of `MobileNetSpace`; what they cost is not asked here.

    Args:
      **settings: values of all fields.

    Raises:
      ValueError: settings of which no network can be made.
    """

    stages: tuple[MobileNetStage, ...]
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

    def __init__(self, **settings: Any):
        for name, value in settings.items():
            object.__setattr__(self, name, tuple(value) if isinstance(value, Sequence) else value)
        check_settings(self)
        choices = [Choice("resolution", self.resolutions), Choice("width", self.widths)]
        for s in range(len(self.stages)):
            choices.append(Choice(f"stage {s} depth", self.depths))
            for i in range(self.layers):
                choices.append(Choice(f"stage {s} layer {i} kernel", self.kernels))
                choices.append(Choice(f"stage {s} layer {i} expansion", self.expansions))
        super().__init__(choices)

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

    def parts(self, codes: Codes) -> CodesByChoice:
        """The integers of codes by what they decide; NumPy codes give NumPy arrays."""
        stages = codes[:, 2:].reshape(codes.shape[0], len(self.stages), 1 + 2 * self.layers)
        layers = stages[:, :, 1:].reshape(*stages.shape[:2], self.layers, 2)
        return CodesByChoice(codes[:, 0], codes[:, 1], stages[:, :, 0], layers[..., 0], layers[..., 1])

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
    def limits(self) -> tuple[int | None, int | None, int | None]:
        """The hard limits on multiply-adds, parameters and nanoseconds, where there are any."""
        return self.max_multiply_adds, self.max_parameters, self.max_latency

    def describe(self, code: Int[Array | np.ndarray, " dims"]) -> str:
        """Resolution and width, then a line per stage: its layers, each with kernel and expansion."""
        parts = CodesByChoice(*(part[0] for part in self.parts(self.check(np.asarray(code)[None]))))
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
        parts = CodesByChoice(*(part[0] for part in self.parts(self.check(np.asarray(code)[None]))))
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


def check_settings(space: MobileNetSettings) -> None:
    """Whether networks can be made of them.

    Raises:
      ValueError: names the setting.
    """
    if not space.stages:
        raise ValueError("stages must name at least one")
    for name in ("depths", "kernels", "expansions", "widths", "resolutions"):
        options = getattr(space, name)
        if not options or options[0] <= 0 or list(options) != sorted(set(options)):
            raise ValueError(f"{name} must be ascending numbers above 0, at least one; got {options}")
    for name in ("stem", "last", "hidden", "stem_stride", "image_channels", "classes"):
        if getattr(space, name) < 1:
            raise ValueError(f"{name} must be at least 1; got {getattr(space, name)}")
    if space.max_latency is not None and space.latency is None:
        raise ValueError("max_latency needs a table of latencies: latency=LatencyTable.read(path)")
