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
from lanas_jax.storage.trials import Winner
from lanas_jax.study import Experiment, StudyError
from lanas_jax.study.experiment import StudyProgress
from lanas_jax.study.replay import SearchLog
from lanas_jax.study.run_folder import Run


class Cluster:
    """Evaluates a run's trials by workers on a Ray cluster; a `lanas_jax.study.loop.Workers` and a context manager.

    Args:
      ray: connected (`lanas_jax.cluster.connected`).
      experiment: of the run. What it holds is not sent: workers build it again from the run's file and settings.
      run: was made with an experiment's file.
      settings: what a worker is.
      progress: is told of workers that come and go.

    Attributes:
      driver_seconds: that the search kept this process at work, waiting for workers left out.

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
        """Has workers do what comes before the first evaluation: one what comes first, all what falls into parts.

        What is made lies in the run's folder, which every node has to see then. A worker that is lost leaves its part
        to another one, which goes on from the last checkpoint.

        Raises:
          StudyError: it cannot be done.
        """
        if not isinstance(self._experiment.evaluator, Prepared):
            return
        try:
            progress.note("a worker prepares the evaluator, or finds it prepared")
            (parts,) = self._workforce.all_done("begin", [None])
            if parts:
                progress.note(f"the workers do {parts} parts of the preparation")
            self._workforce.all_done("prepare_part", range(parts))
        except (ClusterError, NotPreparedError) as error:
            raise StudyError(str(error)) from error

    def search(self, course: SearchLog, progress: StudyProgress) -> None:
        """Evaluates what is pending, then what is asked for, to the end.

        Raises:
          StudyError: the evaluator only raises, or no worker can be used.
        """
        dispatch = Dispatch(course, self._workforce, self._settings, progress)
        try:
            dispatch.run()
        finally:
            self.driver_seconds += dispatch.seconds

    def retrain(self, code: Int[np.ndarray, " dims"], directory: Path) -> Winner:
        """The experiment's finale on a worker; the files that it wrote come back into `directory`.

        Raises:
          StudyError: no worker can be had.
          Exception: what the finale raised.
        """
        try:
            ((final, files),) = self._workforce.all_done("retrain", [tuple(code.tolist())])
        except ClusterError as error:
            raise StudyError(str(error)) from error
        for name, content in files.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(content)
        return final
