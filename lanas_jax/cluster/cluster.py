"""A cluster as the workers of a study."""

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
from lanas_jax.storage.trials import Winner
from lanas_jax.study import Experiment, StudyError
from lanas_jax.study.experiment import StudyProgress
from lanas_jax.study.replay import SearchLog
from lanas_jax.study.run_folder import Run


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

    def retrain(self, code: Int[np.ndarray, " dims"], directory: Path) -> Winner:
        """Retrains the winner on a worker and copies the files that it wrote to `directory`.

        Raises:
          StudyError: no worker is available.
          Exception: the exception of the winner training.
        """
        try:
            ((final, files),) = self._workforce.all_done("retrain", [tuple(code.tolist())])
        except ClusterError as error:
            raise StudyError(str(error)) from error
        for name, content in files.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(content)
        return final
