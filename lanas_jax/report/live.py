"""The report of a search while it runs."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lanas_jax import report
from lanas_jax.storage.trial import Trial
from lanas_jax.study.experiment import Experiment, StudyProgress
from lanas_jax.trainer.loop import TrainingProgress

REFRESH = 20  # seconds between two versions
SHARE = 0.02  # maximum share of the search's time spent on its report
EXPECTED = 1.0  # seconds that the first report is expected to take


class LiveReport:
    """Passes the progress messages of a study on and rewrites its report; a `StudyProgress`.

    The report is written after a batch if the last one is at least 20 seconds old, and if all reports, with the next
    one as long as the last, take at most 2 % of the time since the start. A disk that cannot be written stops the
    search when the next trial is recorded, not here.

    Args:
      progress: receiver of the messages.
      directory: run folder.
      experiment: experiment of the run.
      clock: function that returns monotonic time in seconds.
    """

    def __init__(
        self,
        progress: StudyProgress,
        directory: Path,
        experiment: Experiment,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._progress, self._directory, self._experiment, self._clock = progress, directory, experiment, clock
        self._trials: dict[int, Trial] = {}
        self._start = self._written = clock()
        self._spent, self._last = 0.0, EXPECTED

    def began(self, budget: int, trials: Sequence[Trial]) -> None:
        """See `StudyProgress`."""
        self._start = self._written = self._clock()
        self._add(trials)
        self._progress.began(budget, trials)

    def asked(self, batch: Sequence[Trial]) -> None:
        """See `StudyProgress`."""
        self._add(batch)
        self._progress.asked(batch)

    def finished(self, batch: Sequence[Trial]) -> None:
        """See `StudyProgress`."""
        self._add(batch)
        self._progress.finished(batch)
        now = self._clock()
        if now - self._written < REFRESH or self._spent + self._last > SHARE * (now - self._start):
            return
        try:
            report.write_report(self._directory, self._experiment, running=list(self._trials.values()))
        except OSError as error:
            self._progress.note(f"the report cannot be written: {error.strerror}")
        self._written = self._clock()
        self._last = self._written - now
        self._spent += self._last

    def training(self, winner: Trial) -> TrainingProgress:
        """See `StudyProgress`."""
        return self._progress.training(winner)

    def note(self, text: str) -> None:
        """See `StudyProgress`."""
        self._progress.note(text)

    def _add(self, trials: Sequence[Trial]) -> None:
        self._trials |= {trial.id: trial for trial in trials}
