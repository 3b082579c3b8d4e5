"""Pools of images: shifted images on CPUs (`models/layers/shifted.py`), XLA's windowed reductions elsewhere."""

from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Int

from lanas_jax.models.layers.platforms import by_platform
from lanas_jax.models.layers.shifted import Images, materialised, output_size, spread, total, windows


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: Images, stride: int = 1) -> Float[Array, "n h2 w2 c"]:
    """Maximum over windows of 3x3 pixels.

    The gradient goes to the first pixel, row by row, that attains the maximum, on every platform, as in PyTorch.
    CPUs compare shifted images; the gradient of XLA's windowed maximum is slow there.
    """
    return by_platform(x, cpu=shifted_maximum, default=windowed_maximum, stride=stride)


def shifted_maximum(x: Images, stride: int) -> Float[Array, "n h2 w2 c"]:
    """Returns `max_pool` as the maximum of shifted images, without a gradient."""
    maximum = reduce(jnp.maximum, windows(x, 3, stride, fill=-jnp.inf))
    return materialised(maximum.reshape(x.shape[0], *output_size(x, stride), x.shape[3]))


def windowed_maximum(x: Images, stride: int) -> Float[Array, "n h2 w2 c"]:
    """Returns `max_pool` by XLA's `reduce_window`, whose gradient is a `select_and_scatter`."""
    padding = [(0, 0), (1, 1), (1, 1), (0, 0)]
    return lax.reduce_window(x, np.array(-np.inf, x.dtype), lax.max, (1, 3, 3, 1), (1, stride, stride, 1), padding)


def places_of_maxima(x: Images, stride: int) -> Int[Array, "n h2 w2 c"]:
    """Returns the position of the first maximum of each window, 0 to 8.

    Positions are found by comparing the pixels of a window with one another. XLA may compute the images again in the
    gradient's loops, with other roundings, so a comparison with the maxima could find no pixel that attains one.
    """
    shifted = windows(x, 3, stride, fill=-jnp.inf)
    highest, place = shifted[0], jnp.zeros(shifted[0].shape, jnp.int32)
    for i, window in enumerate(shifted[1:], start=1):
        place = jnp.where(window > highest, i, place)
        highest = jnp.maximum(highest, window)
    return materialised(place.reshape(x.shape[0], *output_size(x, stride), x.shape[3]))


def shifted_maximum_gradient(x: Images, place: Int[Array, "n h2 w2 c"], dy: Array, stride: int) -> Images:
    """Returns the gradient of `max_pool` from the positions of the maxima; the images give only their shape."""
    places, parts = (windows(spread(y, x, stride), 3, 1) for y in (place, dy))
    # A pixel sees the window around the pixel at offset i from it at the opposite offset.
    pairs = zip(reversed(range(len(places))), places, parts, strict=True)
    dx = total(jnp.where(place == opposite, part, 0) for opposite, place, part in pairs)
    return materialised(dx).reshape(x.shape)


def windowed_maximum_gradient(x: Images, place: Array | None, dy: Array, stride: int) -> Images:
    """Returns the gradient of `max_pool` by XLA's `select_and_scatter`; ignores the positions."""
    del place
    return jax.vjp(partial(windowed_maximum, stride=stride), x)[1](dy)[0]


def _max_pool_forward(x: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    """Also returns the images and the positions of the maxima, of which the gradient of each platform reads one."""
    return max_pool(x, stride), (x, by_platform(x, cpu=places_of_maxima, default=_no_places, stride=stride))


def _max_pool_backward(stride: int, saved: tuple[Array, Array], dy: Array) -> tuple[Array]:
    forms = {"cpu": shifted_maximum_gradient, "default": windowed_maximum_gradient}
    return (by_platform(*saved, dy, **forms, stride=stride),)


def _no_places(x: Images, stride: int) -> Int[Array, "n h2 w2 c"]:
    return jnp.zeros((x.shape[0], *output_size(x, stride), x.shape[3]), jnp.int32)


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
    summed = lax.reduce_window(x, 0.0, lax.add, (1, size, size, 1), (1, stride, stride, 1), "VALID")
    return summed / size**2


def shifted_sum(x: Images) -> Images:
    """Sums over 3x3 pixels of shifted images."""
    return total(windows(x, 3, 1)).reshape(x.shape)


def windowed_sum(x: Images) -> Images:
    """Sums over 3x3 pixels by XLA's `reduce_window`."""
    return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")


def _window_sum(x: Images) -> Images:
    return by_platform(x, cpu=shifted_sum, default=windowed_sum)


def _pixels_in_window(x: Images) -> Float[np.ndarray, "1 h w 1"]:
    """Counts the pixels of each 3x3 window that lie within the image."""
    places = [np.arange(size) for size in x.shape[1:3]]
    rows, columns = (np.minimum(i + 1, len(i) - 1) - np.maximum(i - 1, 0) + 1 for i in places)
    return np.outer(rows, columns).astype(np.float32)[None, :, :, None]
