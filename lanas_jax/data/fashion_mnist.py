"""Fashion-MNIST: 70,000 grey images of 28 x 28 pixels, 7,000 of each of ten classes, 10,000 images for the final test.

Source: H. Xiao, K. Rasul, R. Vollgraf, *Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
Algorithms* (arXiv 1708.07747). Classes in the order of their labels: T-shirt, trouser, pullover, dress, coat, sandal,
shirt, sneaker, bag, ankle boot.

It is read from a folder that tensorflow-datasets prepared, or from its four idx files, plain or compressed. MNIST has
files of the same names and sizes, but not as many images of one class as of another, by which it is told apart.
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
    """Training and test images of a folder with the four files.

    Raises:
      FileError: a file is missing, damaged, cut off or another; names it.
    """
    return _split(folder, "train", contents), _split(folder, "t10k", contents)


def _split(folder: Path, part: str, contents: Contents) -> Split:
    images = idx.read_idx(_file(folder, f"{part}-{IMAGES}"), 3)
    labels = idx.read_idx(_file(folder, f"{part}-{LABELS}"), 1)
    return contents.split(images[..., np.newaxis], labels, f"{folder}: {part}-{IMAGES} and {part}-{LABELS}")


def _file(folder: Path, name: str) -> Path:
    """The plain file, else the compressed one."""
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
    """Fashion-MNIST in three parts, all stratified: the official test images, and two parts of the training images.

    Args:
      data_dir: a folder that holds the files, or a folder ``fashion-mnist`` that does; default: as for
        `lanas_jax.data.sources.DatasetSource.read`, then ``/usr/share/datasets/fashion-mnist``.
      seed: of the draws alone; the same seed gives the same parts on every machine.
      validation: training images to compare candidates on; the same ones whatever `train` is.
      train: training images to fit weights to; default: all others.
      test: test images to keep; default: all 10,000.
      size: 14, 7, 4, 2 or 1: height and width to which images are reduced by averaging; default: 28 as they are.

    Returns:
      Images ``uint8[n, 28, 28, 1]``, labels ``int32[n]``, and the scaling of the training part.

    Raises:
      MissingDatasetError: there is no file of it; says where it looked and where to get it.
      FileError: a file is damaged, incomplete or another; names the file.
      ValueError: parts that the images do not fill, or a size that does not divide 28.
    """
    images = SOURCE.read(data_dir)
    return SplitSizes(seed, validation, train, test, size).divide(*images, CLASSES)
