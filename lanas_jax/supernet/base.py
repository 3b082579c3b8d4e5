"""The supernet interface for training and valuation.

A supernet (arXiv 1802.03268; the one-shot mode of section 5.2 of arXiv 1906.06832) shares its weights among all
networks of a space: a code selects the subnetwork to run. `models/` defines which weights a subnetwork uses.
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
    """A network that contains a subnetwork for each code of its space; one traced program serves every code."""

    @property
    def space(self) -> SearchSpace:
        """The space of the codes."""
        ...

    def init(self, key: PRNGKeyArray) -> tuple[Params, BatchStats]:
        """Returns initial weights and batch statistics of all subnetworks. The key is consumed."""
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
        """Returns logits of the subnetwork of `code` and updated batch statistics (unchanged unless training)."""
        ...

    def statistics(
        self, params: Params, code: Int[Array, " dims"], images: Float[Array, "n height width channels"]
    ) -> BatchStats:
        """Returns means and variances of one batch in the subnetwork of `code`; all other statistics are zero."""
        ...

    def extract(
        self, params: Params, batch_stats: BatchStats, code: Int[np.ndarray, " dims"]
    ) -> tuple[Params, BatchStats]:
        """Returns weights and batch statistics of the subnetwork of `code`, in the layout of `standalone`."""
        ...

    def standalone(self, code: Int[np.ndarray, " dims"]) -> FinalNetwork:
        """Returns the subnetwork of `code` as a separate network; the extracted weights give the same logits."""
        ...


@runtime_checkable
class HasVariants(Protocol):
    """A supernet whose codes belong to *variants*, such as one per image resolution.

    The program of one variant is smaller than the program of all codes.

    If a code is known before a program is compiled, it can also run as a plain network of its slices of the weights.
    """

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the variants."""
        ...

    def variant(self, code: Int[np.ndarray, " dims"]) -> int:
        """Returns the index of a code's variant."""
        ...

    def apply_variant(
        self,
        variant: int,
        params: Params,
        batch_stats: BatchStats,
        code: Int[Array, " dims"],
        images: Float[Array, "n height width channels"],
        *,
        train: bool,
    ) -> tuple[Float[Array, "n classes"], BatchStats]:
        """Returns what `Supernet.apply` does, for a code of the given variant, which may be traced."""
        ...

    def of_variant(self, variant: int) -> Supernet:
        """Returns the supernet of the codes of one variant, with the same weights and codes."""
        ...

    def with_statistics(self, batch_stats: BatchStats, own: BatchStats, code: Int[np.ndarray, " dims"]) -> BatchStats:
        """Returns batch statistics in which those that `Supernet.extract` takes for a code are replaced by `own`."""
        ...

    def largest(self, dropout: float) -> FinalNetwork:
        """Returns the subnetwork of all last options as a separate network.

        In training, it drops inputs of its classifier.
        """
        ...


@runtime_checkable
class Extracting(Protocol):
    """An evaluator that values subnetworks of a supernet and can extract their weights."""

    @property
    def supernet(self) -> Supernet:
        """The supernet of the subnetworks."""
        ...

    @property
    def data(self) -> SearchData:
        """The data for training the supernet and valuing subnetworks."""
        ...

    def extract(self, code: Int[np.ndarray, " dims"]) -> tuple[Params, BatchStats]:
        """Returns the weights of ``supernet.standalone(code)`` and the batch statistics used to value the code."""
        ...


@runtime_checkable
class TrainedAhead(Protocol):
    """An evaluator whose supernet can be trained before a search, in a folder that searches then read."""

    @property
    def supernet_directory(self) -> Path | None:
        """The folder of the supernet, if the experiment names one; None: one per search."""
        ...

    def train(self, directory: Path, note: Callable[[str], None], preemption: Preemption | None = None) -> None:
        """Trains the supernet or resumes its training, on the devices of all processes.

        Args:
          directory: new or empty folder, or the folder of the same training; identical in all processes.
          note: callback that receives progress messages.
          preemption: signal to stop early; None: no early stop.

        Raises:
          ValueError, RunError, DistributedError, NotFiniteError, DamagedError, PreemptedError: as
            `lanas_jax.supernet.training.train_supernet`.
        """
        ...
