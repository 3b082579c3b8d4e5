"""The study loop, which connects searcher, evaluator and trial store.

Each iteration asks for a batch, records it as pending, evaluates it, records the outcomes, tells the searcher, and
saves a checkpoint. At the end the winner is retrained once. The searcher implements algorithm 1 of arXiv 1906.06832;
this file implements the loop around it. `replay.py` resumes a run.
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
from lanas_jax.study.replay import WINNER_STREAM, SearchLog, StudyError, keys_of, stream_key
from lanas_jax.study.run_folder import Run


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a study.

    Attributes:
      directory: run directory.
      trials: all trials, in the order asked.
      final: retrained winner, or None if there is none.
      exhausted: True if the space ran out of codes before the budget was used.
    """

    directory: Path
    trials: Sequence[Trial]
    final: Winner | None
    exhausted: bool

    @property
    def best(self) -> Trial | None:
        """The trial with the highest value."""
        return best(self.trials)


@runtime_checkable
class Workers(Protocol):
    """Evaluates the trials of a study, in this process or on a cluster (`lanas_jax.cluster`)."""

    def prepare(self, directory: Path, progress: StudyProgress) -> None:
        """Prepares evaluators for their first evaluation, with files in the run's folder.

        Raises:
          StudyError: the preparation failed.
        """

    def search(self, search_log: SearchLog, progress: StudyProgress) -> None:
        """Evaluates the pending trials, then new ones until the budget is used or the space is exhausted.

        Raises:
          StudyError: the evaluator fails on every trial.
        """

    def retrain(self, code: Int[np.ndarray, " dims"], directory: Path) -> Winner:
        """Retrains the winner as the experiment defines; passes on its exceptions."""
        ...


def run(
    experiment: Experiment,
    directory: Path | str,
    progress: StudyProgress | None = None,
    *,
    workers: Workers | None = None,
    prepare: bool = True,
) -> Result:
    """Runs an experiment, or continues its interrupted run in the given folder.

    Args:
      experiment: experiment to run.
      directory: new or empty folder, or the folder of an interrupted run of the same experiment.
      progress: receiver of progress messages.
      workers: evaluators of the trials; default: this process.
      prepare: if True, prepares the evaluator in the folder; if False, it must already be prepared.

    Raises:
      RunError: the folder contains something else, or the run of another experiment, or is in use.
      TrialStoreError: the trials file belongs to another program or is damaged.
      StudyError: the searcher now proposes other trials than those recorded, or the evaluator cannot be prepared, or
        the evaluator raises an error for every trial.
    """
    directory, progress = Path(directory).absolute(), progress or Silence()
    workers = workers or ThisProcess(experiment)
    found = run_folder.run_exists(directory)
    here = run_folder.open_run(directory) if found else run_folder.create(directory, experiment)
    _check_same(experiment, here)
    with run_folder.lock(here), TrialStore.open(here.trials) as store, Checkpoints(here.states) as checkpoints:
        if prepare:
            workers.prepare(here.directory, progress)
        progress.began(experiment.budget, store.trials())
        search_log = SearchLog(experiment, store, checkpoints)
        workers.search(search_log, progress)
        if search_log.exhausted:
            progress.note(f"the space has no more codes: the search ends after {search_log.asked} trials")
        final = _retrain(experiment, workers, here, store, progress)
        return Result(directory, store.trials(), final, search_log.exhausted)


@dataclasses.dataclass(frozen=True)
class ThisProcess:
    """Evaluates one batch after another in this process, on its devices; the default `Workers`.

    Attributes:
      experiment: experiment that defines the evaluator and the winner training.
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

    def search(self, search_log: SearchLog, progress: StudyProgress) -> None:
        """See `Workers`."""
        evaluator, failures = self.experiment.evaluator, Failures()
        while batch := search_log.pending or search_log.ask():
            progress.asked(batch)
            started = time.time()
            codes = np.array([trial.code for trial in batch], np.int32)
            outcomes = outcomes_or_errors(evaluator, codes, keys_of(batch))
            if len(outcomes) != len(batch):
                raise StudyError(
                    f"the evaluator returned {len(outcomes)} outcomes for {len(batch)} codes; expected one per code"
                )
            try:
                results = failures.judged(outcomes)
            except BrokenEvaluatorError as error:
                raise StudyError(str(error)) from error.__cause__
            progress.finished(search_log.tell(batch, results, started))

    def retrain(self, code: Int[np.ndarray, " dims"], directory: Path) -> Winner:
        """See `Workers`."""
        return train_winner(self.experiment, code, directory)


def train_winner(experiment: Experiment, code: Int[np.ndarray, " dims"], directory: Path) -> Winner:
    """Runs the winner training of an experiment; its key depends on the seed alone, so every process uses the same."""
    if experiment.finale is None:
        raise ValueError(f"{experiment.name} defines no winner training: pass one to Experiment")
    return experiment.finale(code, stream_key(experiment.seed, WINNER_STREAM), directory)


def _retrain(
    experiment: Experiment, workers: Workers, here: Run, store: TrialStore, progress: StudyProgress
) -> Winner | None:
    """Retrains the winner once; a run that was interrupted during retraining repeats only this step."""
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
        raise StudyError(f"retraining the winner returned accuracies that are not finite: {final}")
    store.set_final(final)
    return store.final()


def _check_same(experiment: Experiment, here: Run) -> None:
    for name in ("seed", "budget", "batch"):
        recorded, given = here.record[name], getattr(experiment, name)
        if recorded != given:
            raise RunError(f"{here.directory} was started with {name} {recorded}, not {given}: choose another folder")
