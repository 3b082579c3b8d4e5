"""Labelled images in three parts that are kept apart: train, search-validation and test.

A search is given a `SearchData`, which has no test split to look at; the test split is read once, for the final network
(section 4 of arXiv 1906.06832 reports it for the found network alone). The files beside this one make `Dataset`s.
"""

import dataclasses

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from lanas_jax.data.scaling import Scaling


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    Args:
      images: channels last; float32 as the network reads them, or uint8, to be scaled when they are read.
      labels: class of each image.

    Raises:
      ValueError: wrong ranks or dtypes, no image, unequal lengths, or a value that is not finite.
    """

    images: Float32[np.ndarray, "n height width channels"] | UInt8[np.ndarray, "n height width channels"]
    labels: Int32[np.ndarray, " n"]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype not in (np.float32, np.uint8):
            raise ValueError(
                "images must be float32 or uint8[n, height, width, channels]; "
                f"got {self.images.dtype} of shape {self.images.shape}"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != np.int32:
            raise ValueError(
                f"labels must be int32[{len(self.images)}], one per image; "
                f"got {self.labels.dtype} of shape {self.labels.shape}"
            )
        if not len(self.images):
            raise ValueError("a split needs at least one image")
        if self.images.dtype == np.float32 and not np.isfinite(self.images).all():
            raise ValueError("images hold NaN or infinite values")

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class SearchData:
    """All that a search may see.

    Args:
      train: what weights are fitted to.
      validation: what candidates are compared on.
      classes: number of classes; labels run from 0 to ``classes - 1``.
      scaling: how images of 8 bits are scaled when they are read; None where they are float32.

    Raises:
      ValueError: a label out of range, images of two shapes or dtypes, or images of 8 bits without scaling.
    """

    train: Split
    validation: Split
    classes: int
    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        for images in (self.train.images, self.validation.images):
            if (images.dtype == np.uint8) != (self.scaling is not None):
                raise ValueError(
                    f"{images.dtype} images with scaling {self.scaling}: uint8 needs one, float32 has none"
                )
        for name, split in (("train", self.train), ("validation", self.validation)):
            check_fits(split, self.image_shape, self.classes, name)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset whose test split stands apart from what a search sees.

    Raises:
      ValueError: a test label out of range, or test images of another shape or dtype than those of the search.
    """

    search: SearchData
    test: Split

    def __post_init__(self) -> None:
        if self.test.images.dtype != (dtype := self.search.train.images.dtype):
            raise ValueError(f"test images are {self.test.images.dtype}, those of the search {dtype}")
        check_fits(self.test, self.search.image_shape, self.search.classes, "test")


def check_fits(split: Split, image_shape: tuple[int, int, int], classes: int, name: str) -> None:
    """Checks a split against the images and classes it should hold.

    Raises:
      ValueError: names the split, what it holds and what was expected.
    """
    if split.images.shape[1:] != image_shape:
        raise ValueError(f"{name} images have shape {split.images.shape[1:]}, expected {image_shape}")
    low, high = int(split.labels.min()), int(split.labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"{name} labels run from {low} to {high}, expected 0 to {classes - 1}")
