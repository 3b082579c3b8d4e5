"""What of a streamed dataset is kept in memory: images that are read again and again, as values of a supernet are."""

import numpy as np

from lanas_jax.data.splits import SearchData, Split
from lanas_jax.data.streams import Batch, StreamedDataset

_BATCH = 256  # evaluation images that are read at a time


def kept(data: StreamedDataset, train: int, seed: int = 0) -> SearchData:
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
