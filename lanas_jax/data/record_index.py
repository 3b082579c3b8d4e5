"""Where each record of a prepared split stands in its files, and its label: what reading in any order needs.

TFRecord files have no directory, so their lengths are followed once, which touches a few bytes of each record, and the
result is kept in the user's folder of caches under the names, sizes and times of the files: changed files are gone
through again. ArrayRecord files find records by themselves, but have to be read once for their labels.
"""

import dataclasses
import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64

from lanas_jax.data import tfds_folder
from lanas_jax.data.tfds_folder import Shard
from lanas_jax.formats import array_record, npz, tfrecord
from lanas_jax.formats.errors import FileError
from lanas_jax.runtime import caches

_THREADS = 16  # of a scan, which mostly waits for the disk
_ERRORS = (ValueError, KeyError, TypeError, IndexError)


@dataclasses.dataclass(frozen=True, eq=False)
class RecordIndex:
    """The records of a split, in the order of their files.

    Attributes:
      shards: the files.
      ends: number of records up to the end of each file.
      places: of each record in its file: the byte it begins at (TFRecord) or its number (ArrayRecord).
      labels: of each record.
      fingerprint: of the files' names, sizes and numbers of records.
    """

    shards: tuple[Shard, ...]
    ends: Int64[np.ndarray, " files"]
    places: Int64[np.ndarray, " n"]
    labels: Int32[np.ndarray, " n"]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, record: int) -> str:
        """File and number of a record, for people."""
        file = int(np.searchsorted(self.ends, record, side="right"))
        return f"{self.shards[file].path}: record {record - int(self.ends[file]) + self.shards[file].length}"

    def image(self, record: int) -> bytes:
        """The picture of a record, not decoded.

        Raises:
          FileError: the record is damaged.
        """
        path, kind, _ = self.shards[int(np.searchsorted(self.ends, record, side="right"))]
        read = array_record.read_at if kind == "array_record" else tfrecord.read_at
        try:
            image = tfds_folder.example(read(path, int(self.places[record])))["image"]
            if not isinstance(image, bytes):
                raise TypeError("the image must be bytes")
        except FileError:
            raise
        except _ERRORS as error:
            raise FileError(f"{self.where(record)}: expected a tf.train.Example with an image; {error}") from error
        return image


def index(shards: list[Shard], classes: int, note: Callable[[str], None]) -> RecordIndex:
    """The index of files that are there, from the cache where they are as they were.

    Args:
      shards: all files of a split.
      classes: labels run from 0 to one less.
      note: is told that files are gone through, which takes a while, or that the result cannot be kept.

    Raises:
      FileError: a file is cut off or damaged, has another number of records than was said, or a label out of range.
      ImportError: ArrayRecord files, and the package for them is not installed.
    """
    stats = [shard.path.stat() for shard in shards]
    identity = [(s.path.name, stat.st_size, s.length) for s, stat in zip(shards, stats, strict=True)]
    state = _digest([str(shards[0].path.parent.resolve()), identity, [stat.st_mtime_ns for stat in stats]])
    kept = caches.folder("records") / f"{state}.npz"
    places, labels = _kept(kept, sum(shard.length for shard in shards)) or _made(shards, kept, note)
    ends = np.cumsum([shard.length for shard in shards], dtype=np.int64)
    found = RecordIndex(tuple(shards), ends, places, labels, _digest(identity))
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise FileError(
            f"{found.where(int(wrong[0]))}: expected a label from 0 to {classes - 1}; found {labels[wrong[0]]}, "
            f"the first of {len(wrong)} that are wrong"
        )
    return found


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _kept(path: Path, records: int) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        found = npz.read_npz(path, ("places", "labels"))
    except FileError:  # none, or a damaged one: it is made anew
        return None
    places, labels = found["places"], found["labels"]
    return (places, labels) if len(places) == len(labels) == records else None


def _made(shards: list[Shard], path: Path, note: Callable[[str], None]) -> tuple[np.ndarray, np.ndarray]:
    note(f"going through the records of {len(shards):,} files in {shards[0].path.parent}, once")
    with ThreadPoolExecutor(_THREADS) as threads:
        columns = np.concatenate(list(threads.map(_scanned, shards)))
    places, labels = columns[:, 0], columns[:, 1].astype(np.int32)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        npz.write_npz(path, {"places": places, "labels": labels})
    except OSError as error:
        note(f"where records stand is not kept for the next time, {path.parent} cannot be written: {error.strerror}")
    return places, labels


def _scanned(shard: Shard) -> Int64[np.ndarray, "n 2"]:
    """Place and label of each record of a file."""
    found: list[tuple[int, int]] = []
    try:
        for place, label in _array_records(shard.path) if shard.kind == "array_record" else _tf_records(shard.path):
            found.append((place, min(label, 2**31 - 1)))  # negative ones are huge on the wire
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
    if os.path.getsize(path) == 0:  # which cannot be mapped
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for start, end in tfrecord.spans(content, path):
            yield start - 12, tfds_folder.label_within(content, start, end)


def _array_records(path: Path) -> Iterator[tuple[int, int]]:
    for number, data in enumerate(array_record.records(path)):
        yield number, tfds_folder.label_within(data, 0, len(data))
