"""Normalisation and other operations of networks as pure functions of images ``[n, height, width, channels]``."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

MOMENTUM = 0.9  # momentum of running batch statistics
EPSILON = 1e-5  # added to variances
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
    x: Images,
    scale: Channels,
    bias: Channels,
    mean: Channels,
    variance: Channels,
    *,
    train: bool,
    momentum: float = MOMENTUM,
    epsilon: float = EPSILON,
) -> tuple[Images, Channels, Channels]:
    """Normalises each channel: by the statistics of the batch in training, otherwise by running statistics.

    Statistics and arithmetic are float32 for any image dtype; bfloat16 would not resolve the updates of a running mean.
    The gradient saves the images in their own dtype, and the statistics of the batch. `epsilon` is added to variances;
    `momentum` is the weight of the running statistics in their update.

    Returns:
      The normalised images, and the updated running mean and variance.
    """
    if not train:
        factor = scale * lax.rsqrt(variance + epsilon)
        y = x.astype(jnp.float32) * factor[None, None, None] + (bias - mean * factor)[None, None, None]
        return y.astype(x.dtype), mean, variance
    y, batch_mean, batch_variance = _normalise(x, scale, bias, epsilon)
    mean = momentum * mean + (1 - momentum) * batch_mean
    variance = momentum * variance + (1 - momentum) * batch_variance
    return y, mean, variance


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalise(x: Images, scale: Channels, bias: Channels, epsilon: float) -> tuple[Images, Channels, Channels]:
    """Normalises by the statistics of the batch; also returns the mean and the variance, which have no gradient."""
    return _normalised(x, scale, bias, epsilon)


def _normalise_forward(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
    y, mean, variance = _normalised(x, scale, bias, epsilon)
    return (y, mean, variance), (x, scale, mean, variance)


def _normalise_backward(
    epsilon: float, saved: tuple[Array, ...], cotangents: tuple[Array, ...]
) -> tuple[Array, Array, Array]:
    return _normalisation_gradient(*saved, cotangents[0], epsilon)


_normalise.defvjp(_normalise_forward, _normalise_backward)


@functools.partial(jax.jit, static_argnames="epsilon")  # traced once for all layers of equal shapes
def _normalised(x: Images, scale: Channels, bias: Channels, epsilon: float) -> tuple[Images, Channels, Channels]:
    exact = x.astype(jnp.float32)
    mean = jnp.mean(exact, axis=(0, 1, 2))
    variance = jnp.maximum(jnp.mean(jnp.square(exact), axis=(0, 1, 2)) - jnp.square(mean), 0.0)
    factor = scale * lax.rsqrt(variance + epsilon)
    y = exact * factor[None, None, None] + (bias - mean * factor)[None, None, None]
    return y.astype(x.dtype), mean, variance


@functools.partial(jax.jit, static_argnames="epsilon")
def _normalisation_gradient(
    x: Images, scale: Channels, mean: Channels, variance: Channels, dy: Images, epsilon: float
) -> tuple[Images, Channels, Channels]:
    """Computes ``scale / deviation * (dy - mean(dy) - z * mean(dy * z))``, with z the images before scale and bias."""
    dy, exact, rate = dy.astype(jnp.float32), x.astype(jnp.float32), lax.rsqrt(variance + epsilon)
    count = x.size // x.shape[-1]
    dbias = jnp.sum(dy, axis=(0, 1, 2))
    dscale = (jnp.sum(dy * exact, axis=(0, 1, 2)) - mean * dbias) * rate
    # As a linear function of `dy` and `x`, so that each pixel takes two multiply-adds.
    a = scale * rate
    b = -a * rate * dscale / count
    c = -a * dbias / count - b * mean
    dx = dy * a[None, None, None] + exact * b[None, None, None] + c[None, None, None]
    return dx.astype(x.dtype), dscale, dbias
