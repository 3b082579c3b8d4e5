"""Conversion of JPEG images of any size to square images by Pillow: random crops for training, centre for evaluation.

The random crop is that of Inception (arXiv 1409.4842, section 6), as in torchvision's ``RandomResizedCrop``. The centre
crop is torchvision's ``Resize`` and ``CenterCrop`` in one step.
"""

import dataclasses
import io
import math
import struct
import zlib
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lanas_jax.formats.errors import FileError

Box: TypeAlias = tuple[float | int, float | int, float | int, float | int]  # left, upper, right, lower; pixels
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_ATTEMPTS = 10  # attempts to draw a rectangle that fits, before using the centre
_DAMAGE = (OSError, SyntaxError, ValueError, zlib.error, struct.error, EOFError, Image.DecompressionBombError)


@dataclasses.dataclass(frozen=True)
class Crop:
    """Settings of random and centre crops.

    Args:
      resolution: height and width of the resulting image, in pixels.
      interpolation: interpolation for resizing.
      area: minimum and maximum share of the original area covered by a random crop.
      aspect: minimum and maximum ratio of width to height of a random crop.
      crop_share: ratio of the centre crop's side to the shorter side of the original image.

    Raises:
      ValueError: if a setting is out of range.
    """

    resolution: int = 224
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    crop_share: float = 0.875

    def __post_init__(self) -> None:
        if self.resolution < 1:
            raise ValueError(f"resolution must be at least 1; got {self.resolution}")
        if self.interpolation not in _FILTERS:
            raise ValueError(f"interpolation must be one of {', '.join(_FILTERS)}; got {self.interpolation!r}")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area must be two shares in (0, 1], the smaller first; got {self.area}")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"aspect must be two positive ratios, the smaller first; got {self.aspect}")
        if not 0 < self.crop_share <= 1:
            raise ValueError(f"crop_share must be in (0, 1]; got {self.crop_share}")

    def random(self, data: bytes, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
        """Returns a random crop, flipped horizontally with probability 0.5.

        Raises:
          FileError: if the data is not a JPEG picture, or a damaged one.
        """
        with _opened(data) as picture:
            box = random_box(picture.size, self.area, self.aspect, rng)
            flip = rng.random() < 0.5
            image = self._resized(picture, box)
        return np.ascontiguousarray(image[:, ::-1]) if flip else image

    def centre(self, data: bytes) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the centre crop.

        Raises:
          FileError: if the data is not a JPEG picture, or a damaged one.
        """
        with _opened(data) as picture:
            return self._resized(picture, centre_box(picture.size, self.crop_share))

    def _resized(self, picture: Image.Image, box: Box) -> UInt8[np.ndarray, "h w 3"]:
        """Resizes a box of a picture to the resolution; decodes at the smallest sufficient JPEG scale (eighths)."""
        width, height = picture.size
        wanted = [self.resolution * side / of for side, of in ((width, box[2] - box[0]), (height, box[3] - box[1]))]
        try:
            picture.draft("RGB", (math.ceil(wanted[0]), math.ceil(wanted[1])))
            across, down = picture.width / width, picture.height / height
            box = (
                box[0] * across,
                box[1] * down,
                min(box[2] * across, picture.width),
                min(box[3] * down, picture.height),
            )
            size = (self.resolution, self.resolution)
            return np.asarray(picture.convert("RGB").resize(size, _FILTERS[self.interpolation], box))
        except _DAMAGE as error:
            raise FileError(f"a damaged JPEG picture: {error}") from error


def random_box(
    size: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float], rng: np.random.Generator
) -> Box:
    """Draws a rectangle of random area, aspect ratio (log-uniform) and position, in whole pixels.

    If none fits after a few draws, returns the largest centred rectangle with an allowed aspect ratio.
    """
    width, height = size
    for _ in range(_ATTEMPTS):
        covered = width * height * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(covered * ratio)), round(math.sqrt(covered / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, upper = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, upper, left + w, upper + h
    ratio = min(max(width / height, aspect[0]), aspect[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def centre_box(size: tuple[int, int], share: float) -> Box:
    """Returns the centred square whose side is the given share of the shorter side."""
    width, height = size
    side = min(size) * share
    left, upper = (width - side) / 2, (height - side) / 2
    return left, upper, left + side, upper + side


def _opened(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))  # one training picture of ImageNet is a PNG
    except _DAMAGE as error:
        raise FileError(f"not a JPEG picture: begins with {data[:8]!r}") from error
