"""Networks of inverted residual blocks as Flax modules: MobileNetV2, MobileNetV3, EfficientNet, and those of a space.

`lanas_jax/spaces/inverted_residuals.py` specifies a network; this file has its layers and parameters. The
gate of squeeze-and-excitation has a ReLU before the hard sigmoid of MobileNetV3 (arXiv 1905.02244), and a swish before
EfficientNet's sigmoid (arXiv 1905.11946). The default constants of batch normalisation are those of once-for-all (arXiv
1908.09791); the three papers average statistics over longer periods and add 1e-3 to variances (`PUBLISHED_NORM`).

A network may compute in bfloat16: images, activations between layers, and the operands of convolutions are rounded to
it. Parameters, statistics and all layers with one product per image (squeeze-and-excitation, hidden layer, classifier)
stay float32.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32

from lanas_jax.models import layers
from lanas_jax.models.functional import last_of_each_size
from lanas_jax.models.layers.conv import Conv, DepthwiseConv
from lanas_jax.models.layers.norm import NORM, Norm, NormConstants
from lanas_jax.spaces.inverted_residuals import Activation, Block, Gate, MobileNet

ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "hard_swish": jax.nn.hard_swish,
    "swish": jax.nn.swish,
}
GATES: dict[Gate, Callable[[Array], Array]] = {"hard_sigmoid": jax.nn.hard_sigmoid, "sigmoid": jax.nn.sigmoid}
PUBLISHED_NORM = NormConstants(momentum=0.99, epsilon=1e-3)  # of EfficientNet's code
BEFORE_GATES: dict[Gate, Activation] = {"hard_sigmoid": "relu", "sigmoid": "swish"}


class MobileNetNetwork(nnx.Module):
    """A whole network.

    Args:
      spec: specification of the network.
      dtype: dtype of activations and operands of convolutions; parameters are float32.
      norm: constants of batch normalisation.
      rngs: keys for Flax's default initial weights; `models/mobilenet/final.py` draws others.
    """

    def __init__(self, spec: MobileNet, *, dtype: DTypeLike, norm: NormConstants = NORM, rngs: nnx.Rngs):
        self.stem = stem(spec, dtype=dtype, norm=norm, rngs=rngs)
        self.blocks = nnx.List(
            [InvertedResidual(block, spec.gate, dtype=dtype, norm=norm, rngs=rngs) for block in spec.blocks]
        )
        self.head = Head(spec, dtype=dtype, norm=norm, rngs=rngs)

    def __call__(
        self,
        images: Float[Array, "n h w c"],
        paths: Float[Array, "blocks n"] | None = None,
        units: Float[Array, "n d"] | None = None,
    ) -> Float32[Array, "n classes"]:
        """Returns logits; normalises by batch statistics after `train()`, by running statistics after `eval()`.

        Args:
          images: batch of images of any size.
          paths: factors of the residual blocks, for drop-path.
          units: factors of the classifier's inputs, for dropout.
        """
        return self.head(self._outputs(images, paths)[-1], units)

    def features(self, images: Float[Array, "n h w c"]) -> tuple[Float[Array, "n h2 w2 d"], ...]:
        """Returns the output of the last block of each resolution."""
        return last_of_each_size(self._outputs(images, None))

    def _outputs(self, images: Array, paths: Array | None) -> list[Array]:
        """Returns the outputs of the stem and of all blocks."""
        outputs = [self.stem(images)]
        for i, block in enumerate(self.blocks):
            outputs.append(block(outputs[-1], None if paths is None else paths[i]))
        return outputs


class Normalised(nnx.Module):
    """A convolution, batch normalisation, and an optional activation."""

    def __init__(
        self, convolution: Conv | DepthwiseConv, activation: Activation | None, norm: NormConstants, *, rngs: nnx.Rngs
    ):
        self.convolution = convolution
        self.norm = Norm(convolution.out_features, norm, rngs=rngs)
        self.activation = activation

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 d"]:
        """Applies the layers; the output has the compute dtype of the convolution."""
        x = self.norm(self.convolution(x))
        return x if self.activation is None else ACTIVATIONS[self.activation](x)


class SqueezeExcitation(nnx.Module):
    """Squeeze-and-excitation: scales channels by a small network of their means (arXiv 1709.01507)."""

    def __init__(self, channels: int, squeezed: int, gate: Gate, *, rngs: nnx.Rngs):
        self.squeeze = nnx.Linear(channels, squeezed, rngs=rngs)
        self.excite = nnx.Linear(squeezed, channels, rngs=rngs)
        self.gate = gate

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Scales the channels of each image."""
        squeezed = self.squeeze(jnp.mean(x.astype(jnp.float32), axis=(1, 2)))
        weights = GATES[self.gate](self.excite(ACTIVATIONS[BEFORE_GATES[self.gate]](squeezed)))
        return x * weights[:, None, None].astype(x.dtype)


class InvertedResidual(nnx.Module):
    """An inverted residual block; `gate` is the gate of its squeeze-and-excitation."""

    def __init__(self, block: Block, gate: Gate, *, dtype: DTypeLike, norm: NormConstants = NORM, rngs: nnx.Rngs):
        expansion = Conv(block.inputs, block.expanded, 1, dtype=dtype, rngs=rngs) if block.expands else None
        depthwise = DepthwiseConv(block.expanded, block.kernel, block.stride, dtype=dtype, rngs=rngs)
        projection = Conv(block.expanded, block.outputs, 1, dtype=dtype, rngs=rngs)
        self.expansion = None if expansion is None else Normalised(expansion, block.activation, norm, rngs=rngs)
        self.depthwise = Normalised(depthwise, block.activation, norm, rngs=rngs)
        self.excitation = SqueezeExcitation(block.expanded, block.squeezed, gate, rngs=rngs) if block.squeezed else None
        self.projection = Normalised(projection, None, norm, rngs=rngs)
        self.shortcut = (
            Conv(block.inputs, block.outputs, 1, dtype=dtype, rngs=rngs) if block.projects_shortcut else None
        )
        self.residual, self.connected, self.stride = block.residual, block.connected, block.stride

    def __call__(self, x: Float[Array, "n h w c"], scales: Float[Array, " n"] | None = None) -> Array:
        """Runs the block; `scales` multiply the residual of each image before the input itself is added."""
        y = x if self.expansion is None else self.expansion(x)
        y = self.depthwise(y)
        y = y if self.excitation is None else self.excitation(y)
        y = self.projection(y)
        if self.residual:
            return x + (y if scales is None else layers.scale_images(y, scales))
        if not self.connected:
            return y
        x = averaged(x, self.stride)
        return y + (x if self.shortcut is None else self.shortcut(x))


class Head(nnx.Module):
    """The layers after the blocks of a network."""

    def __init__(self, spec: MobileNet, *, dtype: DTypeLike, norm: NormConstants = NORM, rngs: nnx.Rngs):
        inputs = spec.blocks[-1].outputs if spec.blocks else spec.stem
        last = Conv(inputs, spec.last, 1, dtype=dtype, rngs=rngs)
        self.last = Normalised(last, spec.activation, norm, rngs=rngs)
        self.hidden = nnx.Linear(spec.last, spec.hidden, use_bias=spec.hidden_bias, rngs=rngs) if spec.hidden else None
        self.classifier = nnx.Linear(spec.hidden or spec.last, spec.classes, rngs=rngs)
        self.activation = spec.activation

    def __call__(
        self, x: Float[Array, "n h w c"], units: Float[Array, "n d"] | None = None
    ) -> Float32[Array, "n classes"]:
        """Returns logits; `units` multiply the inputs of the classifier."""
        features = jnp.mean(self.last(x).astype(jnp.float32), axis=(1, 2))
        if self.hidden is not None:
            features = ACTIVATIONS[self.activation](self.hidden(features))
        return self.classifier(features if units is None else features * units)


def averaged(x: Float[Array, "n h w c"], stride: int) -> Float[Array, "n h2 w2 c"]:
    """Returns means of `stride` by `stride` pixels; odd sizes are padded by zeros, before the first pixels."""
    if stride == 1:
        return x
    padded = jnp.pad(x, ((0, 0), *((-size % stride, 0) for size in x.shape[1:3]), (0, 0)))
    n, h, w, c = padded.shape
    return padded.reshape(n, h // stride, stride, w // stride, stride, c).mean(axis=(2, 4))


def stem(spec: MobileNet, *, dtype: DTypeLike, norm: NormConstants = NORM, rngs: nnx.Rngs) -> Normalised:
    """Returns the first convolution of a network."""
    first = Conv(spec.image_channels, spec.stem, 3, spec.stem_stride, dtype=dtype, rngs=rngs)
    return Normalised(first, spec.activation, norm, rngs=rngs)
