"""What is searched, and how: an `Experiment`, and who receives its progress messages."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, PRNGKeyArray

from lanas_jax.evaluators.base import Evaluator
from lanas_jax.searchers.base import Searcher
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.storage.trials import Trial, Winner

Finale = Callable[[Int[np.ndarray, " dims"], PRNGKeyArray, Path], Winner]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A search, ready to run.

    Attributes:
      name: of the experiment.
      space: what is searched.
      searcher: proposes codes.
      evaluator: gives them values.
      budget: trials in all.
      batch: trials asked for at a time.
      seed: of everything random.
      finale: retrains the winner: its code, a key and a folder for its weights come in. None: no retraining.
    """

    name: str
    space: SearchSpace
    searcher: Searcher
    evaluator: Evaluator
    budget: int
    batch: int
    seed: int
    finale: Finale | None = None

    def __post_init__(self) -> None:
        for name in ("budget", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be 0 to 2**32 - 1; got {self.seed}")


@runtime_checkable
class StudyProgress(Protocol):
    """Is told how a study gets on (`lanas_jax.study.display` shows it)."""

    def began(self, budget: int, trials: Sequence[Trial]) -> None:
        """The loop begins, with the trials that the store holds already."""

    def asked(self, batch: Sequence[Trial]) -> None:
        """A batch goes to the evaluator."""

    def finished(self, batch: Sequence[Trial]) -> None:
        """A batch came back."""

    def retraining(self, winner: Trial) -> None:
        """The winner is being retrained."""

    def note(self, text: str) -> None:
        """Something worth a line."""


class Silence:
    """Shows nothing."""

    def began(self, budget: int, trials: Sequence[Trial]) -> None: ...  # noqa: D102
    def asked(self, batch: Sequence[Trial]) -> None: ...  # noqa: D102
    def finished(self, batch: Sequence[Trial]) -> None: ...  # noqa: D102
    def retraining(self, winner: Trial) -> None: ...  # noqa: D102
    def note(self, text: str) -> None: ...  # noqa: D102
