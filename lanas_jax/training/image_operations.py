"""Elementary operations on 8-bit images, equal to Pillow's; the policies of `policies.py` are composed of them.

An operation is data (`Operation`), not a function. Every operation has the same three parts: it moves pixels by an
affine map, maps every level by a lookup table, and blends the image with a degenerate one. The parts that it does not
need are identities. So each image of a batch can have a different operation in one short program without branches;
``lax.switch`` under ``vmap`` would compute every operation for every image.

The constructors run in NumPy, at trace time. Their arguments have the meaning of those of Pillow's ``Image.transform``,
``Image.rotate``, ``ImageOps`` and ``ImageEnhance``. Results are bit-identical to Pillow's, except for `autocontrast`:
it divides integers, while Pillow's floating-point quotient sometimes falls just below an integer, one level lower.
"""

import enum
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float32, Int32, UInt8

FILL = 128  # level of pixels from outside the image
LEVELS = np.arange(256, dtype=np.uint8)
ONE = 1 << 16  # the number 1 in 16.16 fixed point
IDENTITY_MAP = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # the identity affine map


class PixelSource(enum.IntEnum):
    """The statistic of the image that an operation depends on."""

    NOTHING = 0
    RANGE = 1  # least and largest level of each channel
    HISTOGRAM = 2  # histogram of each channel
    MEAN = 3  # mean luminance
    LUMINANCE = 4
    SMOOTH = 5  # the image, smoothed


class Operation(NamedTuple):
    """An operation, or a batch of operations with leading axes. The functions below construct them."""

    matrix: Int32[np.ndarray | Array, "*many 6"]  # affine map from output to input pixels (x, y), 16.16 fixed point
    table: UInt8[np.ndarray | Array, "*many 256"]  # new level of each level
    source: Int32[np.ndarray | Array, "*many"]  # a `PixelSource`
    factor: Float32[np.ndarray | Array, "*many"]  # weight of the image in the blend; 1 leaves it unchanged


def made_of(
    matrix: tuple[float, ...] = IDENTITY_MAP,
    table: UInt8[np.ndarray, "256"] = LEVELS,
    source: PixelSource = PixelSource.NOTHING,
    factor: float = 1.0,
) -> Operation:
    """Returns an operation with the given parts; the defaults are the identity.

    Args:
      matrix: affine map ``(a, b, c, d, e, f)``: output pixel (x, y) shows input pixel (a x + b y + c, d x + e y + f),
        with coordinates at the pixels' centers.
      table: new level of each level.
      source: statistic of the image that the operation depends on.
      factor: weight of the image in the blend with the degenerate image.
    """
    a, b, c, d, e, f = matrix
    centred = np.array([a, b, c + (a + b) / 2, d, e, f + (d + e) / 2])
    fixed = np.floor(centred * ONE + 0.5).astype(np.int32)
    return Operation(fixed, table, np.array(source, np.int32), np.array(factor, np.float32))


def identity() -> Operation:
    """Leaves the image unchanged."""
    return made_of()


def shear_x(slope: float) -> Operation:
    """Moves each row to the left by `slope` times its distance from the top."""
    return made_of((1.0, slope, 0.0, 0.0, 1.0, 0.0))


def shear_y(slope: float) -> Operation:
    """Moves each column up by `slope` times its distance from the left."""
    return made_of((1.0, 0.0, 0.0, slope, 1.0, 0.0))


def translate_x(pixels: int) -> Operation:
    """Moves the image to the left by `pixels`."""
    return made_of((1.0, 0.0, float(pixels), 0.0, 1.0, 0.0))


def translate_y(pixels: int) -> Operation:
    """Moves the image up by `pixels`."""
    return made_of((1.0, 0.0, 0.0, 0.0, 1.0, float(pixels)))


def rotate(degrees: float, height: int, width: int) -> Operation:
    """Rotates the image counterclockwise about its center."""
    angle, x, y = math.radians(degrees), width / 2, height / 2
    cosine, sine = math.cos(angle), math.sin(angle)
    return made_of((cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y))


def invert() -> Operation:
    """Inverts all levels: white becomes black."""
    return made_of(table=255 - LEVELS)


def solarize(threshold: int) -> Operation:
    """Inverts the levels at or above `threshold`; 256 leaves the image unchanged."""
    return made_of(table=np.where(threshold > LEVELS, LEVELS, 255 - LEVELS))


def posterize(bits: int) -> Operation:
    """Keeps the `bits` highest bits of each level; `bits` is 1 to 8."""
    return made_of(table=LEVELS & np.uint8(256 - (1 << (8 - bits))))


def brightness(factor: float) -> Operation:
    """Multiplies each level by `factor`; 0 gives a black image."""
    return made_of(table=np.clip(LEVELS * np.float32(factor), 0, 255).astype(np.uint8))


def autocontrast() -> Operation:
    """Stretches each channel to the full range of levels."""
    return made_of(source=PixelSource.RANGE)


def equalize() -> Operation:
    """Equalizes the histogram of each channel, as far as a lookup table can."""
    return made_of(source=PixelSource.HISTOGRAM)


def contrast(factor: float) -> Operation:
    """Changes the contrast relative to the mean luminance; factor 0 gives a uniform gray image."""
    return made_of(source=PixelSource.MEAN, factor=factor)


def color(factor: float) -> Operation:
    """Changes the saturation relative to each pixel's luminance; factor 0 gives a grayscale image."""
    return made_of(source=PixelSource.LUMINANCE, factor=factor)


def sharpness(factor: float) -> Operation:
    """Changes the sharpness relative to the smoothed image; factor 0 gives the smoothed image."""
    return made_of(source=PixelSource.SMOOTH, factor=factor)


def apply(operation: Operation, image: UInt8[Array, "h w 3"]) -> UInt8[Array, "h w 3"]:
    """Returns the image after one operation. It can be jitted, since the operation is data."""
    image = move(image, jnp.asarray(operation.matrix))
    image = look_up(image, table_of(operation, image))
    return blend(degenerate_image(operation, image), image, jnp.asarray(operation.factor))


def move(image: UInt8[Array, "h w c"], matrix: Int32[Array, "6"]) -> UInt8[Array, "h w c"]:
    """Sets each output pixel to the input pixel that `matrix` maps it to, or to `FILL` outside the image."""
    height, width, _ = image.shape
    y = lax.broadcasted_iota(jnp.int32, (height, width), 0)
    x = lax.broadcasted_iota(jnp.int32, (height, width), 1)
    column = (matrix[0] * x + matrix[1] * y + matrix[2]) >> 16
    row = (matrix[3] * x + matrix[4] * y + matrix[5]) >> 16
    return image.at[row, column].get(mode="fill", fill_value=FILL, wrap_negative_indices=False)


def look_up(image: UInt8[Array, "h w c"], table: UInt8[Array, "c 256"]) -> UInt8[Array, "h w c"]:
    """Replaces each level by its entry in the channel's table.

    On TPUs, gathers of single values are slow and products with a one-hot matrix are fast.
    """
    return lax.platform_dependent(image, table, tpu=_look_up_by_product, default=_look_up_by_index)


def _look_up_by_index(image: UInt8[Array, "h w c"], table: UInt8[Array, "c 256"]) -> UInt8[Array, "h w c"]:
    channel = lax.broadcasted_iota(jnp.int32, image.shape, 2)
    return table.at[channel, image.astype(jnp.int32)].get(mode="promise_in_bounds")


def _look_up_by_product(image: UInt8[Array, "h w c"], table: UInt8[Array, "c 256"]) -> UInt8[Array, "h w c"]:
    """Looks levels up by a one-hot product.

    The result is exact, since bfloat16 represents all levels and each sum has a single nonzero term.
    """
    pixels = image.reshape(-1, image.shape[2]).T
    taken = (pixels[:, :, None] == LEVELS[None, None]).astype(jnp.bfloat16)
    entries = jnp.einsum("cpl,cl->cp", taken, table.astype(jnp.bfloat16), preferred_element_type=jnp.float32)
    return entries.astype(jnp.uint8).T.reshape(image.shape)


def table_of(operation: Operation, image: UInt8[Array, "h w c"]) -> UInt8[Array, "c 256"]:
    """Returns the new level of each level, for each channel."""
    fixed = jnp.broadcast_to(jnp.asarray(operation.table), (image.shape[2], 256))
    table = jnp.where(operation.source == PixelSource.RANGE, stretching_table(image), fixed)
    return jnp.where(operation.source == PixelSource.HISTOGRAM, equalizing_table(image), table)


def stretching_table(image: UInt8[Array, "h w c"]) -> UInt8[Array, "c 256"]:
    """Returns the table that maps each channel's least level to 0 and its largest to 255; constant channels stay."""
    low = image.min(axis=(0, 1)).astype(jnp.int32)[:, None]
    high = image.max(axis=(0, 1)).astype(jnp.int32)[:, None]
    levels = jnp.arange(256, dtype=jnp.int32)[None]
    stretched = (levels - low) * 255 // jnp.maximum(high - low, 1)
    return jnp.where(high > low, stretched.clip(0, 255), levels).astype(jnp.uint8)


def equalizing_table(image: UInt8[Array, "h w c"]) -> UInt8[Array, "c 256"]:
    """Returns the table that maps each level to the share of pixels below it.

    Channels with too few pixels or levels stay unchanged.
    """
    histogram = lax.platform_dependent(image, tpu=_histogram_by_comparing, default=_histogram_by_index)
    below = jnp.cumsum(histogram, axis=1) - histogram
    step = below[jnp.arange(len(below)), image.max(axis=(0, 1)).astype(jnp.int32)][:, None] // 255
    equalized = (step // 2 + below) // jnp.maximum(step, 1)
    levels = jnp.arange(256, dtype=jnp.int32)[None]
    return jnp.where(step > 0, equalized.clip(0, 255), levels).astype(jnp.uint8)


def _histogram_by_index(image: UInt8[Array, "h w c"]) -> Int32[Array, "c 256"]:
    channel = lax.broadcasted_iota(jnp.int32, image.shape, 2)
    return jnp.zeros((image.shape[2], 256), jnp.int32).at[channel, image.astype(jnp.int32)].add(1)


def _histogram_by_comparing(image: UInt8[Array, "h w c"]) -> Int32[Array, "c 256"]:
    pixels = image.reshape(-1, image.shape[2]).T
    return jnp.sum(pixels[:, None] == LEVELS[None, :, None], axis=2, dtype=jnp.int32)


def degenerate_image(operation: Operation, image: UInt8[Array, "h w 3"]) -> Int32[Array, "h w 3"]:
    """Returns the degenerate image to blend with."""
    grey = luminance(image)
    mean = (2 * grey.sum() + grey.size) // (2 * grey.size)
    plain = jnp.where(operation.source == PixelSource.MEAN, mean, grey)
    return jnp.where(operation.source == PixelSource.SMOOTH, smooth(image), plain)


def luminance(image: UInt8[Array, "h w 3"]) -> Int32[Array, "h w 1"]:
    """Returns the luminance of each pixel, 0 to 255, with the weights of ITU-R 601-2 in 16 bits."""
    weights = np.array([19595, 38470, 7471], np.int32)[None, None]
    return ((image.astype(jnp.int32) * weights).sum(axis=2, keepdims=True) + ONE // 2) >> 16


def smooth(image: UInt8[Array, "h w c"]) -> Int32[Array, "h w c"]:
    """Returns the weighted mean of each pixel (weight 5) and its eight neighbors (weight 1); border pixels stay."""
    levels = image.astype(jnp.int32)
    rows = levels[:-2] + levels[1:-1] + levels[2:]
    neighbourhood = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    weighted = neighbourhood + 4 * levels[1:-1, 1:-1]
    return levels.at[1:-1, 1:-1].set((2 * weighted + 13) // 26)


def blend(
    plain: Int32[Array, "h w c"], image: UInt8[Array, "h w c"], factor: Float32[Array, ""]
) -> UInt8[Array, "h w c"]:
    """Returns ``plain + factor * (image - plain)``, clipped to [0, 255] and truncated to integers."""
    start = plain.astype(jnp.float32)
    difference = image.astype(jnp.float32) - start
    # Pillow rounds the product before it adds. A compiler may fuse a product and a sum and round only once. Here the
    # only product that it can fuse is the one with the sign, which is exact.
    change = jnp.sign(difference) * (factor * jnp.abs(difference))
    return (start + change).clip(0, 255).astype(jnp.uint8)
