"""The metrics of a search: one row per finished trial, in the order in which the searcher learned their values.

The rows are a function of the trial store, from which each process writes them again. `lanas_jax.storage.metrics`
writes the file and TensorBoard events.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lanas_jax.storage.metrics import STEP, Metrics
from lanas_jax.storage.trial import Trial
from lanas_jax.study.experiment import StudyProgress
from lanas_jax.trainer.loop import TrainingProgress

COLUMNS = (STEP, "trial", "value", "best_value", "failed", "multiply_adds", "parameters")


class SearchMetrics:
    """Passes the progress messages of a study on and writes its metrics; a `StudyProgress` and a context manager.

    Args:
      path: path of the CSV file.
      progress: receiver of the messages.
    """

    def __init__(self, path: Path, progress: StudyProgress):
        self._path, self._progress = path, progress
        self._files = contextlib.ExitStack()
        self._metrics: Metrics | None = None
        self._finished = self._failed = 0
        self._best: float | None = None

    def __enter__(self) -> "SearchMetrics":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._files.close()

    def began(self, budget: int, trials: Sequence[Trial]) -> None:
        """See `StudyProgress`."""
        self._metrics = self._files.enter_context(Metrics(self._path, COLUMNS, 0))
        told = sorted((trial.told, trial.id, trial) for trial in trials if trial.told is not None)
        self._write([trial for *_, trial in told])
        self._progress.began(budget, trials)

    def asked(self, batch: Sequence[Trial]) -> None:
        """See `StudyProgress`."""
        self._progress.asked(batch)

    def finished(self, batch: Sequence[Trial]) -> None:
        """See `StudyProgress`."""
        self._write(batch)
        self._progress.finished(batch)

    def training(self, winner: Trial) -> TrainingProgress:
        """See `StudyProgress`."""
        return self._progress.training(winner)

    def note(self, text: str) -> None:
        """See `StudyProgress`."""
        self._progress.note(text)

    def _write(self, trials: Sequence[Trial]) -> None:
        assert self._metrics is not None, "a study calls began first"
        self._metrics.write([self._row(trial) for trial in trials])

    def _row(self, trial: Trial) -> dict[str, Any]:
        self._finished += 1
        self._failed += trial.value is None
        if trial.value is not None:
            self._best = trial.value if self._best is None else max(self._best, trial.value)
        own = {name: getattr(trial, name) for name in ("value", "multiply_adds", "parameters")}
        return {STEP: self._finished, "trial": trial.id, **own, "best_value": self._best, "failed": self._failed}
