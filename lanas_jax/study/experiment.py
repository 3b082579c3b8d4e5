"""The definition of a search, `Experiment`, and the receivers of its progress messages."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from lanas_jax.evaluators.base import Evaluator
from lanas_jax.runtime.errors import STOPS, what_it_did
from lanas_jax.runtime.numbers import set_whole_numbers, whole_number
from lanas_jax.searchers.base import Searcher
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.spaces.definition import definition_difference
from lanas_jax.storage.plain import shown
from lanas_jax.storage.trial import Trial
from lanas_jax.study.discovery import ExperimentError
from lanas_jax.study.objectives import check_study_objectives, stored_outcomes
from lanas_jax.trainer.language import LanguageTraining
from lanas_jax.trainer.loop import SilentTraining, TrainingProgress
from lanas_jax.trainer.task import FinalTraining


@dataclasses.dataclass(frozen=True)
class WinnerTraining:
    """The training of a search's winner, as ``lanas train`` would run it.

    Attributes:
      final: function that returns the training of a code, given `config` and `settings`; an experiment's `final`.
      config: settings of the experiment.
      settings: settings of the winner training.
    """

    final: Callable[[Any, Any, Int[np.ndarray, " dims"]], FinalTraining | LanguageTraining]
    config: Any = None
    settings: Any = None

    def of(self, code: Int[np.ndarray, " dims"]) -> FinalTraining:
        """Returns the training of one code, whose network must be one of images.

        Raises:
          ExperimentError: `final` raised an error, or did not return a `FinalTraining`.
        """
        if not isinstance(found := self.of_any(code), FinalTraining):
            raise ExperimentError("final(...) trains a language model; expected a FinalTraining of a network of images")
        return found

    def of_any(self, code: Int[np.ndarray, " dims"]) -> FinalTraining | LanguageTraining:
        """Returns the training of one code, a network of images or a language model.

        Raises:
          ExperimentError: `final` raised an error, or did not return a training.
        """
        try:
            found = self.final(self.config, self.settings, code)
        except STOPS as error:
            raise ExperimentError(f"final(...) {what_it_did(error)}") from error
        if not isinstance(found, FinalTraining | LanguageTraining):
            raise ExperimentError(f"final(...) returned {shown(found)}; expected a FinalTraining")
        return found


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
      seed: random seed of the search.
      winner: winner training, run after the last trial; None for a search that ends with its last trial.
      objectives: names of two to four objectives; empty for the evaluator's value alone. Those are ``accuracy`` or
        ``value``, ``multiply_adds``, ``parameters``, ``latency``, and the evaluator's outcomes, with a minus if less of
        one is better, such as ``-energy``. The searcher has the same objectives; the winner is the knee of the front.

    Raises:
      ValueError: a part has another type, the searcher searches another space or other objectives, an objective is
        unknown, or a number is out of range.
    """

    name: str
    space: SearchSpace
    searcher: Searcher
    evaluator: Evaluator
    budget: int
    batch: int
    seed: int
    winner: WinnerTraining | None = None
    objectives: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, kind in (("name", str), ("space", SearchSpace), ("searcher", Searcher), ("evaluator", Evaluator)):
            found = getattr(self, name)
            if not isinstance(found, kind) or isinstance(found, type):
                raise ValueError(f"{name} must be of type {kind.__name__}; got {shown(found)}")
        if changed := definition_difference(self.space.definition(), self.searcher.space.definition()):
            raise ValueError(f"the searcher must search the space of the experiment; {changed} in the searcher's")
        set_whole_numbers(self, budget=1, batch=1, seed=0)
        for name, most in (("budget", 2**31 - 2), ("batch", 2**31 - 2), ("seed", 2**32 - 1)):  # 32 bits in their keys
            whole_number(name, getattr(self, name), 0, most)
        object.__setattr__(self, "objectives", check_study_objectives(self.objectives, self.searcher, self.evaluator))

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Names of the outcomes that trials have besides their value, multiply-adds and parameters."""
        return stored_outcomes(self.objectives, self.evaluator)


@runtime_checkable
class StudyProgress(Protocol):
    """Receives progress messages of a study; `lanas_jax.study.display` shows them."""

    def began(self, budget: int, trials: Sequence[Trial]) -> None:
        """Called when the loop starts, with the trials already in the store."""

    def asked(self, batch: Sequence[Trial]) -> None:
        """Called when a batch goes to the evaluator."""

    def finished(self, batch: Sequence[Trial]) -> None:
        """Called when a batch is finished."""

    def training(self, winner: Trial) -> TrainingProgress:
        """Called when the training of the winner starts; returns the receiver of its progress messages."""
        ...

    def note(self, text: str) -> None:
        """Called with a message to print on its own line."""


class Silence:
    """Ignores all progress messages."""

    def began(self, budget: int, trials: Sequence[Trial]) -> None: ...  # noqa: D102
    def asked(self, batch: Sequence[Trial]) -> None: ...  # noqa: D102
    def finished(self, batch: Sequence[Trial]) -> None: ...  # noqa: D102
    def training(self, winner: Trial) -> TrainingProgress:  # noqa: D102
        return SilentTraining()

    def note(self, text: str) -> None: ...  # noqa: D102
