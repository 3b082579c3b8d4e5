"""Lookup of the files of a dataset in its supported forms, and the error message if there are none."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lanas_jax.data.splits import Split
from lanas_jax.formats.errors import FileError
from lanas_jax.runtime.paths import PathError, local_path


@dataclasses.dataclass(frozen=True)
class Contents:
    """Contents of an image dataset whose classes have equal numbers of images.

    Args:
      name: name of the dataset.
      image_shape: height, width and channels; pixels have 8 bits.
      classes: number of classes; labels start at 0.
      train: total number of training images.
      test: total number of test images.
    """

    name: str
    image_shape: tuple[int, int, int]
    classes: int
    train: int
    test: int

    def split(self, images: Any, labels: Any, where: str) -> Split:
        """Checks images and labels from a file and returns them as a split.

        Args:
          images: uint8 images of shape ``[n, *image_shape]``.
          labels: integer labels of any dtype, one per image.
          where: name of the file and the part of it, for errors.

        Raises:
          FileError: if a shape or dtype is wrong, there is no image, lengths differ, or a label is out of range.
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
                f"{labels[wrong[0]]}, the first of {len(wrong)} wrong labels"
            )
        return Split(np.ascontiguousarray(images), labels.astype(np.int32))

    def check(self, train: Split, test: Split, where: str) -> None:
        """Checks that all images are present.

        Raises:
          FileError: if a class has fewer or more images than expected; names the class.
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
    """No file of a dataset was found; the message names the searched folders, the supported forms and the source."""


class Form(NamedTuple):
    """A supported form of a dataset on disk."""

    place: str  # pattern of a file or folder, relative to the searched folder
    mark: str  # file that identifies a folder; empty if the place is a file
    read: Reader  # function that reads training and test images from the place

    def find(self, path: Path) -> Path | None:
        """Returns the place below a folder, or the path itself if it has this form; None if neither is found."""
        if path.is_file():
            return path if not self.mark and path.suffix == Path(self.place).suffix else None
        for place in (*sorted(path.glob(self.place), reverse=True), path):
            if (place / self.mark).is_file():
                return place
        return None


@dataclasses.dataclass(frozen=True)
class DatasetSource:
    """Sources of a dataset.

    Args:
      contents: expected contents, checked after reading.
      forms: supported forms, in the order of lookup.
      advice: sentence or command that says how to get the files.
      folders: additional folders, searched last.
    """

    contents: Contents
    forms: tuple[Form, ...]
    advice: str
    folders: tuple[Path, ...] = ()

    def there(self, data_dir: Path | str | None = None) -> bool:
        """Returns whether the dataset is found in some form; arguments as for `read`."""
        return any(form.find(folder) is not None for folder in self._folders(data_dir) for form in self.forms)

    def read(self, data_dir: Path | str | None = None) -> tuple[Split, Split]:
        """Reads training and test images of the first form that is found; a damaged file is an error, not skipped.

        Args:
          data_dir: folder to search, or the file or folder itself. Default: the folder in the environment variable
            TFDS_DATA_DIR, ``~/tensorflow_datasets``, and the folder in LANAS_DATA.

        Raises:
          MissingDatasetError: if nothing is found.
          FileError: if a file is damaged, of another kind, or holds another dataset.
        """
        form, path = self.find(data_dir)
        train, test = form.read(path, self.contents)
        self.contents.check(train, test, str(path))
        return train, test

    def find(self, data_dir: Path | str | None = None) -> tuple[Form, Path]:
        """Returns the first form that is found, and its path; arguments as for `read`.

        Raises:
          MissingDatasetError: if nothing is found.
        """
        folders = self._folders(data_dir)
        for folder in folders:
            for form in self.forms:
                if (path := form.find(folder)) is not None:
                    return form, path
        raise MissingDatasetError(
            f"{self.contents.name} was not found.\n"
            f"Searched folders: {', '.join(map(_described, folders))}\n"
            f"for any of these files: {', '.join(str(Path(form.place) / form.mark) for form in self.forms)}\n"
            f"{self.advice}"
        )

    def _folders(self, data_dir: Path | str | None) -> list[Path]:
        if data_dir is not None:
            return [local_path(data_dir)]
        named = (os.environ.get("TFDS_DATA_DIR"), "~/tensorflow_datasets", os.environ.get("LANAS_DATA"))
        return [*(path for folder in named if folder and (path := _expanded(folder))), *self.folders]


def _expanded(folder: str) -> Path | None:
    """Returns a default folder; None if it is below a home folder that is unknown."""
    try:
        return local_path(folder)
    except PathError:
        if folder.startswith("~"):
            return None
        raise


def _described(path: Path) -> str:
    if path.is_file():
        return f"{path} (a file of another kind)"
    return str(path) if path.is_dir() else f"{path} (does not exist)"
