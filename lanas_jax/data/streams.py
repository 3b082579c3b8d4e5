"""Interfaces of labelled images that are streamed in batches because they do not fit in memory.

Batches are a function of seed and step number, so that training can resume in the middle of an epoch. Each host reads
its own share of each batch.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from lanas_jax.data.scaling import Scaling
from lanas_jax.data.splits import SearchData, Split

Transform: TypeAlias = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # of one image; can be pickled

_BATCH = 256  # batch size for reading evaluation images


class Batch(NamedTuple):
    """Images and labels of one host."""

    images: Float32[np.ndarray, "n height width channels"] | UInt8[np.ndarray, "n height width channels"]
    labels: Int32[np.ndarray, " n"]  # class of each image; -1 for padding


@runtime_checkable
class TrainingStream(Protocol):
    """An endless stream of images, in an order drawn from a seed."""

    def __len__(self) -> int:
        """Returns the number of images per epoch."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifier of the images and the way they are read; equal on all hosts."""
        ...

    def batches(
        self,
        seed: int,
        batch_size: int,
        first_step: int,
        *,
        host: int,
        hosts: int,
        transform: Transform | None = None,
    ) -> Iterator[Batch]:
        """Yields this host's ``batch_size / hosts`` images of the batches from step `first_step` on; endless.

        Args:
          seed: random seed of the order and of all draws.
          batch_size: images per batch of all hosts.
          first_step: number of the first batch.
          host: index of this host.
          hosts: number of hosts.
          transform: random change of each image, with a generator of its own, where images are decoded; None for none.
        """
        ...


@runtime_checkable
class EvaluationStream(Protocol):
    """A stream of images in a fixed order, each once."""

    def __len__(self) -> int:
        """Returns the number of images."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifier of the images and the way they are read; equal on all hosts."""
        ...

    def batches(self, batch_size: int, *, host: int, hosts: int) -> Iterator[Batch]:
        """Yields this host's share of batches that hold each image once, padded to equal numbers on all hosts."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedDataset:
    """A dataset as streams.

    Attributes:
      train: training images.
      validation: search-validation images, on which candidates are compared.
      test: test images, read once.
      classes: number of classes.
      image_shape: height, width and channels.
      scaling: scaling of 8-bit images on reading; None for float32 images.
    """

    train: TrainingStream
    validation: EvaluationStream
    test: EvaluationStream
    classes: int
    image_shape: tuple[int, int, int]
    scaling: Scaling | None = None


def hold_in_memory(data: StreamedDataset, train: int, seed: int = 0, validation: int | None = None) -> SearchData:
    """Loads the search-validation split, and training images as seen by the first training step, into memory.

    Args:
      data: streamed dataset.
      train: number of training images, at most one epoch.
      seed: random seed of the training images.
      validation: number of search-validation images to load, the first ones; None: all.

    Raises:
      ValueError: if the number of training images is out of range, or a split has no image.
    """
    if not 0 < train <= len(data.train):
        raise ValueError(f"train must be 1 to {len(data.train)}, the number of training images; got {train}")
    first = next(iter(data.train.batches(seed, train, 0, host=0, hosts=1)))
    batches = None if validation is None else -(-validation // _BATCH)
    return SearchData(
        _split([first]),
        _split(list(itertools.islice(data.validation.batches(_BATCH, host=0, hosts=1), batches)), validation),
        data.classes,
        data.scaling,
    )


def _split(batches: list[Batch], most: int | None = None) -> Split:
    """Returns all images except padding, or the first ones."""
    labels = np.concatenate([batch.labels for batch in batches])
    images = np.concatenate([batch.images for batch in batches])
    return Split(images[labels >= 0][:most], labels[labels >= 0][:most])
