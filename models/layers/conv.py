"""The convolutions of `models/layers/functions.py` as Flax modules."""

from typing import Any

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

from models.layers import functions


class Conv(nnx.Conv):
    """A convolution without bias, of odd size and symmetric padding.

    Args:
      inputs: channels.
      channels: of the output.
      size: height and width of the kernel.
      stride: in both directions.
      dtype: of what is convolved; the kernel is float32 and rounded to it.
      rngs: for the initial kernel, by Flax's default: truncated normal numbers of variance ``1 / fan_in``.
    """

    def __init__(self, inputs: int, channels: int, size: int, stride: int = 1, *, dtype: DTypeLike, rngs: nnx.Rngs):
        super().__init__(
            inputs,
            channels,
            (size, size),
            stride,
            padding=size // 2,
            use_bias=False,
            dtype=dtype,
            conv_general_dilated=_convolution,
            rngs=rngs,
        )


class DepthwiseConv(nnx.Conv):
    """A convolution of each channel with its own kernel; arguments as for `Conv`."""

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
            conv_general_dilated=_depthwise,
            rngs=rngs,
        )


def _convolution(x: Array, kernel: Array, strides: tuple[int, ...], *_: Any, **__: Any) -> Array:
    """Stands in for `lax.conv_general_dilated`."""
    return functions.convolution(x, kernel, strides[0])


def _depthwise(x: Array, kernel: Array, strides: tuple[int, ...], *_: Any, **__: Any) -> Array:
    """Stands in for `lax.conv_general_dilated`."""
    return functions.depthwise(x, kernel[:, :, 0], strides[0])
