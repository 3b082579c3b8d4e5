"""The study loop, which connects searcher, evaluator and trial store.

Each iteration asks for a batch, records it as pending, evaluates it, records the outcomes, tells the searcher, and
saves a checkpoint. At the end the winner is retrained once. The searcher implements algorithm 1 of arXiv 1906.06832;
this file implements the loop around it. `replay.py` resumes a run.
"""

import dataclasses
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from lanas_jax.evaluators.base import NotPreparedError, Prepared
from lanas_jax.evaluators.faults import (
    BrokenEvaluatorError,
    EvaluatorExitError,
    Failures,
    describe_error,
    outcomes_or_errors,
    prepare_evaluator,
)
from lanas_jax.runtime.errors import STOPS
from lanas_jax.runtime.paths import local_path
from lanas_jax.storage import software
from lanas_jax.storage.checkpoints import Checkpoints
from lanas_jax.storage.folder import RunError
from lanas_jax.storage.plain import shown
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
    extend: bool = False,
    accept_versions: bool = False,
) -> Result:
    """Runs an experiment, or continues its interrupted run in the given folder.

    Args:
      experiment: experiment to run.
      directory: new or empty folder, or the folder of an interrupted run of the same experiment.
      progress: receiver of progress messages.
      workers: evaluators of the trials; default: this process.
      prepare: if True, prepares the evaluator in the folder; if False, it must already be prepared.
      extend: if True, an interrupted or finished run continues to the experiment's budget, which may be larger or
        smaller than the recorded one but not smaller than the number of trials. The first trials stay as they are, and
        the winner is retrained only if it changed.
      accept_versions: if True, a run continues although software versions differ from those of its trials. Recorded
        trials stay as they are; the searcher learns from their values.

    Raises:
      PathError: the folder is remote, or its name cannot be used.
      RunError: the folder contains something else, or the run of another experiment or space, or is in use; or
        software versions or the budget differ and were not accepted.
      TrialStoreError: the trials file belongs to another program or is damaged.
      StudyError: the searcher now proposes other trials than those recorded, or the evaluator cannot be prepared, or
        the evaluator raises an error for every trial, or it calls ``sys.exit``.
    """
    directory, progress = local_path(directory).absolute(), progress or Silence()
    workers = workers or ThisProcess(experiment)
    found = run_folder.run_exists(directory)
    here = run_folder.open_run(directory) if found else run_folder.create(directory, experiment)
    here.check(experiment)
    here = _continued(experiment, here, extend, accept_versions, progress)
    with run_folder.lock(here), TrialStore.open(here.trials) as store, Checkpoints(here.states) as checkpoints:
        if prepare:
            workers.prepare(here.directory, progress)
        progress.began(experiment.budget, store.trials())
        inherited = max((one["events"] for one in here.accepted), default=0)
        search_log = SearchLog(experiment, store, checkpoints, inherited)
        workers.search(search_log, progress)
        if search_log.exhausted:
            progress.note(f"the space has no more codes: the search ends after {search_log.asked} trials")
        final = _retrain(experiment, workers, here, store, progress)
        return Result(directory, store.trials(), final, search_log.exhausted)


def _continued(experiment: Experiment, here: Run, extend: bool, accept_versions: bool, progress: StudyProgress) -> Run:
    """Checks that a run may continue with an experiment and records what changes.

    Raises:
      RunError: the seed, the batch, JAX's random numbers, the budget or the software versions differ and may not.
    """
    for name in ("seed", "batch") if extend else ("seed", "batch", "budget"):
        recorded, given = here.record[name], getattr(experiment, name)
        if recorded != given:
            advice = (
                "extend the run (extend=True), or choose another folder"
                if name == "budget"
                else ("choose another folder")
            )
            raise RunError(f"{here.directory} was started with {name} {recorded}, not {given}: {advice}")
    if changed := software.differences(here.record.get("software") or {}, software.DRAWS):
        raise RunError(
            f"{here.directory} was started with other random numbers ({changed}): set JAX_DEFAULT_PRNG_IMPL and "
            f"JAX_THREEFRY_PARTITIONABLE as they were to continue it"
        )
    if here.record["budget"] != experiment.budget:
        progress.note(f"budget {here.record['budget']}, now {experiment.budget}")
        here = run_folder.extend(here, experiment.budget)
    with TrialStore.open(here.trials) as store:
        trials, final = store.trials(), store.final()
    over = len(trials) >= experiment.budget and all(trial.finished is not None for trial in trials)
    if not trials or (over and (final is not None or experiment.finale is None)):
        return here
    if changed := software.differences(trials[-1].software):
        if not accept_versions:
            raise RunError(
                f"the trials of {here.directory} were recorded with other versions ({changed}): install these, or "
                f"accept the present ones with --accept-versions, from Python with accept_versions=True"
            )
        progress.note(f"continuing with other versions: {changed}")
        events = len({trial.asked for trial in trials} | {trial.told for trial in trials} - {None})
        here = run_folder.accept_versions(here, events, changed)
    return here


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
            prepare_evaluator(self.experiment.evaluator, directory, progress.note)
        except NotPreparedError as error:
            raise StudyError(str(error)) from error

    def search(self, search_log: SearchLog, progress: StudyProgress) -> None:
        """See `Workers`."""
        evaluator, failures = self.experiment.evaluator, Failures()
        while batch := search_log.pending or search_log.ask():
            progress.asked(batch)
            started = time.time()
            codes = np.array([trial.code for trial in batch], np.int32)
            try:
                results = failures.judged(outcomes_or_errors(evaluator, codes, keys_of(batch)))
            except (BrokenEvaluatorError, EvaluatorExitError) as error:
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
    if experiment.finale is None or (final is not None and not here.extensions):
        return final
    if final is not None and winner is not None:
        if _same_network(experiment, final.code, winner.code):
            progress.note("the winner is the same as before the extension: its training is kept")
            return final
        progress.note(
            f"trial {winner.id} replaces the earlier winner, whose training (test accuracy {final.test_accuracy:.4f}) "
            f"is discarded: the new winner is retrained, and the test data is read a second time"
        )
    if winner is None:
        progress.note("no trial succeeded, so there is no winner to retrain")
        return None
    progress.retraining(winner)
    shutil.rmtree(here.winner, ignore_errors=True)
    here.winner.parent.mkdir(parents=True, exist_ok=True)
    try:
        final = workers.retrain(np.array(winner.code, np.int32), here.winner)
    except STOPS as error:
        raise StudyError(f"retraining the winner failed: {describe_error(error)}") from error
    if not isinstance(final, Winner):
        raise StudyError(f"retraining the winner returned {shown(final)}; expected a Winner")
    try:
        store.set_final(final)
    except ValueError as error:
        raise StudyError(f"retraining the winner returned an impossible Winner: {error}") from error
    return store.final()


def _same_network(experiment: Experiment, one: Sequence[int], other: Sequence[int]) -> bool:
    first, second = np.asarray(experiment.space.canonical(np.array([one, other], np.int32)))
    return bool((first == second).all())
