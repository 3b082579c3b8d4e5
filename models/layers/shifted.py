"""Windows of images as shifted copies, from which CPUs compute pools, depthwise convolutions and gradients of kernels.

XLA for CPUs vectorises sums and products of shifted images, but neither its grouped convolution nor the gradient of its
windowed maximum. The copies are in *lane layout*: the innermost axis holds the channels, or width and channels together
where there are few channels.
"""

from collections.abc import Iterable
from functools import reduce

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Num

Images = Num[Array, "n h w c"]

LANE = 16  # smallest number of channels for an efficient innermost loop


def lane(channels: int, width: int) -> int:
    """Returns the last axis of images in lane layout, which merges width and channels if there are few channels."""
    return channels if channels >= LANE else width * channels


def materialised(x: Array) -> Array:
    """Materialises an array: XLA for CPUs would recompute a sum over windows in each loop that reads it."""
    y: Array = lax.optimization_barrier(x)
    return y


def windows(x: Images, size: int, stride: int, fill: float = 0.0) -> list[Array]:
    """Returns the images shifted to each position of a window, row by row, in lane layout."""
    columns = phases(x, size, stride, fill)
    shape = output_size(x, stride)
    return [window for i in range(size) for window in window_row(columns, i, size, shape, x.shape[3])]


def phases(x: Images, size: int, stride: int, fill: float = 0.0) -> list[Array]:
    """Returns the padded images in lane layout, one array per column index modulo the stride."""
    pad = size // 2
    x = materialised(jnp.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)], constant_values=fill))
    columns = [x[:, :, i::stride] for i in range(stride)]
    return [y.reshape(*y.shape[:2], -1, lane(y.shape[3], y.shape[2])) for y in columns]


def window_row(columns: list[Array], row: int, size: int, shape: tuple[int, int], channels: int) -> list[Array]:
    """Returns the shifted images under one row of a window, from the `phases` of the images."""
    height, width = shape
    stride = len(columns)
    columns = [phase[:, row : row + stride * (height - 1) + 1 : stride] for phase in columns]
    places = [(columns[j % stride], j // stride) for j in range(size)]
    if channels >= LANE:
        return [phase[:, :, j : j + width] for phase, j in places]
    return [phase[:, :, :, j * channels : (j + width) * channels] for phase, j in places]


def output_size(x: Images, stride: int) -> tuple[int, int]:
    """Returns height and width of a convolution or pool of an odd window with symmetric padding."""
    return -(-x.shape[1] // stride), -(-x.shape[2] // stride)


def spread(y: Images, x: Num[Array, "m h2 w2 d"], stride: int) -> Num[Array, "n h2 w2 c"]:
    """Places the pixels of `y`, a result of stride `stride`, at their positions in `x`; zeros elsewhere."""
    if stride == 1:
        return y
    gaps = [(0, x.shape[axis] - 1 - stride * (y.shape[axis] - 1), stride - 1) for axis in (1, 2)]
    return lax.pad(y, jnp.zeros((), y.dtype), [(0, 0, 0), *gaps, (0, 0, 0)])


def total(terms: Iterable[Array]) -> Array:
    """Sums arrays, one after the other."""
    return reduce(jnp.add, terms)
