"""Trials: one candidate each, with its outcome.

`trials.py` stores them. This module imports neither JAX nor NumPy, so that listing trials is fast.
"""

import dataclasses
import enum
import itertools
from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable


class Status(enum.StrEnum):
    """Status of a trial."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True)
class Trial:
    """One candidate and its outcome.

    Attributes:
      id: position in the order asked, from 0.
      batch: number of its batch, from 0.
      code: code of the architecture.
      key: random key of the trial, raw words in hexadecimal.
      status: pending, done or failed.
      value: objective value, maximised; None unless done.
      multiply_adds: multiply-adds of one forward pass; None if unknown.
      parameters: number of trainable parameters; None if unknown.
      compile_seconds: share of its batch's compilation time.
      train_seconds: share of its batch's training time.
      steps: number of training steps; None if unknown, lower than for other trials if stopped early.
      reason: reason of the failure; None unless failed.
      software: software versions of the evaluating process; while pending, of the asking process.
      started: start of the evaluation, Unix seconds.
      finished: end of the evaluation, Unix seconds; None while pending.
      asked: number of the ask event, shared by all trials of a batch.
      wanted: number of trials requested by that event; exceeds the number returned if the space ran out of codes.
      told: number of the tell event; None while pending.
      tries: number of evaluations started; more than 1 if a worker was lost. None while pending.
      worker: name of the worker that evaluated it; None for the main process.
      outcomes: the store's outcomes by name, measured by the evaluator or known from the code; None if missing.
    """

    id: int
    batch: int
    code: tuple[int, ...]
    key: str
    status: Status
    value: float | None = None
    multiply_adds: int | None = None
    parameters: int | None = None
    compile_seconds: float | None = None
    train_seconds: float | None = None
    steps: int | None = None
    reason: str | None = None
    software: Mapping[str, str] = dataclasses.field(default_factory=dict)
    started: float | None = None
    finished: float | None = None
    asked: int = 0
    wanted: int = 1
    told: int | None = None
    tries: int | None = None
    worker: str | None = None
    outcomes: Mapping[str, float | None] = dataclasses.field(default_factory=dict)


@runtime_checkable
class TrialOutcome(Protocol):
    """The outcome of one trial, as an evaluator returns it (`lanas_jax.evaluators.base.Outcome`)."""

    @property
    def value(self) -> float | None: ...  # noqa: D102
    @property
    def reason(self) -> str | None: ...  # noqa: D102
    @property
    def multiply_adds(self) -> int | None: ...  # noqa: D102
    @property
    def parameters(self) -> int | None: ...  # noqa: D102
    @property
    def compile_seconds(self) -> float: ...  # noqa: D102
    @property
    def train_seconds(self) -> float: ...  # noqa: D102
    @property
    def steps(self) -> int | None: ...  # noqa: D102
    @property
    def outcomes(self) -> Mapping[str, float | None]: ...  # noqa: D102


def differ_in_steps(trials: Iterable[Trial]) -> bool:
    """Returns whether trials with a value took different numbers of training steps, as under early stopping."""
    return len({trial.steps for trial in trials if trial.value is not None and trial.steps is not None}) > 1


def best(trials: Iterable[Trial]) -> Trial | None:
    """Returns the trial with the highest value, the earliest of equals; None if no trial is done."""
    done = (trial for trial in trials if trial.value is not None)
    return min(done, key=lambda trial: (-(trial.value or 0.0), trial.id), default=None)


def by_tell(trials: Iterable[Trial]) -> list[list[Trial]]:
    """Groups finished trials by tell event, in the order of the events."""
    finished = sorted((trial for trial in trials if trial.told is not None), key=lambda trial: (trial.told, trial.id))
    return [list(group) for _, group in itertools.groupby(finished, key=lambda trial: trial.told)]
