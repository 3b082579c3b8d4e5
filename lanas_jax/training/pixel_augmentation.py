"""Random augmentation of the stored pixels of single images by Pillow, in the workers that decode them.

Moving and looking up pixels takes gathers, which accelerators do one row at a time. So crop and policy of a streamed
training, and the flip between them, run in its input workers, and its steps have no gather of pixels; the rest of an
`Augmentation` runs in the step (`in_step`). An image from memory is augmented on the device
(`lanas_jax.training.augmentation`). The operations and their probabilities are the same in both; the random draws are
not.
"""

import dataclasses
import functools

import jax
import numpy as np
from jaxtyping import Shaped
from PIL import Image, ImageEnhance, ImageOps

from lanas_jax.training import image_operations, policies
from lanas_jax.training.augmentation import Augmentation
from lanas_jax.training.image_operations import FILL, LEVELS, ONE, Operation, PixelSource

Pixels = Shaped[np.ndarray, "h w c"]
_ENHANCED = {
    PixelSource.MEAN: ImageEnhance.Contrast,
    PixelSource.LUMINANCE: ImageEnhance.Color,
    PixelSource.SMOOTH: ImageEnhance.Sharpness,
}
_STANDING = image_operations.identity().matrix


def in_step(config: Augmentation) -> Augmentation:
    """Returns the part of an augmentation that runs in the training step, without gathers."""
    if not config.crop and not config.policy:
        return config
    return dataclasses.replace(config, crop=0, flip=False, policy=None)


@dataclasses.dataclass(frozen=True)
class PixelAugmentation:
    """Crop, flip and policy of an augmentation, applied to one image.

    Args:
      config: settings; those of scaled images and of batches are ignored.
    """

    config: Augmentation

    def __call__(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """Returns the augmented image, of the same shape and dtype."""
        config, (height, width, _) = self.config, image.shape
        if config.crop:
            top, left = rng.integers(2 * config.crop + 1, size=2)
            sides = ((config.crop, config.crop),) * 2
            image = np.pad(image, (*sides, (0, 0)))[top : top + height, left : left + width]
        if config.flip and rng.random() < 0.5:
            image = image[:, ::-1]
        if config.policy:
            picture = Image.fromarray(np.ascontiguousarray(image))
            for operation in draw_operations(config, rng, height, width):
                picture = apply_by_pillow(operation, picture)
            image = np.asarray(picture)
        return np.ascontiguousarray(image)


def draw_operations(config: Augmentation, rng: np.random.Generator, height: int, width: int) -> list[Operation]:
    """Draws the operations that the policy of `config` applies to one image."""
    if config.policy == "randaugment":
        known = _randaugment(config.magnitude if not config.magnitude_deviation else None, height, width)
        drawn = []
        for _ in range(config.operations):
            index = tuple(int(rng.integers(size)) for size in (len(policies.RANDAUGMENT), 2))
            if config.magnitude_deviation:
                magnitude = rng.normal(config.magnitude, config.magnitude_deviation)
                level = np.clip(magnitude / policies.LARGEST_MAGNITUDE, 0, 1) * (len(policies.MAGNITUDES) - 1)
                index = (round(float(level)), *index)
            drawn.append(_pick(known, index))
        return drawn
    policy = config.policy or "autoaugment"
    row = int(rng.integers(len(policies.POLICIES[policy])))
    drawn = []
    for position, (_, probability, _) in enumerate(policies.POLICIES[policy][row]):
        happens, direction = rng.random() < probability, int(rng.integers(2))
        if happens:
            drawn.append(_pick(_autoaugment(policy, height, width), (row, position, 1 + direction)))
    return drawn


def apply_by_pillow(operation: Operation, picture: Image.Image) -> Image.Image:
    """Returns the image after one operation, as `image_operations.apply` computes it."""
    if not np.array_equal(operation.matrix, _STANDING):
        a, b, c, d, e, f = (np.asarray(operation.matrix) / ONE).tolist()
        matrix = (a, b, c - (a + b) / 2, d, e, f - (d + e) / 2)
        picture = picture.transform(picture.size, Image.Transform.AFFINE, matrix, fillcolor=(FILL,) * 3)
    if not np.array_equal(operation.table, LEVELS):
        picture = picture.point(np.asarray(operation.table).tolist() * 3)
    source = PixelSource(int(operation.source))
    if source == PixelSource.RANGE:
        ranges = np.asarray(picture.getextrema()).tolist()  # of each channel
        picture = picture.point([level for low, high in ranges for level in _stretched(low, high)])
    elif source == PixelSource.HISTOGRAM:
        picture = ImageOps.equalize(picture)
    elif source in _ENHANCED:
        picture = _ENHANCED[source](picture).enhance(float(operation.factor))
    return picture


def _stretched(low: int, high: int) -> list[int]:
    """Returns the table that maps the least level of a channel to 0 and its largest to 255."""
    if high == low:
        return list(range(256))
    return [min(max((level - low) * 255 // (high - low), 0), 255) for level in range(256)]


@functools.lru_cache
def _autoaugment(policy: str, height: int, width: int) -> Operation:
    return policies.autoaugment_operations(height, width, policy)


@functools.lru_cache
def _randaugment(magnitude: float | None, height: int, width: int) -> Operation:
    """Returns the operations of one magnitude, or, with a leading axis, of all magnitudes of `MAGNITUDES`."""
    if magnitude is not None:
        return policies.randaugment_operations(magnitude, height, width)
    return policies.stack([policies.randaugment_operations(float(each), height, width) for each in policies.MAGNITUDES])


def _pick(operations: Operation, index: tuple[int, ...]) -> Operation:
    return jax.tree.map(lambda rows: rows[index], operations)
