"""Parts of a dataset that are drawn by a seed, each with its share of every class (stratified)."""

import dataclasses

import numpy as np
from jaxtyping import Int, Int32, UInt8

from lanas_jax.data.scaling import Scaling
from lanas_jax.data.splits import Dataset, SearchData, Split


@dataclasses.dataclass(frozen=True)
class Parts:
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
        validation, rest = drawn(train.labels, self.validation, self.seed)
        fitted = self._shrunk(train, self._kept(train.labels, rest, self.train))
        tested = self._shrunk(test, self._kept(test.labels, np.arange(len(test)), self.test))
        search = SearchData(fitted, self._shrunk(train, validation), classes, Scaling.of(fitted.images))
        return Dataset(search, tested)

    def _kept(self, labels: Int32[np.ndarray, " n"], rows: Int[np.ndarray, " m"], n: int | None) -> np.ndarray:
        """Some of the rows, or all."""
        return rows if n in (None, len(rows)) else rows[drawn(labels[rows], n, self.seed)[0]]

    def _shrunk(self, split: Split, rows: Int[np.ndarray, " m"]) -> Split:
        images = split.images[rows]
        return Split(images if self.size is None else averaged(images, self.size), split.labels[rows])


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


def drawn(labels: Int32[np.ndarray, " n"], part: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
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


def averaged(images: UInt8[np.ndarray, "n height width channels"], size: int) -> UInt8[np.ndarray, "n size size c"]:
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
