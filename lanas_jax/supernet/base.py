"""What a supernet is to those who train it and value its parts.

A supernet (arXiv 1802.03268; the one-shot mode of section 5.2 of arXiv 1906.06832) shares its weights among all
networks of a space: a code picks the part that is run. Which weights a part has is its own business (`models/`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lanas_jax.data.splits import SearchData
from lanas_jax.runtime.distributed import Preemption
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.trainer.task import BatchStats, FinalNetwork, Params


@runtime_checkable
class Supernet(Protocol):
    """A network with a part for each code of its space; one traced program serves every code."""

    @property
    def space(self) -> SearchSpace:
        """What its codes mean."""
        ...

    def init(self, key: PRNGKeyArray) -> tuple[Params, BatchStats]:
        """Fresh weights and batch statistics of all parts. The key is consumed."""
        ...

    def apply(
        self,
        params: Params,
        batch_stats: BatchStats,
        code: Int[Array, " dims"],
        images: Float[Array, "n height width channels"],
        *,
        train: bool,
    ) -> tuple[Float[Array, "n classes"], BatchStats]:
        """Logits of the part that `code` picks, and the batch statistics that follow (unchanged unless training)."""
        ...

    def statistics(
        self, params: Params, code: Int[Array, " dims"], images: Float[Array, "n height width channels"]
    ) -> BatchStats:
        """Means and variances of one batch in the part that `code` picks; what is not in it is zero."""
        ...

    def extract(
        self, params: Params, batch_stats: BatchStats, code: Int[np.ndarray, " dims"]
    ) -> tuple[Params, BatchStats]:
        """The weights and batch statistics of the part that `code` picks, as `standalone` has them."""
        ...

    def standalone(self, code: Int[np.ndarray, " dims"]) -> FinalNetwork:
        """The network of that part alone: with the extracted weights it gives the same logits."""
        ...


@runtime_checkable
class Extracting(Protocol):
    """An evaluator whose values are those of a supernet's parts, which can be taken out of it."""

    @property
    def supernet(self) -> Supernet:
        """Of which they are parts."""
        ...

    @property
    def data(self) -> SearchData:
        """What it was trained on, and what its parts are valued on."""
        ...

    def extract(self, code: Int[np.ndarray, " dims"]) -> tuple[Params, BatchStats]:
        """Weights of ``supernet.standalone(code)``, and the batch statistics by which the code is valued."""
        ...


@runtime_checkable
class TrainedAhead(Protocol):
    """An evaluator whose supernet can be trained before there is a search, in a folder that searches then read."""

    @property
    def supernet_directory(self) -> Path | None:
        """The folder, if searches are told of it; None: each has its own."""
        ...

    def train(self, directory: Path, note: Callable[[str], None], preemption: Preemption | None = None) -> None:
        """Trains the supernet, or the rest of the way, on the devices of all processes.

        Args:
          directory: a new or empty folder, or that of the same training; the same for all processes.
          note: is told how it gets on.
          preemption: says when to stop early; None: never.

        Raises:
          ValueError, RunError, DistributedError, NotFiniteError, DamagedError, PreemptedError: as
            `lanas_jax.supernet.training.train`.
        """
        ...
