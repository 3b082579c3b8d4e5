"""Convolutions, pooling and the skip connection as Flax modules."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lanas_jax.models.layers import convolutions, pools


class Conv(nnx.Conv):
    """A convolution without bias, of odd size and symmetric padding.

    Args:
      inputs: number of input channels.
      channels: number of output channels.
      size: height and width of the kernel, odd.
      stride: stride in both directions.
      dtype: dtype of the convolution; the kernel is float32 and rounded to it.
      rngs: keys for the initial kernel, Flax's default: truncated normal with variance ``1 / fan_in``.
    """

    def __init__(self, inputs: int, channels: int, size: int, stride: int = 1, *, dtype: DTypeLike, rngs: nnx.Rngs):
        super().__init__(
            inputs, channels, (size, size), stride, padding=size // 2, use_bias=False, dtype=dtype, rngs=rngs
        )
        self.stride = stride

    def __call__(self, inputs: Float[Array, "n h w c"], out_sharding: Any = None) -> Float[Array, "n h2 w2 d"]:
        """Convolves the images."""
        del out_sharding
        return convolutions.convolution(inputs.astype(self.dtype), jnp.asarray(self.kernel[...]), self.stride)


class DepthwiseConv(nnx.Conv):
    """A depthwise convolution without bias; arguments as for `Conv`."""

    def __init__(self, channels: int, size: int, stride: int = 1, *, dtype: DTypeLike, rngs: nnx.Rngs):
        super().__init__(
            channels,
            channels,
            (size, size),
            stride,
            padding=size // 2,
            feature_group_count=channels,
            use_bias=False,
            dtype=dtype,
            rngs=rngs,
        )
        self.stride = stride

    def __call__(self, inputs: Float[Array, "n h w c"], out_sharding: Any = None) -> Float[Array, "n h2 w2 c"]:
        """Convolves the images."""
        del out_sharding
        return convolutions.depthwise(inputs.astype(self.dtype), jnp.asarray(self.kernel[:, :, 0]), self.stride)


class MaxPool(nnx.Module):
    """Max pooling over 3x3 pixels."""

    def __init__(self, stride: int = 1):
        self.stride = stride

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
        """Applies the pooling."""
        return pools.max_pool(x, self.stride)


class Identity(nnx.Module):
    """A skip connection of stride 1."""

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Returns the input."""
        return x
