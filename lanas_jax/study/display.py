"""Live progress of a study: one live line on a terminal, plain lines elsewhere.

The line shows the finished trials, the best value so far, the seconds per candidate and the time left. Compilation
happens once, so its seconds are excluded from the seconds per candidate.
"""

import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.text import Text

from lanas_jax.runtime.durations import duration
from lanas_jax.runtime.live_display import LiveDisplay
from lanas_jax.storage.trial import Trial, best
from lanas_jax.trainer.display import TrainingDisplay


class StudyDisplay(LiveDisplay):
    """Shows a study's progress; a `lanas_jax.study.experiment.StudyProgress`.

    Args:
      console: console to print to.
      clock: function that returns monotonic time in seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(console, clock)
        self._budget = 0
        self._done: list[Trial] = []
        self._timed = 0  # trials that this process evaluated
        self._seconds = 0.0  # their evaluation time, without compilation
        self._since = 0.0  # time of the last finished batch, or of the first ask while no trial was running
        self._under_way = 0
        self._training: TrainingDisplay | None = None  # of the winner

    def began(self, budget: int, trials: Sequence[Trial]) -> None:
        """Shows that the loop starts."""
        self._budget = budget
        self.start()
        self._done = [trial for trial in trials if trial.finished is not None]
        if self._done:
            self.note(f"continuing after {len(self._done)} of {budget} trials")

    def asked(self, batch: Sequence[Trial]) -> None:
        """Shows that a batch goes to the evaluator, which may still be working on others."""
        if not self._under_way:
            self._since = self.clock()
            if not self._timed and self.plain:
                first = "candidate" if len(batch) == 1 else f"{len(batch)} candidates"
                self.note(f"compiling and evaluating the first {first}")
        self._under_way += len(batch)

    def finished(self, batch: Sequence[Trial]) -> None:
        """Shows that a batch is finished."""
        compiling = sum(trial.compile_seconds or 0.0 for trial in batch)
        now = self.clock()
        self._seconds += max(now - self._since - compiling, 0.0)
        self._since = now
        self._timed += len(batch)
        self._done += batch
        self._under_way -= len(batch)
        self.print_plain(always=True)

    def training(self, winner: Trial) -> TrainingDisplay:
        """Shows that the winner training starts; from then on, `line` is the progress line of that training."""
        self.note(f"training the winner, trial {winner.id}")
        self._training = TrainingDisplay(self._console, self.clock)
        return self._training

    def line(self) -> Text:
        """Returns the progress line."""
        if self._training is not None:
            return self._training.line()
        parts = [f"trials {len(self._done)}/{self._budget}"]
        if (top := best(self._done)) is not None:
            parts.append(f"best {top.value:.4f}")
        if failed := sum(trial.value is None for trial in self._done):
            parts.append(f"failed {failed}")
        if self._timed:
            pace = self._seconds / self._timed
            waited = min(self.clock() - self._since, pace * self._under_way)
            left = max(pace * (self._budget - len(self._done)) - waited, 0.0)
            parts += [f"{pace:.2f} s per candidate", f"{duration(left)} left"]
        else:
            what = f"compiling and training the first {self._under_way}" if self._under_way else "compiling"
            parts.append(f"{what}: {duration(self.elapsed())}")
        return Text(" · ".join(parts))
