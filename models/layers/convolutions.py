"""Convolutions of images in the forms that are fast on each platform, with kernels and their gradients in float32.

Kernels are rounded to the dtype of the images. Their gradients are sums over all images and pixels of products in that
dtype, accumulated in float32 and never rounded. So is their sum over devices, which XLA inserts if the images are
sharded.

A separable convolution, a depthwise one followed by a 1x1 convolution with nothing between them, has three forms:

- *shifted*: multiply-adds of shifted images and a matrix product. CPUs use this form.
- *dense*: one convolution by the product of the two kernels, ``depthwise[i, j, c] * pointwise[c, d]``. It takes c times
  as many multiply-adds, but on matrix units instead of vector units. Accelerators use this form for few channels.
- *grouped*: XLA's grouped convolution and a matrix product. Accelerators use this form for many channels.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lanas_jax.models.layers.platforms import by_platform
from lanas_jax.models.layers.shifted import (
    Images,
    lane,
    materialised,
    output_size,
    phases,
    spread,
    total,
    window_row,
    windows,
)

# Largest number of channels whose separable convolutions are dense on accelerators: one tile of a TPU's matrix unit.
# XLA's estimates for a TPU v5e in ms, dense / grouped, for half a branch (ReLU, separable convolution, normalisation),
# forward and backward, 16x16 pixels, batch 128, bfloat16 (jax 0.10.2, libtpu 0.0.52, 28 November 2026):
#   64 channels: 3x3 0.099 / 0.154, 5x5 0.192 / 0.332;  96: 0.194 / 0.176, 0.305 / 0.354
#   128 channels: 0.230 / 0.278, 0.475 / 0.477;  192: 0.524 / 0.345, 1.226 / 0.703
# GPUs were not measured.
DENSE_CHANNELS = 128
FEW = 8  # images of which a core's cache holds several shifted copies
CACHED = 1 << 18  # array size of which a core's cache holds several copies

Kernel = Float[Array, "k k c d"]
DepthwiseKernel = Float[Array, "k k c"]
PointwiseKernel = Float[Array, "c d"]


def convolution(x: Images, kernel: Kernel, stride: int = 1) -> Float[Array, "n h2 w2 d"]:
    """Convolves images with a kernel rounded to the dtype of the images."""
    return pointwise(x, kernel[0, 0]) if kernel.shape[0] == stride == 1 else _convolution(x, kernel, stride)


@jax.custom_vjp
def pointwise(x: Images, kernel: PointwiseKernel) -> Float[Array, "n h w d"]:
    """A 1x1 convolution as a product of two matrices; with more dimensions, its gradient is much slower on a CPU."""
    return (x.reshape(-1, x.shape[-1]) @ kernel.astype(x.dtype)).reshape(*x.shape[:-1], -1)


def _pointwise_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return pointwise(x, kernel), (x, kernel)


def _pointwise_backward(saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    flat_x, flat_dy = (images.reshape(-1, images.shape[-1]) for images in (x, dy))
    dx = flat_dy @ kernel.astype(x.dtype).T
    dkernel = _sum_of_products(flat_dy, flat_x).T  # in the order of JAX's own gradient, which is faster on CPUs
    return dx.reshape(x.shape), dkernel.astype(kernel.dtype)


pointwise.defvjp(_pointwise_forward, _pointwise_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolution(x: Images, kernel: Kernel, stride: int) -> Float[Array, "n h2 w2 d"]:
    return _xla_convolution(x, kernel, stride)


def _convolution_forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return _convolution(x, kernel, stride), (x, kernel)


def _convolution_backward(stride: int, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    """On CPUs, uses a gradient that is tens of times faster than XLA's inside loops and conditionals."""
    return by_platform(*saved, dy, cpu=_product_gradient, default=_xla_gradient, stride=stride)


_convolution.defvjp(_convolution_forward, _convolution_backward)


def _product_gradient(x: Array, kernel: Array, dy: Array, stride: int) -> tuple[Array, Array]:
    """Computes the gradient by a forward convolution and a matrix product with the pixels under the kernel."""
    dx = _xla_convolution(spread(dy, x, stride), kernel[::-1, ::-1].swapaxes(2, 3), 1)
    shifted = [window.reshape(-1, x.shape[3]) for window in windows(x, kernel.shape[0], stride)]
    dkernel = _sum_of_products(jnp.concatenate(shifted, axis=1), dy.reshape(-1, dy.shape[3]))
    return dx, dkernel.reshape(kernel.shape).astype(kernel.dtype)


def _xla_convolution(
    x: Images, kernel: Float[Array, "k k g d"], stride: int, groups: int = 1
) -> Float[Array, "n h2 w2 d"]:
    return lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        (stride, stride),
        _padding(x, kernel.shape[0], stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _xla_gradient(x: Array, kernel: Array, dy: Array, stride: int, groups: int = 1) -> tuple[Array, Array]:
    """Computes XLA's gradient, except that the kernel's is float32, as it is accumulated.

    Matrix units of TPUs do so at no cost. XLA for GPUs first widens the factors of such a convolution to float32.

    The gradient of a kernel is a convolution of the images, channels and images exchanged, by the result's gradient.
    """
    (dx,) = jax.vjp(lambda x: _xla_convolution(x, kernel, stride, groups), x)[1](dy)
    dkernel = lax.conv_general_dilated(
        x,
        dy,
        (1, 1),
        _padding(x, kernel.shape[0], stride),
        rhs_dilation=(stride, stride),
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        batch_group_count=groups,
        preferred_element_type=jnp.float32,
    )
    return dx, dkernel.astype(kernel.dtype)


def _padding(x: Images, size: int, stride: int) -> list[tuple[int, int]]:
    """Returns the padding of both axes; the end of an axis is cropped where no window reaches it."""
    pad = (size - 1) // 2
    lengths = zip(x.shape[1:3], output_size(x, stride), strict=True)
    return [(pad, stride * (outputs - 1) + size - length - pad) for length, outputs in lengths]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(x: Images, kernel: DepthwiseKernel, stride: int = 1) -> Float[Array, "n h2 w2 c"]:
    """Convolves each channel with its own kernel, rounded to the dtype of the images.

    On CPUs, this uses shifted multiply-adds, which are tens of times faster than XLA's grouped convolution.
    """
    return by_platform(x, kernel, cpu=shifted_depthwise, default=grouped_depthwise, stride=stride)


def _depthwise_forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return depthwise(x, kernel, stride), (x, kernel)


def _depthwise_backward(stride: int, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    forms = {"cpu": shifted_depthwise_gradient, "default": grouped_depthwise_gradient}
    return by_platform(*saved, dy, **forms, stride=stride)


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def grouped_depthwise(x: Images, kernel: DepthwiseKernel, stride: int) -> Float[Array, "n h2 w2 c"]:
    """Returns `depthwise` by XLA's grouped convolution."""
    return _xla_convolution(x, kernel[:, :, None], stride, x.shape[-1])


def grouped_depthwise_gradient(
    x: Images, kernel: DepthwiseKernel, dy: Array, stride: int
) -> tuple[Images, DepthwiseKernel]:
    """Returns the gradient of `depthwise` by XLA's grouped convolutions."""
    dx, dkernel = _xla_gradient(x, kernel[:, :, None], dy, stride, x.shape[-1])
    return dx, dkernel[:, :, 0]


def shifted_depthwise(x: Images, kernel: DepthwiseKernel, stride: int) -> Float[Array, "n h2 w2 c"]:
    """Returns `depthwise` by multiply-adds of shifted images."""
    size = kernel.shape[0]
    shifted = windows(x, size, stride)
    taps = jnp.tile(kernel.astype(x.dtype).reshape(size * size, -1), (1, shifted[0].shape[3] // x.shape[3]))
    y = total(window * tap[None, None, None] for window, tap in zip(shifted, taps, strict=True))
    return materialised(y.reshape(x.shape[0], *output_size(x, stride), x.shape[3]))


def shifted_depthwise_gradient(
    x: Images, kernel: DepthwiseKernel, dy: Array, stride: int
) -> tuple[Images, DepthwiseKernel]:
    """Returns the gradient of `depthwise` by multiply-adds of shifted images."""
    dx = shifted_depthwise(spread(dy, x, stride), kernel[::-1, ::-1], 1)
    return dx, _kernel_gradient(x, dy, kernel.shape[0], stride).astype(kernel.dtype)


def _kernel_gradient(x: Images, dy: Float[Array, "n h2 w2 c"], size: int, stride: int) -> Float[Array, "k k c"]:
    """Sums products of shifted images; splits large batches into a few images at a time, which fit a core's cache."""
    if dy.size <= CACHED:
        return _kernel_gradient_at_once(x, dy, size, stride)
    few = math.gcd(len(x), FEW)

    def add(i: Array, summed: Array) -> Array:
        some_x, some_dy = (lax.dynamic_slice_in_dim(images, few * i, few) for images in (x, dy))
        return summed + _kernel_gradient_at_once(some_x, some_dy, size, stride)

    return lax.fori_loop(0, len(x) // few, add, jnp.zeros((size, size, x.shape[3]), jnp.float32))


def _kernel_gradient_at_once(x: Images, dy: Float[Array, "n h2 w2 c"], size: int, stride: int) -> Float[Array, "k k c"]:
    """Computes the gradient row by row of the kernel.

    XLA for CPUs vectorises products, and sums of arrays in memory, but not sums of products. So products are first
    added across an eighth of the batch, then materialised in memory, then summed by a matrix product.
    """
    n, height, width, channels = dy.shape
    columns, folds = phases(x, size, stride), math.gcd(n, FEW)
    parts = jnp.split(materialised(dy.reshape(n, height, -1, lane(channels, width))), folds)
    rows = []
    for i in range(size):
        shifted = window_row(columns, i, size, (height, width), channels)
        products = [
            total(
                a.astype(jnp.float32) * b.astype(jnp.float32) for a, b in zip(jnp.split(x, folds), parts, strict=True)
            )
            for x in shifted
        ]
        stacked = materialised(jnp.stack(products)).reshape(size, -1, channels)
        rows.append((jnp.ones((size, 1, stacked.shape[1]), stacked.dtype) @ stacked)[:, 0])
    return jnp.stack(rows)


def separable(
    x: Images, depthwise_kernel: DepthwiseKernel, pointwise_kernel: PointwiseKernel, stride: int = 1
) -> Float[Array, "n h2 w2 d"]:
    """A depthwise and a 1x1 convolution with nothing between them, in the form that is fast on the platform.

    The three forms are equal but for roundings: the dense form rounds the product of the kernels to the dtype of the
    images, the others round each kernel and the result of the depthwise convolution.

    Args:
      x: images.
      depthwise_kernel: kernel of the depthwise convolution.
      pointwise_kernel: kernel of the 1x1 convolution; a standardised kernel is standardised by the caller.
      stride: stride of the depthwise convolution.
    """
    if x.shape[-1] > DENSE_CHANNELS:
        return pointwise(depthwise(x, depthwise_kernel, stride), pointwise_kernel)
    return _narrow_separable(x, depthwise_kernel, pointwise_kernel, stride)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _narrow_separable(x: Array, depthwise_kernel: Array, pointwise_kernel: Array, stride: int) -> Array:
    return _narrow_separable_forward(x, depthwise_kernel, pointwise_kernel, stride)[0]


def _narrow_separable_forward(
    x: Array, depthwise_kernel: Array, pointwise_kernel: Array, stride: int
) -> tuple[Array, tuple[Array, ...]]:
    operands = x, depthwise_kernel, pointwise_kernel
    y, middle = by_platform(*operands, cpu=shifted_separable, default=dense_separable, stride=stride)
    return y, (x, depthwise_kernel, pointwise_kernel, middle)


def _narrow_separable_backward(stride: int, saved: tuple[Array, ...], dy: Array) -> tuple[Array, Array, Array]:
    forms = {"cpu": shifted_separable_gradient, "default": dense_separable_gradient}
    return by_platform(*saved, dy, **forms, stride=stride)


_narrow_separable.defvjp(_narrow_separable_forward, _narrow_separable_backward)


def shifted_separable(
    x: Images, depthwise_kernel: DepthwiseKernel, pointwise_kernel: PointwiseKernel, stride: int
) -> tuple[Float[Array, "n h2 w2 d"], Float[Array, "n h2 w2 c"]]:
    """Returns `separable` by shifted multiply-adds, and the result of the depthwise convolution for the gradient."""
    middle = shifted_depthwise(x, depthwise_kernel, stride)
    return pointwise(middle, pointwise_kernel), middle


def shifted_separable_gradient(
    x: Images,
    depthwise_kernel: DepthwiseKernel,
    pointwise_kernel: PointwiseKernel,
    middle: Float[Array, "n h2 w2 c"],
    dy: Array,
    stride: int,
) -> tuple[Images, DepthwiseKernel, PointwiseKernel]:
    """Returns the gradient of `shifted_separable`."""
    dmiddle, dpointwise = _pointwise_backward((middle, pointwise_kernel), dy)
    return *shifted_depthwise_gradient(x, depthwise_kernel, dmiddle, stride), dpointwise


def dense_separable(
    x: Images, depthwise_kernel: DepthwiseKernel, pointwise_kernel: PointwiseKernel, stride: int
) -> tuple[Float[Array, "n h2 w2 d"], Float[Array, "n h2 w2 c"]]:
    """Returns `separable` by one convolution, and zeros: nothing is saved for the gradient besides the arguments."""
    y = _xla_convolution(x, _dense_kernel(depthwise_kernel, pointwise_kernel), stride)
    return y, jnp.zeros((*y.shape[:3], x.shape[3]), x.dtype)


def dense_separable_gradient(
    x: Images,
    depthwise_kernel: DepthwiseKernel,
    pointwise_kernel: PointwiseKernel,
    middle: Float[Array, "n h2 w2 c"] | None,
    dy: Array,
    stride: int,
) -> tuple[Images, DepthwiseKernel, PointwiseKernel]:
    """Returns the gradient of `dense_separable`; ignores `middle`."""
    del middle
    kernel, pullback = jax.vjp(_dense_kernel, depthwise_kernel, pointwise_kernel)
    dx, dkernel = _xla_gradient(x, kernel, dy, stride)
    return dx, *pullback(dkernel)


def _dense_kernel(depthwise_kernel: DepthwiseKernel, pointwise_kernel: PointwiseKernel) -> Kernel:
    return depthwise_kernel[..., None] * pointwise_kernel[None, None]


@jax.custom_vjp
def factorised_reduce(x: Images, kernel: PointwiseKernel) -> Float[Array, "n h2 w2 d"]:
    """Halves the resolution by two 1x1 convolutions of stride 2, one on each of the `alternate_pixels`.

    Each computes half of the channels. On accelerators, they are one 2x2 convolution, half of whose kernel is zero.
    """
    return by_platform(x, kernel, cpu=_two_products, default=_one_convolution)


def _factorised_reduce_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return factorised_reduce(x, kernel), (x, kernel)


def _factorised_reduce_backward(saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    forms = {"cpu": _two_products_gradient, "default": _one_convolution_gradient}
    return by_platform(*saved, dy, **forms)


factorised_reduce.defvjp(_factorised_reduce_forward, _factorised_reduce_backward)


def _two_products(x: Images, kernel: PointwiseKernel) -> Float[Array, "n h2 w2 d"]:
    half = kernel.shape[1] // 2
    even, odd = alternate_pixels(x)
    return jnp.concatenate([pointwise(even, kernel[:, :half]), pointwise(odd, kernel[:, half:])], axis=-1)


def _two_products_gradient(
    x: Images, kernel: PointwiseKernel, dy: Float[Array, "n h2 w2 d"]
) -> tuple[Images, PointwiseKernel]:
    return jax.vjp(_two_products, x, kernel)[1](dy)


def _one_convolution(x: Images, kernel: PointwiseKernel) -> Float[Array, "n h2 w2 d"]:
    return _xla_convolution(x, _two_by_two(kernel), 2)


def _one_convolution_gradient(
    x: Images, kernel: PointwiseKernel, dy: Float[Array, "n h2 w2 d"]
) -> tuple[Images, PointwiseKernel]:
    square, pullback = jax.vjp(_two_by_two, kernel)
    dx, dsquare = _xla_gradient(x, square, dy, 2)
    return dx, *pullback(dsquare)


def _two_by_two(kernel: PointwiseKernel) -> Kernel:
    """Returns the kernel that maps pixel (0, 0) to the first half of the channels, and pixel (1, 1) to the second."""
    first = jnp.arange(kernel.shape[1]) < kernel.shape[1] // 2
    even, odd = jnp.where(first[None], kernel, 0), jnp.where(first[None], 0, kernel)
    nothing = jnp.zeros_like(kernel)
    return jnp.stack([jnp.stack([even, nothing]), jnp.stack([nothing, odd])])


def alternate_pixels(x: Images) -> tuple[Float[Array, "n h2 w2 c"], Float[Array, "n h2 w2 c"]]:
    """Returns the pixels at ``(2 i, 2 j)`` and those at ``(2 i + 1, 2 j + 1)``, zero beyond the edge."""
    n, height, width, channels = x.shape
    x = jnp.pad(x, [(0, 0), (0, height % 2), (0, width % 2), (0, 0)])
    x = x.reshape(n, -(-height // 2), 2, -(-width // 2), 2, channels)
    return x[:, :, 0, :, 0], x[:, :, 1, :, 1]


def _sum_of_products(a: Float[Array, "n p"], b: Float[Array, "n q"]) -> Float[Array, "p q"]:
    """Sums the outer products of rows in float32, whatever the dtype of the arrays."""
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)
