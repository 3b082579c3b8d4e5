"""Accuracies of a few subnetworks after each epoch of a supernet's training, for its curves alone.

They are the largest and the smallest subnetwork of a sandwich, which bound all others (arXiv 1903.05134), and some
random ones of the pool. Each is valued as in a search, with batch statistics of its own, on a fixed part of the
search-validation split. The training does not depend on them.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Int

from lanas_jax.data.splits import SearchData, Split
from lanas_jax.data.streams import StreamedDataset, hold_in_memory
from lanas_jax.supernet.base import Supernet
from lanas_jax.supernet.sandwich import Sandwich
from lanas_jax.supernet.valuation import Valuation
from lanas_jax.trainer.task import Weights

RANDOM = 3  # number of random subnetworks
CALIBRATING = 512  # maximum number of training images for the batch statistics of each subnetwork
BATCH = 128  # images per forward pass
SUFFIX = "_accuracy"  # end of the names of columns of metrics.csv


def watched_codes(sandwich: Sandwich | None, pool: Int[np.ndarray, "m dims"]) -> dict[str, tuple[int, ...]]:
    """Returns the codes of the watched subnetworks by name."""
    ends = {} if sandwich is None else {"largest": sandwich.largest, "smallest": sandwich.smallest}
    return ends | {f"random{i + 1}": tuple(code) for i, code in enumerate(pool[:RANDOM].tolist())}


@dataclasses.dataclass(frozen=True, eq=False)
class Watch:
    """Measures the watched subnetworks; a `lanas_jax.trainer.loop.EpochWatch`.

    Args:
      supernet: supernet that is trained.
      codes: codes of the subnetworks by name.
      data: images for batch statistics, and those that are classified, in memory.
      devices: devices of the training.
      note: callback that receives the accuracies by name, in [0, 1].
    """

    supernet: Supernet
    codes: Mapping[str, tuple[int, ...]]
    data: SearchData
    devices: Sequence[jax.Device]
    note: Callable[[Mapping[str, float]], None]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of metrics.csv."""
        return tuple(f"{name}{SUFFIX}" for name in self.codes)

    def __call__(self, weights: Weights) -> dict[str, float]:
        """Returns the accuracies by column. The images are on the devices during this call only."""
        calibrating = min(CALIBRATING, len(self.data.train))
        each = -(-len(self.codes) // len(self.devices))
        valuation = Valuation(self.supernet, self.data, calibrating, BATCH, self.devices, each)
        codes = np.array([*self.codes.values()], np.int32)
        found = dict(zip(self.codes, valuation(weights, codes).accuracy.tolist(), strict=True))
        self.note(found)
        return dict(zip(self.columns, found.values(), strict=True))


def watched_images(data: SearchData | StreamedDataset, count: int, seed: int) -> SearchData:
    """Returns training images for batch statistics, and up to `count` search-validation images, in memory.

    Args:
      data: images of the training.
      count: number of search-validation images; those of a stream are its first ones, others are drawn.
      seed: random seed of the draws.
    """
    if isinstance(data, StreamedDataset):
        return hold_in_memory(data, min(CALIBRATING, len(data.train)), seed, count)
    rng = np.random.default_rng(seed)
    train, validation = (
        Split(split.images[rows], split.labels[rows])
        for split, most in ((data.train, CALIBRATING), (data.validation, count))
        for rows in [np.sort(rng.permutation(len(split))[:most])]
    )
    return SearchData(train, validation, data.classes, data.scaling)
