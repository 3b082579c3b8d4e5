"""Settings of a MobileNet space, its choices and the network of each code, without costs.

`mobilenet_costs.py` and `mobilenet_features.py` use these settings; `mobilenet.py` combines all of them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from lanas_jax.runtime.numbers import set_whole_numbers
from lanas_jax.spaces.base import Codes, SearchSpace
from lanas_jax.spaces.choices import Choice
from lanas_jax.spaces.inverted_residuals import Activation, Block, MobileNet, rounded
from lanas_jax.spaces.latency import LatencyTable

SQUEEZE = 4  # expanded channels per bottleneck channel of squeeze-and-excitation


@dataclasses.dataclass(frozen=True)
class MobileNetStage:
    """Settings common to all layers of a stage.

    Attributes:
      width: channels of the stage's output, before the multiplier.
      stride: stride of the stage's first layer.
      activation: activation of the stage's layers.
      squeezes: squeeze-and-excitation in the stage's layers.
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

    resolution: Int[Array | np.ndarray, " n"]  # index into the resolutions
    width: Int[Array | np.ndarray, " n"]  # index into the width multipliers
    depth: Int[Array | np.ndarray, "n stages"]  # index into the depths
    kernel: Int[Array | np.ndarray, "n stages layers"]  # index into the kernels
    expansion: Int[Array | np.ndarray, "n stages layers"]  # index into the expansions


@dataclasses.dataclass(frozen=True)
class MobileNetSettings(SearchSpace):
    """Networks of stages of inverted residuals, with the settings of `MobileNetSpace` and without costs.

    Args:
      **settings: values of all fields.

    Raises:
      ValueError: if the settings are invalid.
    """

    doubts_scales: ClassVar[bool] = False  # sizes of layers and networks order the values

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
        choices = [Choice("resolution", self.resolutions, ordered=True), Choice("width", self.widths, ordered=True)]
        for s in range(len(self.stages)):
            choices.append(Choice(f"stage {s} depth", self.depths, ordered=True))
            for i in range(self.layers):
                choices.append(Choice(f"stage {s} layer {i} kernel", self.kernels, ordered=True))
                choices.append(Choice(f"stage {s} layer {i} expansion", self.expansions, ordered=True))
        super().__init__(choices)

    @property
    def layers(self) -> int:
        """Number of layers of the deepest stage."""
        return self.depths[-1]

    @property
    def networks(self) -> int:
        """Exact number of different networks, ignoring limits."""
        layer = len(self.kernels) * len(self.expansions)
        stage = sum(layer**depth for depth in self.depths)
        return len(self.widths) * len(self.resolutions) * stage ** len(self.stages)

    def parts(self, codes: Codes) -> CodesByChoice:
        """Returns the integers of codes, grouped by choice; NumPy codes give NumPy arrays."""
        stages = codes[:, 2:].reshape(codes.shape[0], len(self.stages), 1 + 2 * self.layers)
        layers = stages[:, :, 1:].reshape(*stages.shape[:2], self.layers, 2)
        return CodesByChoice(codes[:, 0], codes[:, 1], stages[:, :, 0], layers[..., 0], layers[..., 1])

    def present(self, codes: Codes) -> Bool[Array | np.ndarray, "n stages layers"]:
        """Returns which layers are present; NumPy codes give a NumPy array."""
        table = np.arange(self.layers)[None] < np.array(self.depths)[:, None]
        depth = self.parts(codes).depth
        return table[depth] if isinstance(depth, np.ndarray) else jnp.asarray(table)[depth]

    def canonical(self, codes: Codes) -> Int[Array, "n dims"]:
        """Returns codes in which absent layers have the first kernel and the first expansion."""
        codes = jnp.asarray(codes, jnp.int32)
        return jnp.where(self._decides(codes), codes, 0)

    @property
    def limits(self) -> tuple[int | None, int | None, int | None]:
        """Hard limits on multiply-adds, parameters and nanoseconds; None for no limit."""
        return self.max_multiply_adds, self.max_parameters, self.max_latency

    def describe(self, code: Int[Array | np.ndarray, " dims"]) -> str:
        """Returns resolution and width as text, then one line per stage with the kernel and expansion of each layer."""
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
        """Returns the network of a code, layer by layer.

        Raises:
          ValueError: if the code is invalid.
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
        """Returns the block before the first stage, which depends only on the width multiplier."""
        channels = rounded(self.stem * width)
        return Block(channels, channels, channels)

    def block(self, width: float, stage: int, layer: int, kernel: int, expansion: int) -> Block:
        """Returns the block of a layer, counted from the first of its stage, for a width multiplier."""
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
        """Returns which choices affect the network, that is, do not belong to absent layers."""
        there = jnp.repeat(self.present(codes), 2, axis=2)
        there = jnp.pad(there, ((0, 0), (0, 0), (1, 0)), constant_values=True)
        return jnp.pad(jax.lax.collapse(there, 1), ((0, 0), (2, 0)), constant_values=True)


def check_settings(space: MobileNetSettings) -> None:
    """Checks the settings.

    Raises:
      ValueError: if a setting is invalid; names the setting.
    """
    if not space.stages:
        raise ValueError("stages must not be empty; give at least one stage")
    for name in ("depths", "kernels", "expansions", "widths", "resolutions"):
        options = getattr(space, name)
        if not options or options[0] <= 0 or list(options) != sorted(set(options)):
            raise ValueError(f"{name} must be one or more ascending numbers above 0; got {options}")
    set_whole_numbers(space, stem=1, last=1, hidden=1, stem_stride=1, image_channels=1, classes=1)
    for name in ("max_multiply_adds", "max_parameters"):
        if getattr(space, name) is not None:
            set_whole_numbers(space, **{name: 0})
    if space.max_latency is not None and space.latency is None:
        raise ValueError("max_latency needs a latency table; add latency=LatencyTable.read(path)")
