"""The definition of a search, `Experiment`, and the receivers of its progress messages."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, PRNGKeyArray

from lanas_jax.evaluators.base import Evaluator
from lanas_jax.runtime.numbers import set_whole_numbers
from lanas_jax.searchers.base import Searcher
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.storage.trials import Trial, Winner

WinnerTraining = Callable[[Int[np.ndarray, " dims"], PRNGKeyArray, Path], Winner]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A search, ready to run.

    Attributes:
      name: name of the experiment.
      space: search space.
      searcher: algorithm that proposes codes.
      evaluator: evaluator that returns the value of each code.
      budget: total number of trials.
      batch: number of trials per ask.
      seed: random seed of the search and of the winner training.
      finale: function that retrains the winner, given its code, a key and a folder for the weights; None for no
        retraining.
    """

    name: str
    space: SearchSpace
    searcher: Searcher
    evaluator: Evaluator
    budget: int
    batch: int
    seed: int
    finale: WinnerTraining | None = None

    def __post_init__(self) -> None:
        set_whole_numbers(self, budget=1, batch=1, seed=-(2**63))
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be 0 to 2**32 - 1; got {self.seed}")


@runtime_checkable
class StudyProgress(Protocol):
    """Receives progress messages of a study; `lanas_jax.study.display` shows them."""

    def began(self, budget: int, trials: Sequence[Trial]) -> None:
        """Called when the loop starts, with the trials already in the store."""

    def asked(self, batch: Sequence[Trial]) -> None:
        """Called when a batch goes to the evaluator."""

    def finished(self, batch: Sequence[Trial]) -> None:
        """Called when a batch is finished."""

    def retraining(self, winner: Trial) -> None:
        """Called when the retraining of the winner starts."""

    def note(self, text: str) -> None:
        """Called with a message to print on its own line."""


class Silence:
    """Ignores all progress messages."""

    def began(self, budget: int, trials: Sequence[Trial]) -> None: ...  # noqa: D102
    def asked(self, batch: Sequence[Trial]) -> None: ...  # noqa: D102
    def finished(self, batch: Sequence[Trial]) -> None: ...  # noqa: D102
    def retraining(self, winner: Trial) -> None: ...  # noqa: D102
    def note(self, text: str) -> None: ...  # noqa: D102
