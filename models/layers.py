"""Operations of cells as pure functions of arrays, shared by networks in both forms of a candidate.

Images are ``[n, height, width, channels]``. Padding is symmetric (``kernel // 2``), as in the networks of DARTS.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

MOMENTUM = 0.9  # of the running batch statistics
EPSILON = 1e-5  # added to variances

Images = Float[Array, "n h w c"]
Channels = Float[Array, " c"]


def depthwise(x: Images, kernel: Float[Array, "k k c"], stride: int = 1) -> Float[Array, "n h2 w2 c"]:
    """Each channel convolved with its own kernel.

    XLA's grouped convolution is tens of times slower on a CPU than shifted multiply-adds, which stand in for it there.
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
    windows = _windows(x, kernel.shape[0], stride)
    return _sum([window * tap[None, None, None] for window, tap in zip(windows, _taps(kernel), strict=True)])


def _shifted_depthwise_forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return _shifted_depthwise(x, kernel, stride), (x, kernel)


def _shifted_depthwise_backward(stride: int, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    dkernel = jnp.stack([jnp.sum(window * dy, axis=(0, 1, 2)) for window in _windows(x, kernel.shape[0], stride)])
    if stride > 1:  # the transposed convolution: gradients spread out among zeros
        spread = [(0, x.shape[axis] - 1 - stride * (dy.shape[axis] - 1), stride - 1) for axis in (1, 2)]
        dy = lax.pad(dy, jnp.zeros((), dy.dtype), [(0, 0, 0), *spread, (0, 0, 0)])
    return _shifted_depthwise(dy, kernel[::-1, ::-1], 1), dkernel.reshape(kernel.shape)


_shifted_depthwise.defvjp(_shifted_depthwise_forward, _shifted_depthwise_backward)


def max_pool(x: Images, stride: int = 1, size: int = 3) -> Float[Array, "n h2 w2 c"]:
    """Maximum over windows, as maxima of shifted images: their gradient is cheap, that of `reduce_window` is not."""
    maximum, *rest = _windows(x, size, stride, fill=-jnp.inf)
    for window in rest:
        maximum = jnp.maximum(maximum, window)
    return maximum


def factorised_reduce(x: Images, kernel: Float[Array, "c d"]) -> Float[Array, "n h2 w2 d"]:
    """Half the resolution by two 1x1 convolutions of stride 2: half of the outputs read the pixels at ``(2i, 2j)``, half
    those at ``(2i + 1, 2j + 1)``.
    """  # noqa: D205
    half = kernel.shape[1] // 2
    shifted = jnp.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)])[:, 1:, 1:]
    return jnp.concatenate([x[:, ::2, ::2] @ kernel[:, :half], shifted[:, ::2, ::2] @ kernel[:, half:]], axis=-1)


def batch_norm(
    x: Images, scale: Channels, bias: Channels, mean: Channels, variance: Channels, *, train: bool
) -> tuple[Images, Channels, Channels]:
    """Normalises each channel: by the statistics of the batch when training, else by the running ones.

    Returns:
      The normalised images, and the running mean and variance that follow.
    """
    if not train:
        factor = scale * lax.rsqrt(variance + EPSILON)
        return x * factor[None, None, None] + (bias - mean * factor)[None, None, None], mean, variance
    batch_mean = jnp.mean(x, axis=(0, 1, 2))
    batch_variance = jnp.maximum(jnp.mean(jnp.square(x), axis=(0, 1, 2)) - jnp.square(batch_mean), 0.0)
    factor = scale * lax.rsqrt(batch_variance + EPSILON)
    y = x * factor[None, None, None] + (bias - batch_mean * factor)[None, None, None]
    mean = MOMENTUM * mean + (1 - MOMENTUM) * lax.stop_gradient(batch_mean)
    variance = MOMENTUM * variance + (1 - MOMENTUM) * lax.stop_gradient(batch_variance)
    return y, mean, variance


def _windows(x: Images, size: int, stride: int, fill: float = 0.0) -> list[Array]:
    """The images shifted to each place of a window, row by row."""
    pad = size // 2
    height, width = (-(-x.shape[axis] // stride) for axis in (1, 2))
    x = jnp.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)], constant_values=fill)
    rows = [slice(i, i + stride * (height - 1) + 1, stride) for i in range(size)]
    columns = [slice(j, j + stride * (width - 1) + 1, stride) for j in range(size)]
    return [x[:, row, column] for row in rows for column in columns]


def _taps(kernel: Float[Array, "k k c"]) -> list[Array]:
    return list(kernel.reshape(-1, kernel.shape[-1]))


def _sum(terms: list[Array]) -> Array:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
