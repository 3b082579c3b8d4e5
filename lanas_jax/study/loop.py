"""The study loop, which connects searcher, evaluator and trial store.

Each iteration asks for a batch, records it as pending, evaluates it, records the outcomes, tells the searcher, and
saves a checkpoint. At the end `winner.py` trains the winner. The searcher implements algorithm 1 of arXiv 1906.06832;
this file implements the loop around it. `replay.py` resumes a run.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

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
from lanas_jax.storage.trial import Trial
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study import run_folder
from lanas_jax.study.experiment import Experiment, Silence, StudyProgress
from lanas_jax.study.metrics import SearchMetrics
from lanas_jax.study.objectives import VALUES, front, winner_among
from lanas_jax.study.replay import SearchLog, StudyError, keys_of
from lanas_jax.study.run_folder import Run
from lanas_jax.study.winner import check_winner, origin_of, same_network, train_winner
from lanas_jax.trainer.folder import open_folder, training_exists
from lanas_jax.trainer.loop import TrainingProgress


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a study.

    Attributes:
      directory: run directory.
      trials: all trials, in the order asked.
      final: result of the winner training, the content of its final.json; None if there is none.
      exhausted: True if the space ran out of codes before the budget was used.
      objectives: names of the objectives; empty for the evaluator's value alone.
    """

    directory: Path
    trials: Sequence[Trial]
    final: Mapping[str, Any] | None
    exhausted: bool
    objectives: tuple[str, ...] = ()

    @property
    def best(self) -> Trial | None:
        """The trial with the highest value, or with several objectives the knee of their front."""
        return winner_among(self.trials, self.objectives)

    @property
    def front(self) -> list[Trial]:
        """The trials that no other beats in every objective; with one objective, the best trial."""
        return front(self.trials, self.objectives or VALUES[:1])


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

    def train_winner(self, code: Int[np.ndarray, " dims"], here: Run, progress: TrainingProgress) -> None:
        """Trains the winner in the run's folder `final`, as the experiment defines; exceptions propagate."""


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
        smaller than the recorded one but not smaller than the number of trials. Recorded trials stay as they are. The
        winner training runs again only if the winner changed.
      accept_versions: if True, a run continues even if software versions differ from those of its trials. Recorded
        trials stay as they are; the searcher learns from their values.

    Raises:
      PathError: the folder is remote, or its name cannot be used.
      RunError: the folder contains something other than a run, or a run of another experiment or space, or is in use;
        the seed, the batch or JAX's random number settings differ; or software versions or the budget differ and the
        difference was not accepted.
      TrialStoreError: the trials file belongs to another program or is damaged.
      StudyError: the searcher now proposes trials other than those recorded; the evaluator cannot be prepared, raises
        an error for every trial or calls ``sys.exit``; or the winner training fails.
      ValueError, ConfigError: the winner training does not fit its images or the devices (`winner.check_winner`).
    """
    directory, progress = local_path(directory).absolute(), progress or Silence()
    workers = workers or ThisProcess(experiment)
    found = run_folder.run_exists(directory)
    if not found and experiment.winner is not None:
        check_winner(experiment)
    here = run_folder.open_run(directory) if found else run_folder.create(directory, experiment)
    here.check(experiment)
    here = _continued(experiment, here, extend, accept_versions, progress)
    with (
        run_folder.RUN.lock(here.directory),
        TrialStore.open(here.trials) as store,
        Checkpoints(here.states, alone=True) as checkpoints,
        SearchMetrics(here.metrics, progress) as progress,
    ):
        if prepare:
            workers.prepare(here.directory, progress)
        progress.began(experiment.budget, store.trials())
        inherited = max((one["events"] for one in here.accepted), default=0)
        search_log = SearchLog(experiment, store, checkpoints, inherited)
        workers.search(search_log, progress)
        if search_log.exhausted:
            progress.note(f"the space has no more codes: the search ends after {search_log.asked} trials")
        _train_winner(experiment, workers, here, store, progress)
        return Result(directory, store.trials(), here.result, search_log.exhausted, experiment.objectives)


def _continued(experiment: Experiment, here: Run, extend: bool, accept_versions: bool, progress: StudyProgress) -> Run:
    """Checks that a run may continue with an experiment, and records accepted changes of budget and versions.

    Raises:
      RunError: the seed, the batch or JAX's random number settings differ, or the budget or the software versions
        differ and the difference was not accepted.
    """
    for name in ("seed", "batch") if extend else ("seed", "batch", "budget"):
        recorded, given = here.record[name], getattr(experiment, name)
        if recorded != given:
            advice = "extend the run (extend=True), or " if name == "budget" else ""
            raise RunError(
                f"{here.directory} was started with {name} {recorded}, not {given}: {advice}choose another folder"
            )
    if changed := software.differences(here.record.get("software") or {}, software.DRAWS):
        raise RunError(
            f"{here.directory} was started with other random numbers ({changed}): set JAX_DEFAULT_PRNG_IMPL and "
            f"JAX_THREEFRY_PARTITIONABLE as they were to continue it"
        )
    with TrialStore.open(here.trials) as store:
        trials = store.trials()
    over = len(trials) >= experiment.budget and all(trial.finished is not None for trial in trials)
    nothing_left = over and (here.result is not None or experiment.winner is None)
    changed = software.differences(trials[-1].software) if trials and not nothing_left else ""
    if changed and not accept_versions:
        raise RunError(
            f"the trials of {here.directory} were recorded with other versions ({changed}): install these, or "
            f"accept the present ones with --accept-versions, from Python with accept_versions=True"
        )
    if here.record["budget"] != experiment.budget:
        before = here.record["budget"]
        here = run_folder.extend(here, experiment.budget, len(trials))
        progress.note(f"budget {before}, now {experiment.budget}")
    if changed:
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

    def train_winner(self, code: Int[np.ndarray, " dims"], here: Run, progress: TrainingProgress) -> None:
        """See `Workers`."""
        source, original = (here.source, here.original) if here.source.exists() else (None, None)
        origin = origin_of(self.experiment, source, original, here.working_folder, here.directory)
        train_winner(self.experiment, code, here.final, origin, progress)


def _train_winner(
    experiment: Experiment, workers: Workers, here: Run, store: TrialStore, progress: StudyProgress
) -> None:
    """Trains the winner, unless its training is complete; an interrupted training continues from its checkpoint.

    The folder of another network's training is renamed first.
    """
    if experiment.winner is None:
        return
    if (winner := winner_among(store.trials(), experiment.objectives)) is None:
        progress.note("no trial succeeded, so there is no winner to train")
        return
    code = winner.code
    if training_exists(here.final):
        trained = tuple(open_folder(here.final).record["code"])
        if not same_network(experiment.space, trained, winner.code):
            moved = _move_aside(here.final)
            progress.note(f"trial {winner.id} is the winner; the training of another network is now in {moved}")
        elif here.result is not None:
            if here.extensions:
                progress.note("the winner is the same as before the extension: its training stays")
            return
        else:
            code = trained
    try:
        workers.train_winner(np.array(code, np.int32), here, progress.training(winner))
    except STOPS as error:
        raise StudyError(f"the winner could not be trained: {describe_error(error)}") from error


def _move_aside(folder: Path) -> Path:
    """Renames a folder to the first free of ``final-1``, ``final-2``, ... and returns its new path."""
    names = (folder.with_name(f"{folder.name}-{n}") for n in range(1, 1_000_000))
    return folder.rename(next(path for path in names if not path.exists()))
