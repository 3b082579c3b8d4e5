"""Networks of inverted residual blocks: their layers and costs.

MobileNetV2 (arXiv 1801.04381) expands the channels by a 1x1 convolution, applies a depthwise convolution and projects
the channels down again. MobileNetV3 (arXiv 1905.02244) and EfficientNet (arXiv 1905.11946) also weigh the expanded
channels by squeeze-and-excitation. AttentiveNAS (arXiv 2011.09011) has a shortcut around every block. This file
describes such networks as lists of blocks, and defines the three published ones. `mobilenet.py` and `attentive.py` map
codes to networks; `models/mobilenet/network.py` builds them.

Multiply-adds are those of convolutions and dense layers, including squeeze-and-excitation. Normalisation, activations
and sums are not counted, as in the papers.
"""

import dataclasses
from typing import Literal, NamedTuple

Activation = Literal["relu", "relu6", "hard_swish", "swish"]
Gate = Literal["hard_sigmoid", "sigmoid"]


class LayerCost(NamedTuple):
    """Cost of one or more layers: exact integers."""

    multiply_adds: int
    parameters: int


@dataclasses.dataclass(frozen=True)
class Block:
    """An inverted residual: expansion, depthwise convolution, squeeze-and-excitation, projection.

    The input is added to the output if stride and channels allow it. Every convolution is followed by batch
    normalisation and, except for the projection, by the activation.

    A connected block adds its input anyway: averaged over `stride` by `stride` pixels, and if the channels differ
    projected by a 1x1 convolution without normalisation (AttentiveNAS, `DynamicShortcutLayer` of its code).

    Args:
      inputs: channels of the input.
      expanded: channels after expansion; if equal to `inputs`, there is no expanding convolution.
      outputs: channels of the output.
      kernel: side of the depthwise kernel.
      stride: stride of the depthwise convolution.
      activation: activation after the first two convolutions.
      squeezed: channels of the squeeze-and-excitation bottleneck; 0 for none.
      connected: True for a shortcut also where stride or channels do not allow the identity.

    Raises:
      ValueError: if a size is below one, or the kernel is even.
    """

    inputs: int
    expanded: int
    outputs: int
    kernel: int = 3
    stride: int = 1
    activation: Activation = "relu"
    squeezed: int = 0
    connected: bool = False

    def __post_init__(self) -> None:
        for name in ("inputs", "expanded", "outputs", "kernel", "stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd; got {self.kernel}")

    @property
    def expands(self) -> bool:
        """True if there is an expanding convolution."""
        return self.expanded != self.inputs

    @property
    def residual(self) -> bool:
        """True if the input itself is added to the output."""
        return self.stride == 1 and self.inputs == self.outputs

    @property
    def projects_shortcut(self) -> bool:
        """True if the shortcut has a convolution."""
        return self.connected and self.inputs != self.outputs

    def cost(self, size: int) -> LayerCost:
        """Returns the cost on an input of `size` by `size` pixels."""
        pixels, after = size**2, halved(size, self.stride) ** 2
        expansion = self.inputs * self.expanded if self.expands else 0
        depthwise = self.kernel**2 * self.expanded
        squeeze = 2 * self.expanded * self.squeezed
        projection = self.expanded * self.outputs
        shortcut = self.inputs * self.outputs if self.projects_shortcut else 0
        multiply_adds = expansion * pixels + (depthwise + projection + shortcut) * after + squeeze
        normalised = (2 if self.expands else 1) * self.expanded + self.outputs
        biases = self.squeezed + self.expanded if self.squeezed else 0
        weights = expansion + depthwise + squeeze + projection + shortcut
        return LayerCost(multiply_adds, weights + 2 * normalised + biases)


@dataclasses.dataclass(frozen=True)
class MobileNet:
    """A network: stem, blocks, a 1x1 convolution, the mean over pixels, an optional dense layer, and the classifier.

    Args:
      blocks: blocks in order; each reads the output of the previous one.
      stem: channels of the 3x3 convolution that reads the images.
      last: channels of the 1x1 convolution after the blocks.
      hidden: channels of a dense layer between mean and classifier; 0 for none.
      activation: activation after stem, last convolution and hidden layer.
      gate: gate function of squeeze-and-excitation.
      hidden_bias: bias in the hidden layer.
      stem_stride: stride of the stem.
      resolution: height and width of the images, in pixels.
      image_channels: number of image channels.
      classes: number of classes.

    Raises:
      ValueError: if a size is below one, or the channels of consecutive blocks do not match.
    """

    blocks: tuple[Block, ...]
    stem: int
    last: int
    hidden: int = 0
    activation: Activation = "hard_swish"
    gate: Gate = "hard_sigmoid"
    hidden_bias: bool = True
    stem_stride: int = 2
    resolution: int = 224
    image_channels: int = 3
    classes: int = 1000

    def __post_init__(self) -> None:
        for name in ("stem", "last", "stem_stride", "resolution", "image_channels", "classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        channels = self.stem
        for i, block in enumerate(self.blocks):
            if block.inputs != channels:
                raise ValueError(f"block {i} expects {block.inputs} input channels; the layer before has {channels}")
            channels = block.outputs

    @property
    def sizes(self) -> tuple[int, ...]:
        """Height and width of each block's input, then of the last block's output, in pixels."""
        sizes = [halved(self.resolution, self.stem_stride)]
        for block in self.blocks:
            sizes.append(halved(sizes[-1], block.stride))
        return tuple(sizes)

    @property
    def cost(self) -> LayerCost:
        """Multiply-adds of one image's forward pass, and trainable parameters."""
        layers = [block.cost(size) for block, size in zip(self.blocks, self.sizes, strict=False)]
        layers.append(stem_cost(self.image_channels, self.stem, self.sizes[0]))
        layers.append(head_cost(self, self.blocks[-1].outputs if self.blocks else self.stem, self.sizes[-1]))
        return LayerCost(*map(sum, zip(*layers, strict=True)))


def stem_cost(image_channels: int, channels: int, size: int) -> LayerCost:
    """Returns the cost of a 3x3 convolution with normalisation whose output has `size` by `size` pixels."""
    weights = 9 * image_channels * channels
    return LayerCost(weights * size**2, weights + 2 * channels)


def head_cost(network: MobileNet, inputs: int, size: int) -> LayerCost:
    """Returns the cost of all layers after the blocks; their input has `inputs` channels of `size` by `size` pixels."""
    last, hidden = inputs * network.last, network.last * network.hidden
    dense = hidden + (network.hidden or network.last) * network.classes
    biases = network.classes + (network.hidden if network.hidden_bias else 0)
    return LayerCost(last * size**2 + dense, last + 2 * network.last + dense + biases)


def halved(size: int, stride: int) -> int:
    """Returns the output size of a convolution with the given stride, padded by half its kernel."""
    return -(-size // stride)


def rounded(channels: float, divisor: int = 8) -> int:
    """Rounds to the nearest multiple of `divisor` that is at least `divisor` and at least 0.9 `channels`.

    MobileNets scale their widths this way; halves are rounded up.
    """
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest


def mobilenet_v2(classes: int = 1000, resolution: int = 224) -> MobileNet:
    """Returns MobileNetV2 1.0, table 2 of arXiv 1801.04381."""
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    blocks, channels = [], 32
    for expansion, outputs, repeats, stride in stages:
        for i in range(repeats):
            blocks.append(Block(channels, expansion * channels, outputs, 3, 1 if i else stride, "relu6"))
            channels = outputs
    return MobileNet(tuple(blocks), 32, 1280, activation="relu6", classes=classes, resolution=resolution)


def mobilenet_v3_large(classes: int = 1000, resolution: int = 224) -> MobileNet:
    """Returns MobileNetV3-Large 1.0, table 1 of arXiv 1905.02244."""
    rows: list[tuple[int, int, int, bool, Activation, int]] = [
        (3, 16, 16, False, "relu", 1),
        (3, 64, 24, False, "relu", 2),
        (3, 72, 24, False, "relu", 1),
        (5, 72, 40, True, "relu", 2),
        (5, 120, 40, True, "relu", 1),
        (5, 120, 40, True, "relu", 1),
        (3, 240, 80, False, "hard_swish", 2),
        (3, 200, 80, False, "hard_swish", 1),
        (3, 184, 80, False, "hard_swish", 1),
        (3, 184, 80, False, "hard_swish", 1),
        (3, 480, 112, True, "hard_swish", 1),
        (3, 672, 112, True, "hard_swish", 1),
        (5, 672, 160, True, "hard_swish", 2),
        (5, 960, 160, True, "hard_swish", 1),
        (5, 960, 160, True, "hard_swish", 1),
    ]
    blocks, channels = [], 16
    for kernel, expanded, outputs, squeezes, activation, stride in rows:
        squeezed = rounded(expanded / 4) if squeezes else 0
        blocks.append(Block(channels, expanded, outputs, kernel, stride, activation, squeezed))
        channels = outputs
    return MobileNet(tuple(blocks), 16, 960, 1280, classes=classes, resolution=resolution)


def efficientnet_b0(classes: int = 1000, resolution: int = 224) -> MobileNet:
    """Returns EfficientNet-B0, table 1 of arXiv 1905.11946; it squeezes to a quarter of a block's input channels."""
    stages = [
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 40, 2, 2, 5),
        (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    ]
    blocks, channels = [], 32
    for expansion, outputs, repeats, stride, kernel in stages:
        for i in range(repeats):
            first = 1 if i else stride
            blocks.append(Block(channels, expansion * channels, outputs, kernel, first, "swish", channels // 4))
            channels = outputs
    return MobileNet(
        tuple(blocks), 32, 1280, activation="swish", gate="sigmoid", classes=classes, resolution=resolution
    )


PUBLISHED = {
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3_large": mobilenet_v3_large,
    "efficientnet_b0": efficientnet_b0,
}
