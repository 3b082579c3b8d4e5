"""Labelled images prepared by tensorflow-datasets, read without TensorFlow.

A prepared folder, such as ``cifar10/3.0.2``, holds its metadata, and the files of each split in TFRecord (default) or
ArrayRecord format. Every record is a ``tf.train.Example`` (tensorflow/core/example/example.proto) with the features
``image``, a PNG or JPEG file, and ``label``. Records are ordered by a hash, not as in the original files.

tensorflow-datasets reads the metadata and parses the records. It reads TFRecord files with TensorFlow only, so their
framing is read by `lanas_jax.formats.tfrecord`. It decodes images with OpenCV if that is installed. Here Pillow
always decodes them, so that pixels do not depend on what is installed.
"""

import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lanas_jax.data.sources import Contents
from lanas_jax.data.splits import Split
from lanas_jax.formats import array_record, pictures, protobuf, tfrecord
from lanas_jax.formats.errors import FileError

INFO = "dataset_info.json"
_INTEGERS = 3  # field of a tf.train.Feature that holds integers


def read_tfds_folder(folder: Path, contents: Contents) -> tuple[Split, Split]:
    """Reads training and test images of a prepared dataset.

    Raises:
      FileError: if a file is missing, damaged or truncated, its number of records differs from ``dataset_info.json``,
        or a record is invalid; names the file and the record.
      ImportError: if the files are ArrayRecord files and the package for them is not installed.
    """
    found = open_folder(folder, ("train", "test"))
    train, test = (
        _split(shards, found.features, contents, f"{folder}: {name}")
        for name, shards in zip(("train", "test"), (found.train, found.test), strict=True)
    )
    return train, test


class Shard(NamedTuple):
    """One file of a split."""

    path: Path
    kind: str  # tfrecord or array_record
    length: int  # number of records


class PreparedFolder(NamedTuple):
    """Contents of a prepared folder.

    Attributes:
      name: name of the dataset.
      features: ``tensorflow_datasets.features.FeaturesDict`` that parses its records.
      train: files of the training split, existing or not.
      test: files of the test split, existing or not.
    """

    name: str
    features: Any
    train: list[Shard]
    test: list[Shard]


def open_folder(folder: Path, splits: tuple[str, str]) -> PreparedFolder:
    """Reads the metadata of a prepared folder; `splits` are the names of its training and test split.

    Raises:
      FileError: if the metadata is missing or damaged, or lacks a split.
    """
    import tensorflow_datasets as tfds  # takes more than half a second to import

    try:
        info = tfds.builder_from_directory(folder).info
        train, test = (_shards(info.splits[name], info.file_format.value) for name in splits)
        return PreparedFolder(info.name, info.features, train, test)
    except Exception as error:  # tensorflow-datasets, JSON and protocol buffers raise unrelated types
        raise FileError(
            f"{folder / INFO}: expected a dataset with the splits {' and '.join(splits)}, prepared by "
            f"tensorflow-datasets; {type(error).__name__}: {error}"
        ) from error


def parse_example(features: Any, data: bytes) -> tuple[bytes, int]:
    """Returns the encoded image and the label of a ``tf.train.Example``.

    Raises:
      ValueError: if the message is invalid, or lacks an image as bytes or a label as an integer.
    """
    import tensorflow_datasets as tfds

    try:
        found = features.deserialize_example_np(data, decoders={"image": tfds.decode.SkipDecoding()})
        image, label = found["image"], found["label"]
    except Exception as error:  # errors of protocol buffers are not ValueErrors
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if not isinstance(image, bytes) or not isinstance(label, int):
        raise ValueError(f"the image is {type(image).__name__}, the label {type(label).__name__}")
    return image, label


def label_within(content: bytes | mmap.mmap, start: int, end: int) -> int:
    """Returns the label of a ``tf.train.Example`` within a file, without reading its image, as `parse_example` would.

    Raises:
      ValueError: if the message is invalid or has no label; also TypeError and IndexError.
    """
    [(_, *features)] = protobuf.spans(content, start, end)
    for _, *entry in protobuf.spans(content, *features):
        (_, *name), (_, *feature) = sorted(protobuf.spans(content, *entry))
        if content[slice(*name)] == b"label":
            [(kind, first, last)] = protobuf.spans(content, *feature)
            if kind != _INTEGERS:
                break
            value = protobuf.fields(content[first:last])[0][1]
            return protobuf.varint(value, 0)[0] if isinstance(value, bytes) else int(value)  # packed or not
    raise ValueError("it has no label that is an integer")


def _shards(split: Any, kind: str) -> list[Shard]:
    if kind not in ("tfrecord", "array_record"):
        raise ValueError(f"unsupported file format {kind}; prepare the dataset as tfrecord, the default")
    paths = (Path(os.fspath(path)) for path in split.filepaths)
    return [Shard(path, kind, length) for path, length in zip(paths, split.shard_lengths, strict=True)]


def _split(files: list[Shard], features: Any, contents: Contents, where: str) -> Split:
    images, labels = [], []
    for path, kind, expected in files:
        number = -1
        for number, data in enumerate(_records(path, kind)):
            image, label = _labelled(data, features, contents, f"{path}: record {number}")
            images.append(image)
            labels.append(label)
        if number + 1 != expected:
            raise FileError(f"{path}: expected {expected} records, as {INFO} says; found {number + 1}")
    return contents.split(np.array(images), np.array(labels, np.int64), where)


def _records(path: Path, kind: str) -> Iterable[bytes]:
    if kind == "array_record":
        return array_record.records(path)
    return (record.data for record in tfrecord.records(path))


def _labelled(data: bytes, features: Any, contents: Contents, where: str) -> tuple[np.ndarray, int]:
    try:
        image, label = parse_example(features, data)
    except ValueError as error:
        raise FileError(f"{where}: expected a tf.train.Example with an image and a label; {error}") from error
    if not 0 <= label < contents.classes:
        raise FileError(f"{where}: expected a label from 0 to {contents.classes - 1}; found {label}")
    return pictures.decode_picture(image, contents.image_shape, where), label
