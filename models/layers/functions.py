"""Operations of cells as pure functions of arrays, shared by both forms of a candidate: code as data, and Flax module.

Images are ``[n, height, width, channels]``. Padding is symmetric (``kernel // 2``), as in the networks of DARTS.
"""

import math
from collections.abc import Iterable
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, PRNGKeyArray

MOMENTUM = 0.9  # momentum of running batch statistics
EPSILON = 1e-5  # added to variances
LANE = 16  # smallest number of channels for an efficient innermost loop
FEW = 8  # images of which a core's cache holds several shifted copies
CACHED = 1 << 18  # array size of which a core's cache holds several copies
DEVIATION_EPSILON = 1e-5  # added to standard deviations in weight standardisation

Images = Float[Array, "n h w c"]
Channels = Float[Array, " c"]


def check_compute_dtype(dtype: DTypeLike) -> None:
    """Checks that a compute dtype is supported.

    Raises:
      ValueError: the dtype is neither float32 nor bfloat16.
    """
    if jnp.dtype(dtype) not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"compute_dtype must be float32 or bfloat16; got {jnp.dtype(dtype)}")


def convolution(x: Images, kernel: Float[Array, "k k c d"], stride: int = 1) -> Float[Array, "n h2 w2 d"]:
    """Convolves images with a kernel rounded to the dtype of the images."""
    kernel = kernel.astype(x.dtype)
    return pointwise(x, kernel[0, 0]) if kernel.shape[0] == stride == 1 else _convolution(x, kernel, stride)


def pointwise(x: Images, kernel: Float[Array, "c d"]) -> Float[Array, "n h w d"]:
    """A 1x1 convolution as a product of two matrices; with more dimensions, its gradient is much slower on a CPU."""
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


def _xla_convolution(x: Images, kernel: Float[Array, "k k c d"], stride: int) -> Float[Array, "n h2 w2 d"]:
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [(pad, pad), (pad, pad)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolution(x: Images, kernel: Float[Array, "k k c d"], stride: int) -> Float[Array, "n h2 w2 d"]:
    return _xla_convolution(x, kernel, stride)


def _convolution_forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return _convolution(x, kernel, stride), (x, kernel)


def _convolution_backward(stride: int, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    """On CPUs, uses a gradient that is tens of times faster than XLA's inside loops and conditionals."""
    return lax.platform_dependent(
        *saved, dy, cpu=partial(_product_gradient, stride=stride), default=partial(_xla_gradient, stride=stride)
    )


def _product_gradient(x: Array, kernel: Array, dy: Array, stride: int) -> tuple[Array, Array]:
    """Computes the gradient by a forward convolution and a matrix product with the pixels under the kernel."""
    dx = _xla_convolution(_spread(dy, x, stride), kernel[::-1, ::-1].swapaxes(2, 3), 1)
    windows = [window.reshape(-1, x.shape[3]) for window in _windows(x, kernel.shape[0], stride)]
    dkernel = jnp.concatenate(windows, axis=1).T @ dy.reshape(-1, dy.shape[3])
    return dx, dkernel.reshape(kernel.shape)


def _xla_gradient(x: Array, kernel: Array, dy: Array, stride: int) -> tuple[Array, Array]:
    return jax.vjp(partial(_xla_convolution, stride=stride), x, kernel)[1](dy)


_convolution.defvjp(_convolution_forward, _convolution_backward)


def depthwise(x: Images, kernel: Float[Array, "k k c"], stride: int = 1) -> Float[Array, "n h2 w2 c"]:
    """Convolves each channel with its own kernel.

    On CPUs, this uses shifted multiply-adds, which are tens of times faster than XLA's grouped convolution.
    """
    return lax.platform_dependent(
        x, kernel, cpu=partial(_shifted_depthwise, stride=stride), default=partial(_grouped_depthwise, stride=stride)
    )


def _grouped_depthwise(x: Images, kernel: Float[Array, "k k c"], stride: int) -> Float[Array, "n h2 w2 c"]:
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (stride, stride),
        [(pad, pad), (pad, pad)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _shifted_depthwise(x: Images, kernel: Float[Array, "k k c"], stride: int) -> Float[Array, "n h2 w2 c"]:
    size = kernel.shape[0]
    windows = _windows(x, size, stride)
    taps = jnp.tile(kernel.reshape(size * size, -1), (1, windows[0].shape[3] // x.shape[3]))
    y = _sum(window * tap[None, None, None] for window, tap in zip(windows, taps, strict=True))
    return _materialised(y.reshape(x.shape[0], *_output_size(x, stride), x.shape[3]))


def _shifted_depthwise_forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return _shifted_depthwise(x, kernel, stride), (x, kernel)


def _shifted_depthwise_backward(stride: int, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    dx = _shifted_depthwise(_spread(dy, x, stride), kernel[::-1, ::-1], 1)
    return dx, _kernel_gradient(x, dy, kernel.shape[0], stride)


_shifted_depthwise.defvjp(_shifted_depthwise_forward, _shifted_depthwise_backward)


def _kernel_gradient(x: Images, dy: Float[Array, "n h2 w2 c"], size: int, stride: int) -> Float[Array, "k k c"]:
    """Sums products of shifted images; splits large batches into a few images at a time, which fit a core's cache."""
    if dy.size <= CACHED:
        return _kernel_gradient_at_once(x, dy, size, stride)
    few = math.gcd(len(x), FEW)

    def add(i: Array, total: Array) -> Array:
        some_x, some_dy = (lax.dynamic_slice_in_dim(images, few * i, few) for images in (x, dy))
        return total + _kernel_gradient_at_once(some_x, some_dy, size, stride)

    return lax.fori_loop(0, len(x) // few, add, jnp.zeros((size, size, x.shape[3]), dy.dtype))


def _kernel_gradient_at_once(x: Images, dy: Float[Array, "n h2 w2 c"], size: int, stride: int) -> Float[Array, "k k c"]:
    """Computes the gradient row by row of the kernel.

    XLA for CPUs vectorises products, and sums of arrays in memory, but not sums of products. So products are first
    added across an eighth of the batch, then materialised in memory, then summed by a matrix product.
    """
    n, height, width, channels = dy.shape
    phases, folds = _phases(x, size, stride), math.gcd(n, FEW)
    parts = jnp.split(_materialised(dy.reshape(n, height, -1, _lane(channels, width))), folds)
    rows = []
    for i in range(size):
        windows = _window_row(phases, i, size, (height, width), channels)
        products = [_sum(a * b for a, b in zip(jnp.split(x, folds), parts, strict=True)) for x in windows]
        stacked = _materialised(jnp.stack(products)).reshape(size, -1, channels)
        rows.append((jnp.ones((size, 1, stacked.shape[1]), stacked.dtype) @ stacked)[:, 0])
    return jnp.stack(rows)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: Images, stride: int = 1) -> Float[Array, "n h2 w2 c"]:
    """Maximum over windows of 3x3 pixels.

    The gradient goes to the first pixel, row by row, that attains the maximum, as in XLA and PyTorch.
    Computed as maxima of shifted images, whose gradient is cheap on a CPU, unlike that of XLA's windowed maximum.
    """
    maximum = reduce(jnp.maximum, _windows(x, 3, stride, fill=-jnp.inf))
    return _materialised(maximum.reshape(x.shape[0], *_output_size(x, stride), x.shape[3]))


def _max_pool_forward(x: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    """Also returns the position of each maximum in its window, and an array with the height and width of the images.

    Positions are found by comparing the pixels of a window with one another. XLA may compute the images again in the
    gradient's loops, with other roundings, so a comparison with the maxima could find no pixel that attains one.
    """
    windows = _windows(x, 3, stride, fill=-jnp.inf)
    highest, place = windows[0], jnp.zeros(windows[0].shape, jnp.int32)
    for i, window in enumerate(windows[1:], start=1):
        place = jnp.where(window > highest, i, place)
        highest = jnp.maximum(highest, window)
    y = max_pool(x, stride)
    return y, (_materialised(place.reshape(y.shape)), x[:0])


def _max_pool_backward(stride: int, saved: tuple[Array, Array], dy: Array) -> tuple[Array]:
    place, shape = saved
    places, parts = (_windows(_spread(y, shape, stride), 3, 1) for y in (place, dy))
    # A pixel sees the window around the pixel at offset i from it at the opposite offset.
    pairs = zip(reversed(range(len(places))), places, parts, strict=True)
    dx = _sum(jnp.where(place == opposite, part, 0) for opposite, place, part in pairs)
    return (_materialised(dx).reshape(dy.shape[0], *shape.shape[1:]),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


@jax.custom_vjp
def average_pool(x: Images) -> Images:
    """Average over 3x3 pixels; pixels beyond the edge are not counted.

    The sum over a window is its own transpose. A custom gradient uses this, so it is as cheap on a CPU as the sum.
    """
    return (_window_sum(x.astype(jnp.float32)) / _pixels_in_window(x)).astype(x.dtype)


def _average_pool_forward(x: Images) -> tuple[Images, None]:
    return average_pool(x), None


def _average_pool_backward(_: None, dy: Images) -> tuple[Images]:
    return (_window_sum(dy.astype(jnp.float32) / _pixels_in_window(dy)).astype(dy.dtype),)


average_pool.defvjp(_average_pool_forward, _average_pool_backward)


def average_of_four(x: Images) -> Float[Array, "n h2 w2 c"]:
    """Halves the resolution by averages over 2x2 pixels. Height and width must be even."""
    n, height, width, channels = x.shape
    quads = x.reshape(n, height // 2, 2, width // 2, 2, channels)
    return jnp.mean(quads, axis=(2, 4), dtype=jnp.float32).astype(x.dtype)


def average_pool_within(x: Float32[Array, "n h w c"], size: int, stride: int) -> Float32[Array, "n h2 w2 c"]:
    """Average over the windows that lie entirely within the images."""
    total = lax.reduce_window(x, 0.0, lax.add, (1, size, size, 1), (1, stride, stride, 1), "VALID")
    return total / size**2


def alternate_pixels(x: Images) -> tuple[Float[Array, "n h2 w2 c"], Float[Array, "n h2 w2 c"]]:
    """Returns the pixels at ``(2 i, 2 j)`` and those at ``(2 i + 1, 2 j + 1)``, zero beyond the edge."""
    n, height, width, channels = x.shape
    x = jnp.pad(x, [(0, 0), (0, height % 2), (0, width % 2), (0, 0)])
    x = x.reshape(n, -(-height // 2), 2, -(-width // 2), 2, channels)
    return x[:, :, 0, :, 0], x[:, :, 1, :, 1]


def factorised_reduce(x: Images, kernel: Float[Array, "c d"]) -> Float[Array, "n h2 w2 d"]:
    """Halves the resolution by two 1x1 convolutions of stride 2, one on each of the `alternate_pixels`."""
    half = kernel.shape[1] // 2
    even, odd = alternate_pixels(x)
    return jnp.concatenate([pointwise(even, kernel[:, :half]), pointwise(odd, kernel[:, half:])], axis=-1)


def standardise(kernel: Float[Array, "c d"], used: Bool[Array, " c"] | None = None) -> Float[Array, "c d"]:
    """Weight standardisation (arXiv 1903.10520) of a 1x1 convolution: ``(w - mean) / (deviation + 1e-5)``.

    Mean and deviation are taken over the weights of each output channel. The deviation is the sample deviation, divided
    by the number of weights minus one, as in PyTorch's `std` and the authors' published code; the paper divides by the
    number of weights. A channel of equal weights becomes zero; its deviation, which has no derivative, gets gradient
    zero.

    Args:
      kernel: weights, float32, so that they are not rounded before standardisation.
      used: mask of the input channels in use; other channels are ignored and zero in the result.
    """
    used = jnp.ones(kernel.shape[0], bool) if used is None else used
    count = jnp.sum(used, dtype=kernel.dtype)
    mean = jnp.sum(jnp.where(used[:, None], kernel, 0), axis=0, keepdims=True) / count
    centred = jnp.where(used[:, None], kernel - mean, 0)
    variance = jnp.sum(jnp.square(centred), axis=0, keepdims=True) / jnp.maximum(count - 1, 1)
    return centred / (jnp.sqrt(jnp.where(variance > 0, variance, 1)) + DEVIATION_EPSILON)


def path_scales(key: PRNGKeyArray, probability: Float[Array, "..."], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Draws drop-path factors (arXiv 1605.07648): 0 with `probability`, otherwise ``1 / (1 - probability)``.

    Args:
      key: PRNG key; consumed.
      probability: drop probabilities in [0, 1), broadcast to `shape`.
      shape: shape of the factors.
    """
    kept = jax.random.bernoulli(key, 1 - probability, shape)
    return jnp.where(kept, 1 / (1 - probability), 0)


def scale_images(x: Images, scales: Float[Array, " n"]) -> Images:
    """Multiplies each image by a number; rounds once, to the dtype of the images."""
    return (x.astype(jnp.float32) * scales[:, None, None, None]).astype(x.dtype)


def resized(images: Images, size: int) -> Float[Array, "n size size c"]:
    """Resizes images to ``size x size`` pixels, bilinear with antialiasing; images of that size are unchanged."""
    if images.shape[1:3] == (size, size):
        return images
    return jax.image.resize(images, (images.shape[0], size, size, images.shape[3]), "bilinear")


def batch_norm(
    x: Images, scale: Channels, bias: Channels, mean: Channels, variance: Channels, *, train: bool
) -> tuple[Images, Channels, Channels]:
    """Normalises each channel: by the statistics of the batch in training, otherwise by running statistics.

    Statistics and arithmetic are float32 for any image dtype; bfloat16 would not resolve the updates of a running mean.

    Returns:
      The normalised images, and the updated running mean and variance.
    """
    dtype, x = x.dtype, x.astype(jnp.float32)
    if not train:
        factor = scale * lax.rsqrt(variance + EPSILON)
        y = x * factor[None, None, None] + (bias - mean * factor)[None, None, None]
        return y.astype(dtype), mean, variance
    batch_mean = jnp.mean(x, axis=(0, 1, 2))
    batch_variance = jnp.maximum(jnp.mean(jnp.square(x), axis=(0, 1, 2)) - jnp.square(batch_mean), 0.0)
    factor = scale * lax.rsqrt(batch_variance + EPSILON)
    y = x * factor[None, None, None] + (bias - batch_mean * factor)[None, None, None]
    mean = MOMENTUM * mean + (1 - MOMENTUM) * lax.stop_gradient(batch_mean)
    variance = MOMENTUM * variance + (1 - MOMENTUM) * lax.stop_gradient(batch_variance)
    return y.astype(dtype), mean, variance


def _lane(channels: int, width: int) -> int:
    """Returns the last axis of images in lane layout, which merges width and channels if there are few channels."""
    return channels if channels >= LANE else width * channels


def _materialised(x: Array) -> Array:
    """Materialises an array: XLA for CPUs would recompute a sum over windows in each loop that reads it."""
    return lax.platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)


def _windows(x: Images, size: int, stride: int, fill: float = 0.0) -> list[Array]:
    """Returns the images shifted to each position of a window, row by row, in lane layout."""
    phases = _phases(x, size, stride, fill)
    shape = _output_size(x, stride)
    return [window for i in range(size) for window in _window_row(phases, i, size, shape, x.shape[3])]


def _phases(x: Images, size: int, stride: int, fill: float = 0.0) -> list[Array]:
    """Returns the padded images in lane layout, one array per column index modulo the stride."""
    pad = size // 2
    x = _materialised(jnp.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)], constant_values=fill))
    phases = [x[:, :, i::stride] for i in range(stride)]
    return [y.reshape(*y.shape[:2], -1, _lane(y.shape[3], y.shape[2])) for y in phases]


def _window_row(phases: list[Array], row: int, size: int, shape: tuple[int, int], channels: int) -> list[Array]:
    """Returns the shifted images under one row of a window."""
    height, width = shape
    stride = len(phases)
    phases = [phase[:, row : row + stride * (height - 1) + 1 : stride] for phase in phases]
    places = [(phases[j % stride], j // stride) for j in range(size)]
    if channels >= LANE:
        return [phase[:, :, j : j + width] for phase, j in places]
    return [phase[:, :, :, j * channels : (j + width) * channels] for phase, j in places]


def _window_sum(x: Images) -> Images:
    """Sums over 3x3 pixels."""
    return _sum(_windows(x, 3, 1)).reshape(x.shape)


def _pixels_in_window(x: Images) -> Float[np.ndarray, "1 h w 1"]:
    """Counts the pixels of each 3x3 window that lie within the image."""
    places = [np.arange(size) for size in x.shape[1:3]]
    rows, columns = (np.minimum(i + 1, len(i) - 1) - np.maximum(i - 1, 0) + 1 for i in places)
    return np.outer(rows, columns).astype(np.float32)[None, :, :, None]


def _output_size(x: Images, stride: int) -> tuple[int, int]:
    return -(-x.shape[1] // stride), -(-x.shape[2] // stride)


def _spread(y: Images, x: Float[Array, "n h2 w2 d"], stride: int) -> Float[Array, "n h2 w2 c"]:
    """Places the pixels of `y`, a result of stride `stride`, at their positions in `x`; zeros elsewhere."""
    if stride == 1:
        return y
    spread = [(0, x.shape[axis] - 1 - stride * (y.shape[axis] - 1), stride - 1) for axis in (1, 2)]
    return lax.pad(y, jnp.zeros((), y.dtype), [(0, 0, 0), *spread, (0, 0, 0)])


def _sum(terms: Iterable[Array]) -> Array:
    return reduce(jnp.add, terms)
