"""Operations of cells as Flax modules, with the arithmetic of `models/layers`.

Images are ``[n, height, width, channels]``. Parameters are float32; the compute dtype of a module is configurable.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32

from lanas_jax.models import layers
from lanas_jax.models.layers.conv import DepthwiseConv
from lanas_jax.models.layers.norm import Norm


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """Numerics of operations.

    Attributes:
      dtype: dtype of images and operands of convolutions.
      standardise: True to standardise the kernels of 1x1 convolutions.
    """

    dtype: DTypeLike
    standardise: bool


class Pointwise(nnx.Linear):
    """A 1x1 convolution without bias."""

    def __init__(self, inputs: int, channels: int, *, arithmetic: Arithmetic, rngs: nnx.Rngs):
        super().__init__(inputs, channels, use_bias=False, rngs=rngs)
        self.standardise = arithmetic.standardise

    def __call__(self, inputs: Float[Array, "n h w c"], out_sharding: Any = None) -> Float[Array, "n h w d"]:
        """Maps the channels; computes in the dtype of the input."""
        del out_sharding
        return layers.pointwise(inputs, self.matrix)

    @property
    def matrix(self) -> Float32[Array, "c d"]:
        """The kernel, standardised if the arithmetic says so."""
        kernel = jnp.asarray(self.kernel[...])
        return layers.standardise(kernel) if self.standardise else kernel


class SeparableConv(nnx.Module):
    """ReLU, depthwise convolution, 1x1 convolution and normalisation, twice; the first depthwise has the stride."""

    def __init__(self, channels: int, size: int, stride: int, *, arithmetic: Arithmetic, rngs: nnx.Rngs):
        self.depthwise = nnx.List(
            [DepthwiseConv(channels, size, s, dtype=arithmetic.dtype, rngs=rngs) for s in (stride, 1)]
        )
        self.pointwise = nnx.List([Pointwise(channels, channels, arithmetic=arithmetic, rngs=rngs) for _ in range(2)])
        self.norm = nnx.List([Norm(channels, rngs=rngs) for _ in range(2)])

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
        """Applies both halves."""
        for depthwise, pointwise, norm in zip(self.depthwise, self.pointwise, self.norm, strict=True):
            kernel = jnp.asarray(depthwise.kernel[:, :, 0])
            x = layers.separable(jax.nn.relu(x), kernel, pointwise.matrix, depthwise.stride)
            x = norm(x)
        return x


class Preprocess(nnx.Module):
    """ReLU, 1x1 convolution, normalisation."""

    def __init__(self, inputs: int, channels: int, *, arithmetic: Arithmetic, rngs: nnx.Rngs):
        self.pointwise = Pointwise(inputs, channels, arithmetic=arithmetic, rngs=rngs)
        self.norm = Norm(channels, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w d"]:
        """Maps the channels."""
        return self.norm(self.pointwise(jax.nn.relu(x)))


class FactorisedReduce(nnx.Module):
    """ReLU, two 1x1 convolutions of stride 2 on pixels of different parity, concatenation, normalisation."""

    def __init__(self, inputs: int, channels: int, *, arithmetic: Arithmetic, rngs: nnx.Rngs):
        self.even = Pointwise(inputs, channels // 2, arithmetic=arithmetic, rngs=rngs)
        self.odd = Pointwise(inputs, channels - channels // 2, arithmetic=arithmetic, rngs=rngs)
        self.norm = Norm(channels, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 d"]:
        """Halves the resolution."""
        kernel = jnp.concatenate([self.even.matrix, self.odd.matrix], axis=1)
        return self.norm(layers.factorised_reduce(jax.nn.relu(x), kernel))
