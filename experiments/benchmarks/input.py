"""Throughput of ImageNet's input pipeline in images per second, by worker processes and threads; uses no device.

    python -m lanas_jax.experiments.benchmarks.input
    python -m lanas_jax.experiments.benchmarks.input --processes 0 4 8 --threads 2 --resolution 192

The images are synthetic JPEG files of ImageNet's typical size, 500 x 375, in a temporary folder, in the format prepared
by tensorflow-datasets. They are read from the system's file cache, not from a disk. Starting processes and filling
their queues is not counted.
"""

import dataclasses
import struct
import tempfile
import time
from pathlib import Path

import numpy as np

from lanas_jax.commands import help_text
from lanas_jax.data.crops import Crop
from lanas_jax.data.image_streams import Damage, DecoderWorkers, TrainingImages
from lanas_jax.data.record_index import RecordIndex
from lanas_jax.data.tfds_folder import Shard
from lanas_jax.formats.tfrecord import masked_crc32c
from lanas_jax.planning.input_speed import synthetic_picture


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark.

    Args:
      processes: numbers of worker processes to compare; 0 for threads only.
      threads: number of threads per process; None for one thread per core in total.
      resolution: height and width of the decoded images, in pixels.
      batch_size: number of images per batch.
      batches: number of timed batches.
      pictures: number of different images.
    """

    processes: tuple[int, ...] = (0, 1, 2)
    threads: int | None = None
    resolution: int = 224
    batch_size: int = 64
    batches: int = 10
    pictures: int = 256


def prepared(folder: Path, pictures: int) -> RecordIndex:
    """Writes a file of records and returns its index."""
    import tensorflow_datasets as tfds

    label = tfds.features.ClassLabel(num_classes=1)
    features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "label": label})
    rng, places, path = np.random.default_rng(0), [0], folder / "pictures"
    with path.open("wb") as file:
        for _ in range(pictures):
            data = features.serialize_example({"image": synthetic_picture(rng), "label": 0})
            length = struct.pack("<Q", len(data))
            crc = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
            places.append(places[-1] + file.write(length + crc[0] + data + crc[1]))
    labels = np.zeros(pictures, np.int32)
    shard = Shard(path, "tfrecord", pictures)
    return RecordIndex((shard,), np.array([pictures]), np.array(places[:-1]), labels, features, "made up")


def rate(index: RecordIndex, config: Config, workers: DecoderWorkers) -> float:
    """Measures the images per second."""
    rows = np.arange(len(index))
    images = TrainingImages(index, rows, Crop(config.resolution), workers, Damage(index, 0.0, print))
    batches = images.batches(0, config.batch_size, 0)
    for _ in range(2 + workers.processes):
        next(batches)
    began = time.perf_counter()
    for _ in range(config.batches):
        next(batches)
    seconds = time.perf_counter() - began
    batches.close()  # type: ignore[attr-defined]
    return config.batches * config.batch_size / seconds


def main(config: Config) -> None:
    """Measures and prints one line per number of processes."""
    with tempfile.TemporaryDirectory() as folder:
        index = prepared(Path(folder), config.pictures)
        size = index.shards[0].path.stat().st_size / config.pictures
        print(f"{config.pictures} pictures of 500 x 375, {size / 1000:.0f} kB each, to {config.resolution} pixels")
        for processes in config.processes:
            workers = DecoderWorkers(processes, config.threads)
            speed = rate(index, config, workers)
            print(f"{processes} processes, {workers.threads_each} threads each: {speed:,.0f} images/s", flush=True)


if __name__ == "__main__":
    main(help_text.parse_documented(Config, __doc__))
