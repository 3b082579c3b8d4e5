"""Labelled images in three separate parts: training, search validation and test.

A search receives a `SearchData`, which has no test split. The test split is read once, for the winner (section 4 of
arXiv 1906.06832 reports it only for the found network). The other files of this folder create `Dataset`s.
"""

import dataclasses

import numpy as np
from jaxtyping import Float32, Int, Int32, UInt8

from lanas_jax.data.scaling import Scaling


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    Args:
      images: channels-last images; float32 network inputs, or uint8 images that are scaled on reading.
      labels: class of each image.

    Raises:
      ValueError: if a rank or dtype is wrong, there is no image, lengths differ, or a value is not finite.
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
    """The data available to a search.

    Args:
      train: training images.
      validation: search-validation images, on which candidates are compared.
      classes: number of classes; labels are 0 to ``classes - 1``.
      scaling: scaling of 8-bit images on reading; None for float32 images.

    Raises:
      ValueError: if a label is out of range, shapes or dtypes of images differ, or 8-bit images have no scaling.
    """

    train: Split
    validation: Split
    classes: int
    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        for images in (self.train.images, self.validation.images):
            if (images.dtype == np.uint8) != (self.scaling is not None):
                raise ValueError(
                    f"{images.dtype} images with scaling {self.scaling}: uint8 needs a scaling, float32 must have none"
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
    """Search data and a separate test split.

    Raises:
      ValueError: if a test label is out of range, or test images differ in shape or dtype from those of the search.
    """

    search: SearchData
    test: Split

    def __post_init__(self) -> None:
        if self.test.images.dtype != (dtype := self.search.train.images.dtype):
            raise ValueError(f"test images are {self.test.images.dtype}, those of the search {dtype}")
        check_fits(self.test, self.search.image_shape, self.search.classes, "test")


def check_fits(split: Split, image_shape: tuple[int, int, int], classes: int, name: str) -> None:
    """Checks the image shape and the labels of a split.

    Raises:
      ValueError: if they do not match; names the split, its contents and the expectation.
    """
    if split.images.shape[1:] != image_shape:
        raise ValueError(f"{name} images have shape {split.images.shape[1:]}, expected {image_shape}")
    low, high = int(split.labels.min()), int(split.labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"{name} labels run from {low} to {high}, expected 0 to {classes - 1}")


@dataclasses.dataclass(frozen=True)
class SplitSizes:
    """Sizes of the parts of a dataset.

    Args:
      seed: random seed of the draws.
      validation: number of training images held out for search validation.
      train: number of training images; None for all others.
      test: number of test images; None for all.
      size: height and width, in pixels, to which images are reduced by averaging; None for no reduction.
    """

    seed: int = 0
    validation: int = 10_000
    train: int | None = None
    test: int | None = None
    size: int | None = None

    def divide(self, train: Split, test: Split, classes: int) -> Dataset:
        """Divides a dataset into three parts; the validation images do not depend on `train`.

        Images are sorted before the draw, so that a seed selects the same images independent of the order of reading.

        Args:
          train: official training images, uint8.
          test: official test images.
          classes: number of classes.

        Returns:
          The parts with 8-bit images, and a scaling by mean and deviation of the training part.

        Raises:
          ValueError: if a part has fewer images than classes, the parts exceed the number of images, or `size` does not
            divide the image size.
        """
        for images, parts in (
            (len(train), {"validation": self.validation, "train": self.train}),
            (len(test), {"test": self.test}),
        ):
            check_parts(images, classes, parts)
        train, test = in_order(train), in_order(test)
        validation, rest = draw_stratified(train.labels, self.validation, self.seed)
        fitted = self._shrunk(train, self._some_rows(train.labels, rest, self.train))
        tested = self._shrunk(test, self._some_rows(test.labels, np.arange(len(test)), self.test))
        search = SearchData(fitted, self._shrunk(train, validation), classes, Scaling.of(fitted.images))
        return Dataset(search, tested)

    def _some_rows(self, labels: Int32[np.ndarray, " n"], rows: Int[np.ndarray, " m"], n: int | None) -> np.ndarray:
        """Returns `n` of the rows, drawn stratified, or all."""
        return rows if n in (None, len(rows)) else rows[draw_stratified(labels[rows], n, self.seed)[0]]

    def _shrunk(self, split: Split, rows: Int[np.ndarray, " m"]) -> Split:
        images = split.images[rows]
        return Split(images if self.size is None else average_pixels(images, self.size), split.labels[rows])


def check_parts(images: int, classes: int, parts: dict[str, int | None]) -> None:
    """Checks that images can be divided into the given parts; None means all remaining images.

    Raises:
      ValueError: if a part or the remainder has fewer images than classes; names all parts.
    """
    rest = images - sum(n or 0 for n in parts.values())
    given = {name: rest if n is None else n for name, n in parts.items()}
    if min(given.values()) < classes or (rest < classes and rest != 0):
        listed = ", ".join(f"{n} ({name})" for name, n in given.items())
        raise ValueError(
            f"{images} images in parts of {listed}: each part needs at least {classes}, one per class, "
            "and the remainder needs as many or none"
        )


def draw_stratified(labels: Int32[np.ndarray, " n"], part: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows of a stratified part of `part` images, and all other rows, both shuffled.

    The same labels and seed give the same rows on every machine.
    """
    from sklearn.model_selection import train_test_split

    rest, chosen = train_test_split(np.arange(len(labels)), test_size=part, stratify=labels, random_state=seed)
    return chosen, rest


def in_order(split: Split) -> Split:
    """Returns the images sorted by label and pixels, an order independent of the file."""
    pixels = split.images.reshape(len(split), -1)
    keys = np.column_stack([split.labels.astype(np.uint8), pixels])
    order = np.argsort(keys.view(np.dtype((np.void, keys.shape[1]))).ravel(), kind="stable")
    return Split(split.images[order], split.labels[order])


def average_pixels(
    images: UInt8[np.ndarray, "n height width channels"], size: int
) -> UInt8[np.ndarray, "n size size c"]:
    """Reduces images to `size` x `size`; each pixel is the rounded mean of a square of pixels.

    Raises:
      ValueError: if the size does not divide height and width into squares.
    """
    n, height, width, channels = images.shape
    side = height // size if size > 0 else 0
    if side < 1 or (side * size, side * size) != (height, width):
        raise ValueError(f"images of {height} x {width} cannot be averaged to {size} x {size}: not whole squares")
    sums = images.reshape(n, size, side, size, side, channels).sum(axis=(2, 4), dtype=np.uint32)
    return ((sums + side * side // 2) // (side * side)).astype(np.uint8)
