"""A cluster as the workers of a study."""

import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Int

from lanas_jax.cluster.connection import ClusterError
from lanas_jax.cluster.dispatch import Dispatch
from lanas_jax.cluster.settings import ClusterSettings
from lanas_jax.cluster.task import ClusterTask
from lanas_jax.cluster.workforce import Workforce
from lanas_jax.evaluators.base import NotPreparedError, Prepared
from lanas_jax.evaluators.faults import describe_error
from lanas_jax.storage.results import NetworkResult, add_network_result
from lanas_jax.study import Experiment, StudyError
from lanas_jax.study.experiment import StudyProgress
from lanas_jax.study.replay import SearchLog
from lanas_jax.study.run_folder import Run
from lanas_jax.trainer.folder import open_folder
from lanas_jax.trainer.loop import TrainingProgress


class Cluster:
    """Evaluates a run's trials by workers on a Ray cluster; a `lanas_jax.study.loop.Workers` and a context manager.

    Args:
      ray: connected Ray module (`lanas_jax.cluster.connection.connected`).
      experiment: experiment of the run. It is not sent; workers build it again from the run's file and settings.
      run: run folder, created with an experiment's file.
      settings: resources and limits of the workers.
      progress: receiver of messages about workers that join and leave.

    Attributes:
      driver_seconds: seconds of work in this process during the search, without waiting for workers.

    Raises:
      RunError: the run was started from Python.
    """

    def __init__(self, ray: Any, experiment: Experiment, run: Run, settings: ClusterSettings, progress: StudyProgress):
        self._experiment, self._settings = experiment, settings
        self._workforce = Workforce(ray, ClusterTask.of(run), settings, progress.note)
        self.driver_seconds = 0.0

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workforce.__exit__(kind, error, trace)

    def prepare(self, directory: Path, progress: StudyProgress) -> None:
        """Prepares the evaluator on the workers: one worker does the common part, then all workers share the rest.

        The results are in the run's folder, which every node must share. If a worker is lost, another one takes over
        its part and continues from the last checkpoint.

        Raises:
          StudyError: the preparation failed.
        """
        if not isinstance(self._experiment.evaluator, Prepared):
            return
        try:
            progress.note("a worker prepares the evaluator, unless it is already prepared")
            (parts,) = self._workforce.all_done("begin", [None])
            if parts:
                progress.note(f"the workers do {parts} parts of the preparation")
            self._workforce.all_done("prepare_part", range(parts))
        except (ClusterError, NotPreparedError) as error:
            raise StudyError(str(error)) from error
        except Exception as error:
            raise StudyError(f"the preparation of the evaluator failed: {describe_error(error)}") from error

    def search(self, search_log: SearchLog, progress: StudyProgress) -> None:
        """Evaluates the pending trials, then new ones, to the end of the search.

        Raises:
          StudyError: the evaluator raises an error for every trial, or no worker can be used.
        """
        dispatch = Dispatch(search_log, self._workforce, self._settings, progress)
        try:
            dispatch.run()
        finally:
            self.driver_seconds += dispatch.seconds

    def train_winner(self, code: Int[np.ndarray, " dims"], here: Run, progress: TrainingProgress) -> None:
        """Trains the winner on a worker: in the run's folder if the worker shares it, otherwise its files are copied.

        If the worker is lost, another worker that shares the folder continues from the last checkpoint.

        Raises:
          StudyError: no worker is available.
          Exception: any exception that the winner training raises.
        """
        progress.note("a worker trains the winner")
        try:
            ((found, files),) = self._workforce.all_done("train_winner", [tuple(code.tolist())])
        except ClusterError as error:
            raise StudyError(str(error)) from error
        if not files:
            return
        partial = here.final.with_name(f"{here.final.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        for name, content in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(content)
        folder = open_folder(partial)
        add_network_result(here.directory, NetworkResult(folder.digest, str(here.final), found))
        partial.rename(here.final)
