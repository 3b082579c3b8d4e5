"""Index of the positions and labels of the records of a prepared split, for random access.

TFRecord files have no directory, so they are scanned once by their record lengths, which reads a few bytes per record.
The result is cached in the user's cache folder under the names, sizes and times of the files, so changed files are
scanned again. ArrayRecord files support random access, but are read once for their labels. Their data source in
tensorflow-datasets is not used, because it holds all files open: it fails on ImageNet's 1,024 training files under the
usual limit of 1,024 open files.
"""

import dataclasses
import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from lanas_jax.data import tfds_folder
from lanas_jax.data.tfds_folder import Shard
from lanas_jax.formats import array_record, npz, tfrecord
from lanas_jax.formats.errors import FileError
from lanas_jax.runtime import caches
from lanas_jax.runtime.paths import PathError

_THREADS = 16  # threads of a scan, which mostly waits for the disk
_ERRORS = (ValueError, TypeError, IndexError)


@dataclasses.dataclass(frozen=True, eq=False)
class RecordIndex:
    """The records of a split, in the order of their files.

    Attributes:
      shards: files of the split.
      ends: cumulative number of records at the end of each file.
      places: position of each record in its file: the first byte (TFRecord) or the number (ArrayRecord).
      labels: label of each record.
      features: ``tensorflow_datasets.features.FeaturesDict`` that parses a record.
      fingerprint: hash of the files' names, sizes and numbers of records.
    """

    shards: tuple[Shard, ...]
    ends: Int64[np.ndarray, " files"]
    places: Int64[np.ndarray, " n"]
    labels: Int32[np.ndarray, " n"]
    features: Any
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, record: int) -> str:
        """Returns the file and the number of a record, for messages."""
        file = int(np.searchsorted(self.ends, record, side="right"))
        return f"{self.shards[file].path}: record {record - int(self.ends[file]) + self.shards[file].length}"

    def image(self, record: int) -> bytes:
        """Returns the encoded image of a record.

        Raises:
          FileError: if the record is damaged.
        """
        path, kind, _ = self.shards[int(np.searchsorted(self.ends, record, side="right"))]
        read = array_record.read_at if kind == "array_record" else tfrecord.read_at
        data = read(path, int(self.places[record]))
        try:
            return tfds_folder.parse_example(self.features, data)[0]
        except ValueError as error:
            raise FileError(f"{self.where(record)}: expected a tf.train.Example with an image; {error}") from error


def index(shards: list[Shard], features: Any, classes: int, note: Callable[[str], None]) -> RecordIndex:
    """Builds the index of existing files, or reads it from the cache if the files are unchanged.

    Args:
      shards: all files of a split.
      features: ``tensorflow_datasets.features.FeaturesDict`` that parses a record.
      classes: number of classes; labels are 0 to ``classes - 1``.
      note: function that receives progress messages: a scan starts, or its result cannot be cached.

    Raises:
      FileError: if a file is truncated or damaged, its number of records is wrong, or a label is out of range.
      ImportError: if the files are ArrayRecord files and the package for them is not installed.
    """
    stats = [shard.path.stat() for shard in shards]
    identity = [(s.path.name, stat.st_size, s.length) for s, stat in zip(shards, stats, strict=True)]
    state = _digest([str(shards[0].path.parent.resolve()), identity, [stat.st_mtime_ns for stat in stats]])
    try:
        kept = caches.folder("records") / f"{state}.npz"
    except PathError as error:
        note(f"the record index is not cached: {error}")
        kept = None
    records = sum(shard.length for shard in shards)
    places, labels = (kept and _cached(kept, records)) or _made(shards, kept, note)
    ends = np.cumsum([shard.length for shard in shards], dtype=np.int64)
    found = RecordIndex(tuple(shards), ends, places, labels, features, _digest(identity))
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise FileError(
            f"{found.where(int(wrong[0]))}: expected a label from 0 to {classes - 1}; found {labels[wrong[0]]}, "
            f"the first of {len(wrong)} wrong labels"
        )
    return found


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _cached(path: Path, records: int) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        found = npz.read_npz(path, ("places", "labels"))
    except FileError:  # missing or damaged: scan again
        return None
    places, labels = found["places"], found["labels"]
    return (places, labels) if len(places) == len(labels) == records else None


def _made(shards: list[Shard], path: Path | None, note: Callable[[str], None]) -> tuple[np.ndarray, np.ndarray]:
    note(f"scanning the records of {len(shards):,} files in {shards[0].path.parent}, once")
    with ThreadPoolExecutor(_THREADS) as threads:
        columns = np.concatenate(list(threads.map(_scanned, shards)))
    places, labels = columns[:, 0], columns[:, 1].astype(np.int32)
    if path is None:
        return places, labels
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        npz.write_npz(path, {"places": places, "labels": labels})
    except OSError as error:
        note(f"the record index is not cached: {path.parent} cannot be written: {error.strerror}")
    return places, labels


def _scanned(shard: Shard) -> Int64[np.ndarray, "n 2"]:
    """Returns the position and label of each record of a file."""
    found: list[tuple[int, int]] = []
    try:
        for place, label in _array_records(shard.path) if shard.kind == "array_record" else _tf_records(shard.path):
            found.append((place, min(label, 2**31 - 1)))  # negative integers decode to huge varints
    except FileError:
        raise
    except _ERRORS as error:
        raise FileError(
            f"{shard.path}: record {len(found)}: expected a tf.train.Example with a label; "
            f"{type(error).__name__}: {error}"
        ) from error
    if len(found) != shard.length:
        raise FileError(
            f"{shard.path}: expected {shard.length} records, as {tfds_folder.INFO} says; found {len(found)}"
        )
    return np.array(found, np.int64).reshape(-1, 2)


def _tf_records(path: Path) -> Iterator[tuple[int, int]]:
    if os.path.getsize(path) == 0:  # an empty file cannot be mapped
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for start, end in tfrecord.spans(content, path):
            yield start - 12, tfds_folder.label_within(content, start, end)


def _array_records(path: Path) -> Iterator[tuple[int, int]]:
    for number, data in enumerate(array_record.records(path)):
        yield number, tfds_folder.label_within(data, 0, len(data))
