"""What a dataset is known to hold, and the checks of its files against it.

Fixed numbers tell a file that is not whole, or another dataset in the same format, from the one that was meant.
"""

import dataclasses
from typing import Any

import numpy as np

from lanas_jax.data.splits import Split
from lanas_jax.formats.errors import FileError


@dataclasses.dataclass(frozen=True)
class Contents:
    """The images of a dataset whose classes are all of one size.

    Args:
      name: as people write it.
      image_shape: height, width and channels; pixels are 8 bits.
      classes: how many; labels run from 0.
      train: training images of all classes together.
      test: test images likewise.
    """

    name: str
    image_shape: tuple[int, int, int]
    classes: int
    train: int
    test: int

    def split(self, images: Any, labels: Any, where: str) -> Split:
        """Images and labels as they were read, checked.

        Args:
          images: uint8 of shape ``[n, *image_shape]``.
          labels: integers of any kind, one per image.
          where: the file and the part of it, for errors.

        Raises:
          FileError: another shape or kind of numbers, no image, unequal lengths, or a label out of range.
        """
        images, labels = np.asarray(images), np.asarray(labels)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != self.image_shape:
            raise FileError(
                f"{where}: expected images as uint8 of shape [n, {', '.join(map(str, self.image_shape))}]; "
                f"found {images.dtype} of shape {images.shape}"
            )
        if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1] or not len(labels):
            raise FileError(
                f"{where}: expected an integer label for each of {len(images)} images, and at least one; "
                f"found {labels.dtype} of shape {labels.shape}"
            )
        wrong = np.flatnonzero((labels < 0) | (labels >= self.classes))
        if len(wrong):
            raise FileError(
                f"{where}: expected labels from 0 to {self.classes - 1}; image {wrong[0]} has the label "
                f"{labels[wrong[0]]}, the first of {len(wrong)} that are wrong"
            )
        return Split(np.ascontiguousarray(images), labels.astype(np.int32))

    def check(self, train: Split, test: Split, where: str) -> None:
        """Whether all images are there.

        Raises:
          FileError: fewer or more images of some class; names the class.
        """
        for part, split, images in (("training", train, self.train), ("test", test, self.test)):
            counts, each = np.bincount(split.labels, minlength=self.classes), images // self.classes
            wrong = np.flatnonzero(counts != each)
            if len(wrong):
                raise FileError(
                    f"{where}: {self.name} has {images:,} {part} images, {each:,} of each class; found {len(split):,}, "
                    f"of class {wrong[0]} {counts[wrong[0]]:,}"
                )
