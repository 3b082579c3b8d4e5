"""ImageNet (ILSVRC 2012): 1,281,167 training and 50,000 validation images of 1,000 classes, streamed in batches.

Source: O. Russakovsky et al., *ImageNet Large Scale Visual Recognition Challenge* (arXiv 1409.0575). It is read from a
folder prepared by tensorflow-datasets, in TFRecord or ArrayRecord format, without TensorFlow. The official validation
images are the test split, read once at the end. Search-validation images are held out from the training images.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64

from lanas_jax.data import record_index, tfds_folder
from lanas_jax.data.crops import Crop
from lanas_jax.data.image_streams import Damage, DecoderWorkers, EvaluationImages, TrainingImages
from lanas_jax.data.scaling import Scaling
from lanas_jax.data.sources import Contents, DatasetSource, Form
from lanas_jax.data.streams import StreamedDataset
from lanas_jax.data.tfds_folder import PreparedFolder
from lanas_jax.formats.errors import FileError

NAME = "imagenet2012"
SCALING = Scaling((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # of the training images, commonly used values
SOURCE = DatasetSource(
    Contents("ImageNet", (224, 224, 3), 1000, train=1_281_167, test=50_000),
    (Form(f"{NAME}/5.*", tfds_folder.INFO, tfds_folder.read_tfds_folder),),
    "To prepare it: get ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from image-net.org, then\n"
    "pip install 'lanas-jax[tensorflow]' and tfds build imagenet2012 --manual_dir FOLDER_OF_BOTH;\n"
    "or give the folder that holds imagenet2012 as data_dir.",
)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Settings for reading ImageNet.

    Args:
      crop: crop settings.
      validation: total number of training images held out for search validation, equally many per class.
      seed: random seed of the held-out images.
      workers: processes and threads for decoding.
      most_damaged: maximum share of damaged records in a split.

    Raises:
      ValueError: if the share is outside [0, 1), or `validation` is below one.
    """

    crop: Crop = dataclasses.field(default_factory=Crop)
    validation: int = 10_000
    seed: int = 0
    workers: DecoderWorkers = dataclasses.field(default_factory=DecoderWorkers)
    most_damaged: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.most_damaged < 1:
            raise ValueError(f"most_damaged must be in [0, 1); got {self.most_damaged}")
        if self.validation < 1:
            raise ValueError(f"validation must be at least 1; got {self.validation}")


def load_imagenet(
    data_dir: Path | str | None = None,
    how: Pictures | None = None,
    note: Callable[[str], None] = print,
    source: DatasetSource | None = None,
) -> StreamedDataset:
    """Opens ImageNet as streams. The first call scans all records, once.

    Args:
      data_dir: folder that holds ``imagenet2012``, or the prepared folder itself; default: the folders of
        `lanas_jax.data.sources.DatasetSource.read`.
      how: settings for reading.
      note: function that receives messages about long operations and damaged records.
      source: source of images in the same form with other numbers of images or classes; default: `SOURCE`.

    Raises:
      MissingDatasetError: if no file is found; says where it looked and how to prepare the dataset.
      FileError: if the files are incomplete, damaged, or of another dataset; names the file and what to do.
      ValueError: if the number of validation images is not a multiple of the classes, or too large.
      ImportError: if a package of the extra ``imagenet`` is not installed.
    """
    how = how or Pictures()
    source = source or SOURCE
    contents = source.contents
    _, folder = source.find(data_dir)
    prepared = _checked(folder, contents)
    train, test = (
        record_index.index(shards, prepared.features, contents.classes, note)
        for shards in (prepared.train, prepared.test)
    )
    validation, rest = held_out(train.labels, how.validation, contents.classes, how.seed)
    damage = Damage(train, how.most_damaged, note)
    everything = np.arange(len(test), dtype=np.int64)
    return StreamedDataset(
        TrainingImages(train, rest, how.crop, how.workers, damage),
        EvaluationImages(train, validation, how.crop, how.workers, damage),
        EvaluationImages(test, everything, how.crop, how.workers, Damage(test, how.most_damaged, note)),
        contents.classes,
        (how.crop.resolution, how.crop.resolution, 3),
        SCALING,
    )


def sample_pictures(count: int, data_dir: Path | str | None = None, source: DatasetSource | None = None) -> list[bytes]:
    """Returns encoded images from the first training file, without scanning the others.

    Args:
      count: number of images; fewer if the file has fewer records.
      data_dir: folder of the dataset, as in `load_imagenet`.
      source: source of the images, as in `load_imagenet`.

    Raises:
      MissingDatasetError, FileError, ImportError: as in `load_imagenet`.
    """
    source = source or SOURCE
    prepared = _checked(source.find(data_dir)[1], source.contents)
    first = record_index.index(prepared.train[:1], prepared.features, source.contents.classes, lambda text: None)
    return [first.image(record) for record in range(min(count, len(first)))]


def held_out(
    labels: Int32[np.ndarray, " n"], part: int, classes: int, seed: int
) -> tuple[Int64[np.ndarray, " part"], Int64[np.ndarray, " rest"]]:
    """Returns the rows of a part with equally many of each class, and all other rows; both in ascending order.

    Raises:
      ValueError: if the part is not a multiple of the number of classes, or takes all rows of a class.
    """
    each, fewest = part // classes, int(np.bincount(labels, minlength=classes).min())
    if part % classes or not 0 < each < fewest:
        raise ValueError(
            f"validation must be a multiple of the {classes} classes, from {classes} to {(fewest - 1) * classes}, so "
            f"that training images of each class remain (the smallest class has {fewest}); got {part}"
        )
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    starts = np.searchsorted(labels[by_class], np.arange(classes))
    chosen = np.sort(by_class[(starts[:, None] + np.arange(each)).ravel()])
    return chosen, np.setdiff1d(np.arange(len(labels)), chosen, assume_unique=True)


def _checked(folder: Path, contents: Contents) -> PreparedFolder:
    """Opens the folder and checks that all files of both splits exist and their numbers of records are complete."""
    prepared = tfds_folder.open_folder(folder, ("train", "validation"))
    if prepared.name != NAME:
        raise FileError(
            f"{folder}: expected the dataset {NAME}; found {prepared.name}; give another folder as data_dir"
        )
    advice = "the preparation is incomplete: remove the folder, then run tfds build imagenet2012"
    paths = [shard.path for shard in prepared.train + prepared.test]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileError(f"{missing[0]} is missing, the first of {len(missing):,} of {len(paths):,} files; {advice}")
    for split, shards, expected in (
        ("train", prepared.train, contents.train),
        ("validation", prepared.test, contents.test),
    ):
        found = sum(shard.length for shard in shards)
        if found != expected:
            raise FileError(
                f"{folder / tfds_folder.INFO}: expected {expected:,} records of {split}; found {found:,}; {advice}"
            )
    return prepared
