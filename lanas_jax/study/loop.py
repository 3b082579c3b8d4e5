"""The study: the loop that joins searcher, evaluator and trial store.

Ask, write the batch down as pending, evaluate, write the outcomes down, tell, checkpoint; at the end retrain the winner
once (algorithm 1 of arXiv 1906.06832 is the searcher's; the loop around it is this file's). `replay.py` resumes a run.
"""

import dataclasses
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from lanas_jax.evaluators.base import NotPreparedError, Prepared
from lanas_jax.evaluators.faults import BrokenEvaluatorError, Failures, describe_error, outcomes_or_errors
from lanas_jax.storage.checkpoints import Checkpoints
from lanas_jax.storage.folder import RunError
from lanas_jax.storage.trials import Trial, TrialStore, Winner, best
from lanas_jax.study import run_folder
from lanas_jax.study.experiment import Experiment, Silence, StudyProgress
from lanas_jax.study.replay import FINALE_STREAM, SearchLog, StudyError, keys_of, stream_key
from lanas_jax.study.run_folder import Run


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
    final: Winner | None
    exhausted: bool

    @property
    def best(self) -> Trial | None:
        """The trial of the highest value."""
        return best(self.trials)


@runtime_checkable
class Workers(Protocol):
    """Where trials are evaluated: in this process, or on a cluster (`lanas_jax.cluster`)."""

    def prepare(self, directory: Path, progress: StudyProgress) -> None:
        """Has evaluators do, in the run's folder, what comes before their first evaluation.

        Raises:
          StudyError: it cannot be done.
        """

    def search(self, course: SearchLog, progress: StudyProgress) -> None:
        """Evaluates what is pending, then what is asked for, to the end of the budget or of the space.

        Raises:
          StudyError: evaluators are broken.
        """

    def retrain(self, code: Int[np.ndarray, " dims"], directory: Path) -> Winner:
        """The experiment's finale; raises what it raises."""
        ...


def run(
    experiment: Experiment,
    directory: Path | str,
    progress: StudyProgress | None = None,
    *,
    workers: Workers | None = None,
    prepare: bool = True,
) -> Result:
    """Runs an experiment to its end, or the rest of it where the folder holds a part already.

    Args:
      experiment: what to run.
      directory: a new or empty folder, or that of an interrupted run of the same experiment.
      progress: is told how it gets on.
      workers: evaluate the trials; default: this process.
      prepare: whether to have the evaluator prepared in the folder; else it has to be.

    Raises:
      RunError: the folder holds something else, or the run of another experiment, or is in use.
      TrialStoreError: the trials file is foreign or damaged.
      StudyError: recorded trials are not those that this software asks for, or the evaluator cannot be prepared, or
        only raises errors.
    """
    directory, progress = Path(directory).absolute(), progress or Silence()
    workers = workers or ThisProcess(experiment)
    found = run_folder.exists(directory)
    here = run_folder.open_run(directory) if found else run_folder.create(directory, experiment)
    _check_same(experiment, here)
    with run_folder.lock(here), TrialStore.open(here.trials) as store, Checkpoints(here.states) as checkpoints:
        if prepare:
            workers.prepare(here.directory, progress)
        progress.began(experiment.budget, store.trials())
        course = SearchLog(experiment, store, checkpoints)
        workers.search(course, progress)
        if course.exhausted:
            progress.note(f"the space has no further codes: the search ends after {course.asked} trials")
        final = _retrain(experiment, workers, here, store, progress)
        return Result(directory, store.trials(), final, course.exhausted)


@dataclasses.dataclass(frozen=True)
class ThisProcess:
    """Evaluates batch after batch in this process, on its devices; the usual `Workers`.

    Attributes:
      experiment: whose evaluator and finale are called.
    """

    experiment: Experiment

    def prepare(self, directory: Path, progress: StudyProgress) -> None:
        """See `Workers`."""
        if not isinstance(self.experiment.evaluator, Prepared):
            return
        try:
            self.experiment.evaluator.prepare(directory, progress.note)
        except NotPreparedError as error:
            raise StudyError(str(error)) from error

    def search(self, course: SearchLog, progress: StudyProgress) -> None:
        """See `Workers`."""
        evaluator, failures = self.experiment.evaluator, Failures()
        while batch := course.pending or course.ask():
            progress.asked(batch)
            started = time.time()
            codes = np.array([trial.code for trial in batch], np.int32)
            outcomes = outcomes_or_errors(evaluator, codes, keys_of(batch))
            if len(outcomes) != len(batch):
                raise StudyError(
                    f"the evaluator gave {len(outcomes)} outcomes for {len(batch)} codes; it must give one each"
                )
            try:
                results = failures.judged(outcomes)
            except BrokenEvaluatorError as error:
                raise StudyError(str(error)) from error.__cause__
            progress.finished(course.tell(batch, results, started))

    def retrain(self, code: Int[np.ndarray, " dims"], directory: Path) -> Winner:
        """See `Workers`."""
        return finale(self.experiment, code, directory)


def finale(experiment: Experiment, code: Int[np.ndarray, " dims"], directory: Path) -> Winner:
    """Calls an experiment's finale with the key that it has in every process."""
    if experiment.finale is None:
        raise ValueError(f"{experiment.name} has no finale")
    return experiment.finale(code, stream_key(experiment.seed, FINALE_STREAM), directory)


def _retrain(
    experiment: Experiment, workers: Workers, here: Run, store: TrialStore, progress: StudyProgress
) -> Winner | None:
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
    try:
        final = workers.retrain(np.array(winner.code, np.int32), here.winner)
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
            raise RunError(f"{here.directory} was begun with {name} {recorded}, not {given}: give another folder")
