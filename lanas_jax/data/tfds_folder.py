"""Labelled images prepared by tensorflow-datasets, read without TensorFlow.

A prepared folder, such as ``cifar10/3.0.2``, holds ``dataset_info.json``, which lists the files of each split and the
number of records in each file, and the files in TFRecord (default) or ArrayRecord format. Every record is a
``tf.train.Example`` (tensorflow/core/example/example.proto) with the features ``image``, a PNG or JPEG file, and
``label``. Records are ordered by a hash, not as in the original files.
"""

import json
import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lanas_jax.data.sources import Contents
from lanas_jax.data.splits import Split
from lanas_jax.formats import array_record, pictures, protobuf, tfrecord
from lanas_jax.formats.errors import FileError

INFO = "dataset_info.json"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_BYTES, _INTEGERS = 1, 3  # fields of a feature, by the type of its list


def read_tfds_folder(folder: Path, contents: Contents) -> tuple[Split, Split]:
    """Reads training and test images of a prepared dataset.

    Raises:
      FileError: if a file is missing, damaged or cut off, its number of records differs from ``dataset_info.json``, or
        a record is invalid; names the file and the record.
      ImportError: if the files are ArrayRecord files and the package for them is not installed.
    """
    _, train, test = shards(folder, ("train", "test"))
    return _split(train, contents, f"{folder}: train"), _split(test, contents, f"{folder}: test")


class Shard(NamedTuple):
    """One file of a split."""

    path: Path
    kind: str  # tfrecord or array_record
    length: int  # number of records


def shards(folder: Path, splits: tuple[str, str]) -> tuple[str, list[Shard], list[Shard]]:
    """Returns the dataset's name and the files of two splits listed in ``dataset_info.json``, existing or not.

    Raises:
      FileError: if ``dataset_info.json`` is missing or damaged, or lacks a split.
    """
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        found = {split["name"]: _shards(folder, info, split) for split in info["splits"]}
        return str(info["name"]), found[splits[0]], found[splits[1]]
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise FileError(
            f"{folder / INFO}: expected the splits {' and '.join(splits)} as tensorflow-datasets lists them; "
            f"{type(error).__name__}: {error}"
        ) from error


def label_within(content: bytes | mmap.mmap, start: int, end: int) -> int:
    """Returns the label of a ``tf.train.Example`` within a file, without reading its image.

    Raises:
      ValueError: if the message is invalid or has no label; also KeyError, TypeError and IndexError.
    """
    [(_, *features)] = protobuf.spans(content, start, end)
    for _, *entry in protobuf.spans(content, *features):
        (_, *name), (_, *feature) = sorted(protobuf.spans(content, *entry))
        if content[slice(*name)] == b"label":
            label = _value(content[slice(*feature)])
            if isinstance(label, int):
                return label
    raise ValueError("it has no label that is an integer")


def example(data: bytes) -> dict[str, bytes | int]:
    """Returns the first value, bytes or integer, of each feature of a ``tf.train.Example``.

    Raises:
      ValueError: if the message is invalid; also KeyError, TypeError, IndexError and AttributeError.
    """
    found: dict[str, bytes | int] = {}
    for _, entry in protobuf.fields(_bytes(protobuf.fields(data)[0][1])):
        name, feature = (_bytes(value) for _, value in sorted(protobuf.fields(_bytes(entry))))
        if (value := _value(feature)) is not None:
            found[name.decode()] = value
    return found


def _value(feature: bytes) -> bytes | int | None:
    """Returns the first value of a feature; None if it is neither bytes nor an integer."""
    [(kind, values)] = protobuf.fields(feature)
    value = protobuf.fields(_bytes(values))[0][1]
    if kind == _BYTES:
        return _bytes(value)
    if kind == _INTEGERS:  # packed (proto3) or separate values
        return protobuf.varint(value, 0)[0] if isinstance(value, bytes) else int(value)
    return None


def _bytes(value: bytes | float | int) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError(f"expected a message or bytes; found the number {value}")
    return value


def _shards(folder: Path, info: dict[str, Any], split: dict[str, Any]) -> list[Shard]:
    lengths, kind = [int(length) for length in split["shardLengths"]], info["fileFormat"]
    if kind not in ("tfrecord", "array_record"):
        raise ValueError(f"unsupported file format {kind}; prepare the dataset as tfrecord, the default")
    template = split.get("filepathTemplate") or _TEMPLATE
    names = [
        template.format(
            DATASET=info["name"],
            SPLIT=split["name"],
            FILEFORMAT=kind,
            SHARD_X_OF_Y=f"{number:05d}-of-{len(lengths):05d}",
        )
        for number in range(len(lengths))
    ]
    return [Shard(folder / name, kind, length) for name, length in zip(names, lengths, strict=True)]


def _split(files: list[Shard], contents: Contents, where: str) -> Split:
    images, labels = [], []
    for path, kind, expected in files:
        number = -1
        for number, data in enumerate(_records(path, kind)):
            image, label = _labelled(data, contents, f"{path}: record {number}")
            images.append(image)
            labels.append(label)
        if number + 1 != expected:
            raise FileError(f"{path}: expected {expected} records, as {INFO} says; found {number + 1}")
    return contents.split(np.array(images), np.array(labels, np.int64), where)


def _records(path: Path, kind: str) -> Iterable[bytes]:
    if kind == "array_record":
        return array_record.records(path)
    return (record.data for record in tfrecord.records(path))


def _labelled(data: bytes, contents: Contents, where: str) -> tuple[np.ndarray, int]:
    try:
        features = example(data)
        image, label = features["image"], features["label"]
        if not isinstance(image, bytes) or not isinstance(label, int):
            raise ValueError("the image must be bytes, the label an integer")
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise FileError(
            f"{where}: expected a tf.train.Example with an image and a label; {type(error).__name__}: {error}"
        ) from error
    if label >= contents.classes:
        raise FileError(f"{where}: expected a label from 0 to {contents.classes - 1}; found {label}")
    return pictures.decode_picture(image, contents.image_shape, where), label
