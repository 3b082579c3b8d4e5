"""Labelled images that come in batches, since they do not fit in memory: what a source of them is.

Batches are a function of seed and step number, so that a training can go on in the middle of an epoch; each of several
hosts reads its own share of each.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from lanas_jax.data.scaling import Scaling
from lanas_jax.data.splits import SearchData, Split

_BATCH = 256  # evaluation images that are read at a time


class Batch(NamedTuple):
    """Images and their labels; those of one host."""

    images: Float32[np.ndarray, "n height width channels"] | UInt8[np.ndarray, "n height width channels"]
    labels: Int32[np.ndarray, " n"]  # class of each image; -1: fills a batch up and counts for nothing


@runtime_checkable
class TrainingStream(Protocol):
    """Images in an order drawn from a seed, over and over."""

    def __len__(self) -> int:
        """Images of an epoch."""
        ...

    @property
    def fingerprint(self) -> str:
        """Says which images they are and how they are read; the same on all hosts."""
        ...

    def batches(self, seed: int, batch_size: int, first_step: int, *, host: int, hosts: int) -> Iterator[Batch]:
        """This host's share, ``batch_size / hosts`` images, of the batches of steps `first_step` and later; endless."""
        ...


@runtime_checkable
class EvaluationStream(Protocol):
    """Images in a fixed order, once."""

    def __len__(self) -> int:
        """Images."""
        ...

    @property
    def fingerprint(self) -> str:
        """Says which images they are and how they are read; the same on all hosts."""
        ...

    def batches(self, batch_size: int, *, host: int, hosts: int) -> Iterator[Batch]:
        """This host's share of batches that hold each image once, as many on each host, filled up."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedDataset:
    """A dataset as streams.

    Attributes:
      train: what weights are fitted to.
      validation: what candidates are compared on.
      test: read once.
      classes: number of classes.
      image_shape: height, width and channels.
      scaling: how images of 8 bits are scaled when they are read; None where they are float32.
    """

    train: TrainingStream
    validation: EvaluationStream
    test: EvaluationStream
    classes: int
    image_shape: tuple[int, int, int]
    scaling: Scaling | None = None


def hold_in_memory(data: StreamedDataset, train: int, seed: int = 0) -> SearchData:
    """The search-validation split, and training images as the first step of a training would see them.

    Args:
      data: streams.
      train: training images, at most as many as an epoch has.
      seed: of their draw.

    Raises:
      ValueError: no or too many training images, or a split that holds no image.
    """
    if not 0 < train <= len(data.train):
        raise ValueError(f"train must be 1 to {len(data.train)}, the training images there are; got {train}")
    first = next(iter(data.train.batches(seed, train, 0, host=0, hosts=1)))
    return SearchData(
        _split([first]),
        _split(list(data.validation.batches(_BATCH, host=0, hosts=1))),
        data.classes,
        data.scaling,
    )


def _split(batches: list[Batch]) -> Split:
    """All images but those that fill batches up."""
    labels = np.concatenate([batch.labels for batch in batches])
    images = np.concatenate([batch.images for batch in batches])
    return Split(images[labels >= 0], labels[labels >= 0])
