"""Normalisation and other operations of networks as pure functions of images ``[n, height, width, channels]``."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from lanas_jax.models.layers.convolutions import pointwise

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
