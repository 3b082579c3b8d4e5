"""The study: the loop that joins searcher, evaluator and trial store.

Ask, write the batch down as pending, evaluate, write the outcomes down, tell, checkpoint; at the end retrain the winner
once and write the report (algorithm 1 of arXiv 1906.06832 is the searcher's; the loop around it is this file's). How a
run is resumed is `course`'s business.
"""

import dataclasses
import math
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, PRNGKeyArray

from lanas_jax import runs
from lanas_jax.checkpoints import Checkpoints
from lanas_jax.course import FINALE_STREAM, Course, Keys, StudyError, keys_of, stream_key
from lanas_jax.evaluators.base import Evaluator, NotPreparedError, Outcome, Prepared
from lanas_jax.runs import Run
from lanas_jax.searchers.base import Searcher
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.trials import Final, Trial, TrialStore, best

HOPELESS = 8  # trials in a row for which the evaluator raised, after which it counts as broken
RAISED = "the evaluator raised"

Finale = Callable[[Int[np.ndarray, " dims"], PRNGKeyArray, Path], Final]


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


@dataclasses.dataclass(frozen=True)
class Result:
    """What a study came to.

    Attributes:
      directory: the run directory.
      trials: all of them, in the order asked.
      final: the retrained winner, or None where there is none.
      exhausted: whether the space ran out of codes before the budget did.
    """

    directory: Path
    trials: Sequence[Trial]
    final: Final | None
    exhausted: bool

    @property
    def best(self) -> Trial | None:
        """The trial of the highest value."""
        return best(self.trials)


@runtime_checkable
class Progress(Protocol):
    """Is told how a study gets on (`lanas_jax.progress` shows it)."""

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


def run(
    experiment: Experiment,
    directory: Path | str,
    progress: Progress | None = None,
    *,
    prepare: bool = True,
    write_report: bool = True,
) -> Result:
    """Runs an experiment to its end, or the rest of it where the folder holds a part already.

    Args:
      experiment: what to run.
      directory: a new or empty folder, or that of an interrupted run of the same experiment.
      progress: is told how it gets on.
      prepare: whether to have the evaluator prepared in the folder; else it has to be.
      write_report: whether to end with ``report.html``.

    Raises:
      RunError: the folder holds something else, or the run of another experiment, or is in use.
      TrialStoreError: the trials file is foreign or damaged.
      StudyError: recorded trials are not those that this software asks for, or the evaluator cannot be prepared, or
        only raises errors.
    """
    directory, progress = Path(directory).absolute(), progress or Silence()
    found = runs.exists(directory)
    here = runs.open_run(directory) if found else runs.create(directory, experiment)
    _check_same(experiment, here)
    with runs.lock(here), TrialStore.open(here.trials) as store, Checkpoints(here.states) as checkpoints:
        if prepare:
            _prepare(experiment, here, progress)
        progress.began(experiment.budget, store.trials())
        course = Course(experiment, store, checkpoints)
        search(course, experiment.evaluator, progress)
        if course.exhausted:
            progress.note(f"the space has no further codes: the search ends after {course.asked} trials")
        final = _retrain(experiment, here, store, progress)
        result = Result(directory, store.trials(), final, course.exhausted)
    if write_report:
        from lanas_jax import report  # matplotlib takes its time to import

        report.write(directory, experiment)
    return result


def _prepare(experiment: Experiment, here: Run, progress: Progress) -> None:
    """What an evaluator has to do before its first evaluation."""
    if not isinstance(experiment.evaluator, Prepared):
        return
    try:
        experiment.evaluator.prepare(here.directory, progress.note)
    except NotPreparedError as error:
        raise StudyError(str(error)) from error


def search(course: Course, evaluator: Evaluator, progress: Progress) -> None:
    """Evaluates what is pending, then batch after batch, to the end of the budget or of the space.

    Raises:
      StudyError: the evaluator is broken.
    """
    failures = Failures()
    while batch := course.pending or course.ask():
        progress.asked(batch)
        started = time.time()
        outcomes = _outcomes(evaluator, np.array([trial.code for trial in batch], np.int32), keys_of(batch))
        if len(outcomes) != len(batch):
            raise StudyError(
                f"the evaluator gave {len(outcomes)} outcomes for {len(batch)} codes; it must give one each"
            )
        results = failures.judged(outcomes)
        progress.finished(course.tell(batch, results, started))


class Failures:
    """Tells a bad candidate, which is a result, from an evaluator that only raises: that one is broken."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def judged(self, outcomes: Sequence[Outcome | Exception]) -> list[Outcome]:
        """Outcomes told together, errors as failures.

        Raises:
          StudyError: an error for each of these and those before, `HOPELESS` of them or more. These stay pending.
        """
        errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        self._in_a_row = self._in_a_row + len(errors) if len(errors) == len(outcomes) else 0
        if self._in_a_row >= HOPELESS:
            raise StudyError(
                f"the evaluator raised an error for each of the last {self._in_a_row} trials: "
                f"{describe_error(errors[-1])}. The last {len(outcomes)} stay pending"
            ) from errors[-1]
        return [_failure(outcome) if isinstance(outcome, Exception) else outcome for outcome in outcomes]


def _outcomes(evaluator: Evaluator, codes: Int[np.ndarray, "n dims"], keys: Keys) -> list[Outcome | Exception]:
    """Outcomes; where the evaluator raises, each code is tried alone, so that an error hits only who causes it."""
    try:
        return list(evaluator.evaluate(codes, keys))
    except Exception as error:
        if len(codes) == 1:
            return [error]
    return [_outcomes(evaluator, codes[i : i + 1], keys[i : i + 1])[0] for i in range(len(codes))]


def _failure(error: Exception) -> Outcome:
    return Outcome(None, f"{RAISED} {describe_error(error)}")


def describe_error(error: BaseException) -> str:
    """An error in one line, with the place it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def _retrain(experiment: Experiment, here: Run, store: TrialStore, progress: Progress) -> Final | None:
    """The finale, once: a run interrupted in it does only this again."""
    winner, final = best(store.trials()), store.final()
    if final is not None or experiment.finale is None:
        return final
    if winner is None:
        progress.note("no trial succeeded, so there is no winner to retrain")
        return None
    progress.retraining(winner)
    shutil.rmtree(here.winner, ignore_errors=True)
    here.winner.parent.mkdir(parents=True, exist_ok=True)
    code, key = np.array(winner.code, np.int32), stream_key(experiment.seed, FINALE_STREAM)
    try:
        final = experiment.finale(code, key, here.winner)
    except Exception as error:
        raise StudyError(f"retraining the winner failed: {describe_error(error)}") from error
    if not math.isfinite(final.validation_accuracy + final.test_accuracy):
        raise StudyError(f"retraining the winner gave accuracies that are not finite: {final}")
    store.set_final(final)
    return store.final()


def _check_same(experiment: Experiment, here: Run) -> None:
    for name in ("seed", "budget", "batch"):
        recorded, given = here.record[name], getattr(experiment, name)
        if recorded != given:
            raise runs.RunError(f"{here.directory} was begun with {name} {recorded}, not {given}: give another folder")
