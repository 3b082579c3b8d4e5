"""Streams of images from prepared files, decoded and cropped by grain during training.

Every image is a function of seed and position. Position ``p`` of the endless training stream belongs to epoch
``p // len(stream)``; grain draws the order of an epoch without materialising it, and the crop is drawn by a generator
seeded with seed and ``p``. Therefore any step is reached without reading earlier ones, hosts read their rows of a batch
without communication, and the numbers of threads and worker processes do not change the result.

A damaged record is replaced in training by the next good record, cropped with the same random numbers, and in
evaluation by a black image of label -1. Shapes and order are unchanged. Damaged records are counted (`Damage`).
"""

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from lanas_jax.data.crops import Crop
from lanas_jax.data.record_index import RecordIndex
from lanas_jax.data.streams import Batch, Transform
from lanas_jax.formats.errors import FileError

_CHUNK = 16  # maximum number of images per task of a thread
_ENDLESS = 2**40  # number of chunks of an endless stream
_IN_A_ROW = 100  # maximum number of consecutive damaged records


@dataclasses.dataclass(frozen=True)
class DecoderWorkers:
    """Processes and threads for decoding. These settings do not change the images.

    Args:
      processes: number of worker processes; 0 for threads of this process only (Pillow releases the GIL to decode).
      threads: number of threads per process; None for an equal share of the cores.
      ahead: number of prefetched chunks of up to 16 images per thread.

    Raises:
      ValueError: if a number is out of range.
    """

    processes: int = 0
    threads: int | None = None
    ahead: int = 4

    def __post_init__(self) -> None:
        if self.processes < 0 or self.ahead < 1 or (self.threads is not None and self.threads < 1):
            raise ValueError(f"processes must not be negative, threads and ahead at least 1; got {self}")

    @property
    def threads_each(self) -> int:
        """Number of threads per process."""
        return self.threads or max(1, (os.cpu_count() or 1) // max(1, self.processes))


class Chunk(NamedTuple):
    """A few images, and the damaged records found while reading them."""

    batch: Batch
    damaged: Int64[np.ndarray, " m"]


class Damage:
    """Counts the damaged records of a split, each once, and raises an error if there are too many.

    Args:
      index: record index of the split.
      most: maximum share of damaged records.
      note: function that receives a message at the first damaged record and whenever their number has doubled.
    """

    def __init__(self, index: RecordIndex, most: float, note: Callable[[str], None]) -> None:
        self.records: set[int] = set()
        self._index, self._most, self._note, self._next = index, most, note, 1

    def add(self, records: Int64[np.ndarray, " m"]) -> None:
        """Adds damaged records.

        Raises:
          FileError: if there are too many; names one of them.
        """
        self.records.update(records.tolist())
        count = len(self.records)
        if not len(records) or count < self._next:
            return
        said = f"{count:,} of {len(self._index):,} records are damaged, e.g. {self._index.where(int(records[-1]))}"
        if count > self._most * len(self._index):
            raise FileError(f"{said}; the maximum share is {self._most:g}; prepare the dataset again")
        self._note(f"{said}; they are skipped")
        self._next = 2 * count


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingImages:
    """A `lanas_jax.data.streams.TrainingStream` of random crops.

    Attributes:
      index: index of all records of the files.
      rows: records to train on.
      crop: crop settings.
      workers: processes and threads for decoding.
      damage: counter of damaged records.
    """

    index: RecordIndex
    rows: Int64[np.ndarray, " n"]
    crop: Crop
    workers: DecoderWorkers
    damage: Damage

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fingerprint(self) -> str:
        """Hash of files, rows and crop settings."""
        return _fingerprint(self.index, self.rows, ("random", self.crop))

    def batches(
        self,
        seed: int,
        batch_size: int,
        first_step: int,
        *,
        host: int = 0,
        hosts: int = 1,
        transform: Transform | None = None,
    ) -> Iterator[Batch]:
        """Yields this host's ``batch_size / hosts`` contiguous rows of the batches from step `first_step` on.

        `transform` changes each crop at random, in the workers.

        Raises:
          ValueError: if the batch size is not a multiple of the number of hosts, or the host does not exist.
          ImportError: if grain is not installed; names the extra.
          FileError: if there are too many damaged records, at the batch that exceeds the limit.
        """
        each = _share(batch_size, host, hosts)
        grain = _grain()
        order, drawing = np.random.SeedSequence(seed).generate_state(2)
        shuffled = grain.MapDataset.source(range(len(self.rows))).shuffle(int(order)).repeat()
        size = _chunk(each)
        first = first_step * batch_size + host * each
        places = _Places(first, batch_size, each, size)
        maker = _Crops(self, shuffled, int(drawing), places, transform)
        return _read(grain, maker, self.workers, self.damage, each // size)


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationImages:
    """A `lanas_jax.data.streams.EvaluationStream` of centre crops, in file order; attributes as in `TrainingImages`."""

    index: RecordIndex
    rows: Int64[np.ndarray, " n"]
    crop: Crop
    workers: DecoderWorkers
    damage: Damage

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fingerprint(self) -> str:
        """Hash of files, rows and crop settings."""
        return _fingerprint(self.index, self.rows, ("centre", self.crop))

    def batches(self, batch_size: int, *, host: int = 0, hosts: int = 1) -> Iterator[Batch]:
        """Yields this host's rows of batches that hold each image once; pads the last one with black images, label -1.

        Raises the errors of `TrainingImages.batches`.
        """
        each = _share(batch_size, host, hosts)
        size = _chunk(each)
        count = -(-len(self) // batch_size) * (each // size)
        maker = _Centres(self, _Places(host * each, batch_size, each, size), count)
        return _read(_grain(), maker, self.workers, self.damage, each // size)


class _Places(NamedTuple):
    """Maps the number of a chunk to its positions in the stream."""

    first: int  # first position of this host's first batch
    batch_size: int  # batch size of all hosts
    each: int  # images per batch on this host
    chunk: int  # images per chunk

    def __call__(self, number: int) -> range:
        step, piece = divmod(number, self.each // self.chunk)
        start = self.first + step * self.batch_size + piece * self.chunk
        return range(start, start + self.chunk)


class _Crops:
    """Random-access source of chunks of random crops, indexed by grain in any process."""

    def __init__(
        self, images: TrainingImages, shuffled: Any, seed: int, places: _Places, transform: Transform | None
    ) -> None:
        self._index, self._rows, self._crop = images.index, images.rows, images.crop
        self._shuffled, self._seed, self._places, self._transform = shuffled, seed, places, transform

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, number: int) -> Chunk:
        damaged: list[int] = []
        images, labels = zip(*(self._image(place, damaged) for place in self._places(number)), strict=True)
        return _stacked(images, labels, damaged)

    def _image(self, place: int, damaged: list[int]) -> tuple[np.ndarray, int]:
        row = int(self._shuffled[place])
        for tried in range(min(_IN_A_ROW, len(self._rows))):
            record = int(self._rows[(row + tried) % len(self._rows)])
            try:
                rng = np.random.default_rng((self._seed, place))
                image = self._crop.random(self._index.image(record), rng)
            except FileError:
                damaged.append(record)
                continue
            image = image if self._transform is None else self._transform(image, rng)
            return image, int(self._index.labels[record])
        raise FileError(f"{self._index.where(damaged[0])}: damaged, and so are the {_IN_A_ROW - 1} records after it")


class _Centres:
    """Random-access source of chunks of centre crops, indexed by grain in any process."""

    def __init__(self, images: EvaluationImages, places: _Places, count: int) -> None:
        self._index, self._rows, self._crop = images.index, images.rows, images.crop
        self._places, self._count = places, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Chunk:
        damaged: list[int] = []
        images, labels = zip(*(self._image(place, damaged) for place in self._places(number)), strict=True)
        return _stacked(images, labels, damaged)

    def _image(self, place: int, damaged: list[int]) -> tuple[np.ndarray, int]:
        if place < len(self._rows):
            record = int(self._rows[place])
            try:
                return self._crop.centre(self._index.image(record)), int(self._index.labels[record])
            except FileError:
                damaged.append(record)
        return np.zeros((self._crop.resolution, self._crop.resolution, 3), np.uint8), -1


def _stacked(images: tuple[np.ndarray, ...], labels: tuple[int, ...], damaged: list[int]) -> Chunk:
    return Chunk(Batch(np.stack(images), np.array(labels, np.int32)), np.array(damaged, np.int64))


def _read(
    grain: Any, chunks: _Crops | _Centres, workers: DecoderWorkers, damage: Damage, pieces: int
) -> Iterator[Batch]:
    """Yields batches of `pieces` chunks; closing the iterator ends threads and processes."""
    threads = workers.threads_each
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads * workers.ahead)
    dataset = grain.MapDataset.source(chunks).to_iter_dataset(options)
    if workers.processes:
        _settle_flags()
        ahead = grain.MultiprocessingOptions(workers.processes, per_worker_buffer_size=threads * workers.ahead)
        dataset = dataset.mp_prefetch(ahead)
    with contextlib.closing(iter(dataset)) as iterator:
        while found := [chunk for _, chunk in zip(range(pieces), iterator, strict=False)]:
            damage.add(np.concatenate([chunk.damaged for chunk in found]))
            yield Batch(*(np.concatenate(columns) for columns in zip(*(chunk.batch for chunk in found), strict=True)))


def _settle_flags() -> None:
    """Marks absl's flags as parsed: grain's processes read them, which fails until an absl program has parsed them."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _share(batch_size: int, host: int, hosts: int) -> int:
    if batch_size < 1 or hosts < 1 or batch_size % hosts or not 0 <= host < hosts:
        raise ValueError(
            f"expected a batch size that is a multiple of the number of hosts, and a host from 0 to one less; "
            f"got a batch size of {batch_size} and host {host} of {hosts}"
        )
    return batch_size // hosts


def _chunk(each: int) -> int:
    """Returns the largest chunk size, at most 16, that divides a batch."""
    return max(size for size in range(1, min(each, _CHUNK) + 1) if each % size == 0)


def _grain() -> Any:
    try:
        import grain
    except ImportError as error:
        raise ImportError("streaming images needs grain: pip install 'lanas-jax[imagenet]'") from error
    return grain


def _fingerprint(index: RecordIndex, rows: Int64[np.ndarray, " n"], how: object) -> str:
    content = hashlib.sha256(rows.astype("<i8").tobytes())
    content.update(f"{index.fingerprint} {how}".encode())
    return content.hexdigest()
