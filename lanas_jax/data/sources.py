"""Where the files of a dataset are looked for, in which forms, and what is said where there are none."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

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


Reader = Callable[[Path, Contents], tuple[Split, Split]]


class MissingDatasetError(FileNotFoundError):
    """No file of a dataset was found; says where it was looked for, in which forms, and how to get it."""


class Form(NamedTuple):
    """One way in which a dataset is kept."""

    place: str  # pattern of a file or folder, below the folder that is searched
    mark: str  # a file by which a folder is known; empty where the place is a file
    read: Reader  # from the place to training and test images

    def find(self, path: Path) -> Path | None:
        """The place below a folder, else the path itself where it is such a place or such a kind of file."""
        if path.is_file():
            return path if not self.mark and path.suffix == Path(self.place).suffix else None
        for place in (*sorted(path.glob(self.place), reverse=True), path):
            if (place / self.mark).is_file():
                return place
        return None


@dataclasses.dataclass(frozen=True)
class DatasetSource:
    """All that is known of where a dataset comes from.

    Args:
      contents: what its files are checked against.
      forms: in the order in which they are looked for.
      advice: how to get the files: a sentence or a command.
      folders: to look in after all others.
    """

    contents: Contents
    forms: tuple[Form, ...]
    advice: str
    folders: tuple[Path, ...] = ()

    def there(self, data_dir: Path | str | None = None) -> bool:
        """Whether a form of it is found; arguments as for `read`."""
        return any(form.find(folder) is not None for folder in self._folders(data_dir) for form in self.forms)

    def read(self, data_dir: Path | str | None = None) -> tuple[Split, Split]:
        """Training and test images of the first form that is found; a faulty one is an error, not passed over.

        Args:
          data_dir: the folder that is looked in, or the file or folder itself. Default: the folders that the
            environment variable TFDS_DATA_DIR, ``~/tensorflow_datasets`` and the variable LANAS_DATA name.

        Raises:
          MissingDatasetError: nothing was found.
          FileError: a file is damaged, of another kind, or holds another dataset.
        """
        form, path = self.find(data_dir)
        train, test = form.read(path, self.contents)
        self.contents.check(train, test, str(path))
        return train, test

    def find(self, data_dir: Path | str | None = None) -> tuple[Form, Path]:
        """The first form that is found, and where; arguments as for `read`.

        Raises:
          MissingDatasetError: nothing was found.
        """
        folders = self._folders(data_dir)
        for folder in folders:
            for form in self.forms:
                if (path := form.find(folder)) is not None:
                    return form, path
        raise MissingDatasetError(
            f"{self.contents.name} is not there.\n"
            f"Looked in: {', '.join(map(_told, folders))}\n"
            f"for any of: {', '.join(str(Path(form.place) / form.mark) for form in self.forms)}\n"
            f"{self.advice}"
        )

    def _folders(self, data_dir: Path | str | None) -> list[Path]:
        if data_dir is not None:
            return [Path(data_dir)]
        named = (os.environ.get("TFDS_DATA_DIR"), "~/tensorflow_datasets", os.environ.get("LANAS_DATA"))
        return [*(Path(folder).expanduser() for folder in named if folder), *self.folders]


def _told(path: Path) -> str:
    if path.is_file():
        return f"{path} (a file of another kind)"
    return str(path) if path.is_dir() else f"{path} (does not exist)"
