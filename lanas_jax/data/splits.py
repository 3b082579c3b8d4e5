"""Labelled images in three parts that are kept apart: train, search-validation and test.

A search is given a `SearchData`, which has no test split to look at; the test split is read once, for the final network
(section 4 of arXiv 1906.06832 reports it for the found network alone). The files beside this one make `Dataset`s.
"""

import dataclasses

import numpy as np
from jaxtyping import Float32, Int, Int32, UInt8

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


@dataclasses.dataclass(frozen=True)
class SplitSizes:
    """How training images are divided for a search, and how much is kept.

    Args:
      seed: of the draws alone.
      validation: training images to compare candidates on.
      train: training images to fit weights to; None: all others.
      test: test images; None: all.
      size: height and width in pixels to which images are reduced by averaging squares of pixels; None: as they are.
    """

    seed: int = 0
    validation: int = 10_000
    train: int | None = None
    test: int | None = None
    size: int | None = None

    def divide(self, train: Split, test: Split, classes: int) -> Dataset:
        """The dataset in three parts; the validation images do not depend on `train`.

        Images are put in an order of their own before any is drawn, so that a seed means the same images in whatever
        order they were read.

        Args:
          train: official training images, uint8.
          test: official test images.
          classes: how many there are.

        Returns:
          Images of 8 bits, scaled by mean and deviation of the part that weights are fitted to.

        Raises:
          ValueError: a part with fewer images than classes, more images than there are, or a size that does not divide
            that of the images.
        """
        for images, parts in (
            (len(train), {"validation": self.validation, "train": self.train}),
            (len(test), {"test": self.test}),
        ):
            check_parts(images, classes, parts)
        train, test = in_order(train), in_order(test)
        validation, rest = draw_stratified(train.labels, self.validation, self.seed)
        fitted = self._shrunk(train, self._kept(train.labels, rest, self.train))
        tested = self._shrunk(test, self._kept(test.labels, np.arange(len(test)), self.test))
        search = SearchData(fitted, self._shrunk(train, validation), classes, Scaling.of(fitted.images))
        return Dataset(search, tested)

    def _kept(self, labels: Int32[np.ndarray, " n"], rows: Int[np.ndarray, " m"], n: int | None) -> np.ndarray:
        """Some of the rows, or all."""
        return rows if n in (None, len(rows)) else rows[draw_stratified(labels[rows], n, self.seed)[0]]

    def _shrunk(self, split: Split, rows: Int[np.ndarray, " m"]) -> Split:
        images = split.images[rows]
        return Split(images if self.size is None else average_pixels(images, self.size), split.labels[rows])


def check_parts(images: int, classes: int, parts: dict[str, int | None]) -> None:
    """Whether images can be divided so; None stands for all that are left over.

    Raises:
      ValueError: a part, or what is left over, has fewer images than classes; names all parts.
    """
    rest = images - sum(n or 0 for n in parts.values())
    given = {name: rest if n is None else n for name, n in parts.items()}
    if min(given.values()) < classes or (rest < classes and rest != 0):
        listed = ", ".join(f"{n} ({name})" for name, n in given.items())
        raise ValueError(
            f"{images} images in parts of {listed}: each part needs at least {classes}, one per class, "
            "and so does what is left over, if anything is"
        )


def draw_stratified(labels: Int32[np.ndarray, " n"], part: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a stratified part of so many images, and all other rows, both shuffled.

    The same labels and seed give the same rows on every machine.
    """
    from sklearn.model_selection import train_test_split

    rest, chosen = train_test_split(np.arange(len(labels)), test_size=part, stratify=labels, random_state=seed)
    return chosen, rest


def in_order(split: Split) -> Split:
    """The images by label and pixels, an order that does not depend on the file they come from."""
    pixels = split.images.reshape(len(split), -1)
    keys = np.column_stack([split.labels.astype(np.uint8), pixels])
    order = np.argsort(keys.view(np.dtype((np.void, keys.shape[1]))).ravel(), kind="stable")
    return Split(split.images[order], split.labels[order])


def average_pixels(
    images: UInt8[np.ndarray, "n height width channels"], size: int
) -> UInt8[np.ndarray, "n size size c"]:
    """Images of `size` x `size`: each pixel the rounded mean of a square of pixels.

    Raises:
      ValueError: the size does not divide height and width into squares.
    """
    n, height, width, channels = images.shape
    side = height // size if size > 0 else 0
    if side < 1 or (side * size, side * size) != (height, width):
        raise ValueError(f"images of {height} x {width} cannot be averaged to {size} x {size}: no whole squares")
    sums = images.reshape(n, size, side, size, side, channels).sum(axis=(2, 4), dtype=np.uint32)
    return ((sums + side * side // 2) // (side * side)).astype(np.uint8)
