"""Streams of pictures that lie in prepared files, decoded and cropped while a device trains; by grain.

Every image is a function of seed and position: position ``p`` of a training's endless stream belongs to epoch
``p // len(stream)``, whose order grain draws without a list of it, and crops by a generator of seed and ``p``. So any
step is reached without reading what comes before it, hosts take their rows of a batch without speaking to each other,
and neither threads nor worker processes change a bit.

A record that is damaged is replaced, in training, by the next good one of the files, cropped as the missing one would
have been; in evaluation by a black image of label -1. Both keep shapes and order, and both are counted (`Damage`).
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
from lanas_jax.data.streams import Batch
from lanas_jax.formats.errors import FileError

_CHUNK = 16  # images that a thread makes in one go, at most
_ENDLESS = 2**40  # chunks
_IN_A_ROW = 100  # damaged records, after which the next good one is not looked for any further


@dataclasses.dataclass(frozen=True)
class DecoderWorkers:
    """Who decodes. Nothing of it changes what comes out.

    Args:
      processes: of their own; 0: threads of this process alone, which Pillow lets run side by side where it decodes.
      threads: of each process; None: one for each core that its process can have.
      ahead: chunks of up to 16 images that each thread keeps ready.

    Raises:
      ValueError: a number out of its range.
    """

    processes: int = 0
    threads: int | None = None
    ahead: int = 4

    def __post_init__(self) -> None:
        if self.processes < 0 or self.ahead < 1 or (self.threads is not None and self.threads < 1):
            raise ValueError(f"processes must not be negative, threads and ahead at least 1; got {self}")

    @property
    def threads_each(self) -> int:
        """Threads of a process."""
        return self.threads or max(1, (os.cpu_count() or 1) // max(1, self.processes))


class Chunk(NamedTuple):
    """A few images, and the damaged records that were met on the way."""

    batch: Batch
    damaged: Int64[np.ndarray, " m"]


class Damage:
    """Counts the damaged records of a split, each once, and stops where they are too many.

    Args:
      index: the split's records.
      most: greatest share of the split that may be damaged.
      note: is told at the first one, and each time they have doubled.
    """

    def __init__(self, index: RecordIndex, most: float, note: Callable[[str], None]) -> None:
        self.records: set[int] = set()
        self._index, self._most, self._note, self._next = index, most, note, 1

    def add(self, records: Int64[np.ndarray, " m"]) -> None:
        """Counts records that were met.

        Raises:
          FileError: too many; names one of them.
        """
        self.records.update(records.tolist())
        count = len(self.records)
        if not len(records) or count < self._next:
            return
        said = f"{count:,} of {len(self._index):,} records are damaged, such as {self._index.where(int(records[-1]))}"
        if count > self._most * len(self._index):
            raise FileError(f"{said}: more than the share of {self._most:g} that is borne; prepare the dataset anew")
        self._note(f"{said}: they are left out")
        self._next = 2 * count


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingImages:
    """A `lanas_jax.data.streams.TrainingStream` of random crops.

    Attributes:
      index: all records of the files.
      rows: those that are trained on.
      crop: what is made of a picture.
      workers: who makes it.
      damage: counts.
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
        """Of files, rows and crop."""
        return _fingerprint(self.index, self.rows, ("random", self.crop))

    def batches(self, seed: int, batch_size: int, first_step: int, *, host: int = 0, hosts: int = 1) -> Iterator[Batch]:
        """This host's rows, ``batch_size / hosts`` in one piece, of the batches of steps `first_step` and later.

        Raises:
          ValueError: a batch that the hosts cannot share equally, or no such host.
          ImportError: grain is not installed; names the extra.
          FileError: too many damaged records, at the batch with the first one too many.
        """
        each = _share(batch_size, host, hosts)
        grain = _grain()
        order, drawing = np.random.SeedSequence(seed).generate_state(2)
        shuffled = grain.MapDataset.source(range(len(self.rows))).shuffle(int(order)).repeat()
        size = _chunk(each)
        first = first_step * batch_size + host * each
        maker = _Crops(self, shuffled, int(drawing), _Places(first, batch_size, each, size))
        return _read(grain, maker, self.workers, self.damage, each // size)


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationImages:
    """A `lanas_jax.data.streams.EvaluationStream` of centre crops, in the order of the files; attributes as above."""

    index: RecordIndex
    rows: Int64[np.ndarray, " n"]
    crop: Crop
    workers: DecoderWorkers
    damage: Damage

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fingerprint(self) -> str:
        """Of files, rows and crop."""
        return _fingerprint(self.index, self.rows, ("centre", self.crop))

    def batches(self, batch_size: int, *, host: int = 0, hosts: int = 1) -> Iterator[Batch]:
        """This host's rows of batches that hold each image once; black images of label -1 fill the last one up.

        Raises:
          As `TrainingImages.batches`.
        """
        each = _share(batch_size, host, hosts)
        size = _chunk(each)
        count = -(-len(self) // batch_size) * (each // size)
        maker = _Centres(self, _Places(host * each, batch_size, each, size), count)
        return _read(_grain(), maker, self.workers, self.damage, each // size)


class _Places(NamedTuple):
    """Which positions of the stream a chunk holds."""

    first: int  # of this host's first batch
    batch_size: int  # of all hosts
    each: int  # images of a batch for this host
    chunk: int  # images

    def __call__(self, number: int) -> range:
        step, piece = divmod(number, self.each // self.chunk)
        start = self.first + step * self.batch_size + piece * self.chunk
        return range(start, start + self.chunk)


class _Crops:
    """Chunks of random crops, which grain asks for by their numbers, in whatever process."""

    def __init__(self, images: TrainingImages, shuffled: Any, seed: int, places: _Places) -> None:
        self._index, self._rows, self._crop = images.index, images.rows, images.crop
        self._shuffled, self._seed, self._places = shuffled, seed, places

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
                return self._crop.random(self._index.image(record), rng), int(self._index.labels[record])
            except FileError:
                damaged.append(record)
        raise FileError(f"{self._index.where(damaged[0])}: damaged, and so are the {_IN_A_ROW - 1} records after it")


class _Centres:
    """Chunks of centre crops, likewise."""

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
    """Batches of so many chunks; closing the iterator ends threads and processes."""
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
    """Grain's processes ask absl's flags, which are refused until a main program of absl's has parsed its arguments."""
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
    """The most images, at most 16, that divide a batch equally."""
    return max(size for size in range(1, min(each, _CHUNK) + 1) if each % size == 0)


def _grain() -> Any:
    try:
        import grain
    except ImportError as error:
        raise ImportError("reading images in batches needs grain: pip install 'lanas-jax[imagenet]'") from error
    return grain


def _fingerprint(index: RecordIndex, rows: Int64[np.ndarray, " n"], how: object) -> str:
    content = hashlib.sha256(rows.astype("<i8").tobytes())
    content.update(f"{index.fingerprint} {how}".encode())
    return content.hexdigest()
