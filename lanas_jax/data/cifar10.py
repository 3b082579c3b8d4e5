"""CIFAR-10: 60,000 colour images of 32 x 32 pixels, 6,000 of each of ten classes, 10,000 images for the final test.

Source: A. Krizhevsky, *Learning Multiple Layers of Features from Tiny Images* (2009). Classes in the order of their
labels: airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck.

It is read from the first of these that is found: a folder prepared by tensorflow-datasets
(`lanas_jax.data.tfds_folder`), the original files (`lanas_jax.data.cifar10_archives`), or an ``.npz`` file
(`lanas_jax.data.cifar10_npz`).
"""

from pathlib import Path

from lanas_jax.data import cifar10_archives, cifar10_npz, tfds_folder
from lanas_jax.data.sources import Contents, DatasetSource, Form
from lanas_jax.data.splits import Dataset, SplitSizes

CLASSES = 10
SOURCE = DatasetSource(
    Contents("CIFAR-10", (32, 32, 3), CLASSES, train=50_000, test=10_000),
    (
        Form("cifar10/3.*", tfds_folder.INFO, tfds_folder.read_tfds_folder),
        *(Form(v.folder, v.train[0], cifar10_archives.read_folder) for v in cifar10_archives.VERSIONS),
        *(Form(name, "", cifar10_archives.read_archive) for name in cifar10_archives.MD5),
        Form("cifar10.npz", "", cifar10_npz.read_cifar10_npz),
        Form("cifar10_jpegbytes.npz", "", cifar10_npz.read_cifar10_npz),
    ),
    "To prepare it (170 MB from cs.toronto.edu, once): pip install 'lanas-jax[tensorflow]', then\n"
    """python -c "import tensorflow_datasets as tfds; tfds.builder('cifar10').download_and_prepare()"\n"""
    "or give the folder of cifar-10-python.tar.gz as data_dir.",
)


def load_cifar10(
    data_dir: Path | str | None = None,
    *,
    seed: int = 0,
    validation: int = 10_000,
    train: int | None = None,
    test: int | None = None,
    size: int | None = None,
) -> Dataset:
    """Loads CIFAR-10 in three stratified parts: the official test images, and two parts of the training images.

    A seed gives the same parts on every machine and for every source with the same pixels. JPEG sources differ, because
    images are ordered by their pixels before the draw.

    Args:
      data_dir: folder of the dataset, or its file; default: the folders of
        `lanas_jax.data.sources.DatasetSource.read`.
      seed: random seed of the draws.
      validation: number of training images held out for search validation; independent of `train`.
      train: number of training images; default: all others.
      test: number of test images; default: all 10,000.
      size: height and width (16, 8, 4, 2 or 1) to which images are reduced by averaging; default: 32, not reduced.

    Returns:
      Images ``uint8[n, 32, 32, 3]``, labels ``int32[n]``, and the scaling of the training part.

    Raises:
      MissingDatasetError: if no file is found; says where it looked and how to prepare the dataset.
      FileError: if a file is damaged, incomplete or of another kind; names the file, and the member or record.
      ValueError: if the parts do not fit the number of images, or the size does not divide 32.
    """
    images = SOURCE.read(data_dir)
    return SplitSizes(seed, validation, train, test, size).divide(*images, CLASSES)
