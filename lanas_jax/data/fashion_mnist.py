"""Fashion-MNIST: 70,000 grey images of 28 x 28 pixels, 7,000 of each of ten classes, 10,000 images for the final test.

Source: H. Xiao, K. Rasul, R. Vollgraf, *Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
Algorithms* (arXiv 1708.07747). Classes in the order of their labels: T-shirt, trouser, pullover, dress, coat, sandal,
shirt, sneaker, bag, ankle boot.

It is read from a folder prepared by tensorflow-datasets, or from its four IDX files, plain or compressed. MNIST has
files of the same names and sizes; it is detected by its unequal numbers of images per class.
"""

from pathlib import Path

import numpy as np

from lanas_jax.data import tfds_folder
from lanas_jax.data.sources import Contents, DatasetSource, Form
from lanas_jax.data.splits import Dataset, Split, SplitSizes
from lanas_jax.formats import idx

CLASSES = 10
IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"


def read_fashion_mnist(folder: Path, contents: Contents) -> tuple[Split, Split]:
    """Reads training and test images from a folder with the four files.

    Raises:
      FileError: if a file is missing, damaged, cut off or of another kind; names the file.
    """
    return _split(folder, "train", contents), _split(folder, "t10k", contents)


def _split(folder: Path, part: str, contents: Contents) -> Split:
    images = idx.read_idx(_file(folder, f"{part}-{IMAGES}"), 3)
    labels = idx.read_idx(_file(folder, f"{part}-{LABELS}"), 1)
    return contents.split(images[..., np.newaxis], labels, f"{folder}: {part}-{IMAGES} and {part}-{LABELS}")


def _file(folder: Path, name: str) -> Path:
    """Returns the path of the plain file if it exists, otherwise that of the compressed one."""
    return folder / name if (folder / name).is_file() else folder / f"{name}.gz"


SOURCE = DatasetSource(
    Contents("Fashion-MNIST", (28, 28, 1), CLASSES, train=60_000, test=10_000),
    (
        Form("fashion_mnist/3.*", tfds_folder.INFO, tfds_folder.read_tfds_folder),
        *(Form("fashion-mnist", f"train-{IMAGES}{ending}", read_fashion_mnist) for ending in ("", ".gz")),
    ),
    "Get it from github.com/zalandoresearch/fashion-mnist, or on Debian and Ubuntu: apt install dataset-fashion-mnist",
    folders=(Path("/usr/share/datasets/fashion-mnist"),),
)


def load_fashion_mnist(
    data_dir: Path | str | None = None,
    *,
    seed: int = 0,
    validation: int = 10_000,
    train: int | None = None,
    test: int | None = None,
    size: int | None = None,
) -> Dataset:
    """Loads Fashion-MNIST in three stratified parts: the official test images, and two parts of the training images.

    Args:
      data_dir: folder of the files, or of a folder ``fashion-mnist`` with the files; default: the folders of
        `lanas_jax.data.sources.DatasetSource.read`, then ``/usr/share/datasets/fashion-mnist``.
      seed: random seed of the draws; a seed gives the same parts on every machine.
      validation: number of training images held out for search validation; independent of `train`.
      train: number of training images; default: all others.
      test: number of test images; default: all 10,000.
      size: height and width (14, 7, 4, 2 or 1) to which images are reduced by averaging; default: 28, not reduced.

    Returns:
      Images ``uint8[n, 28, 28, 1]``, labels ``int32[n]``, and the scaling of the training part.

    Raises:
      MissingDatasetError: if no file is found; says where it looked and where to get the dataset.
      FileError: if a file is damaged, incomplete or of another kind; names the file.
      ValueError: if the parts do not fit the number of images, or the size does not divide 28.
    """
    images = SOURCE.read(data_dir)
    return SplitSizes(seed, validation, train, test, size).divide(*images, CLASSES)
