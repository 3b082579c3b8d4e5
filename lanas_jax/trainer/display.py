"""Live progress of a training: one live line on a terminal, otherwise a plain line about once a minute."""

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from lanas_jax.runtime.durations import duration
from lanas_jax.trainer.loop import Accuracies
from lanas_jax.trainer.programs import Programs

PLAIN_SECONDS = 60.0  # seconds between two plain lines


class TrainingDisplay:
    """Shows a training's progress; a context manager, and a `lanas_jax.trainer.loop.TrainingProgress`.

    Args:
      console: console to print to.
      clock: monotonic clock, in seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.perf_counter):
        self._console = console
        self._clock = clock
        self._programs: Programs | None = None
        self._first = self._step = 0  # number of steps taken when this process started, and now
        self._loss = self._rate = float("nan")
        self._accuracies: Accuracies | None = None
        self._began = self._shown = self._clock()
        self._live = Live(console=console, get_renderable=self.line, refresh_per_second=4, transient=True)

    def __enter__(self) -> "TrainingDisplay":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def began(self, programs: Programs, step: int) -> None:
        """Starts the display."""
        self._programs, self._first, self._step = programs, step, step
        self._began = self._shown = self._clock()
        if step:
            self.note(f"resuming after step {step:,} of {programs.total:,}")

    def advanced(self, step: int, loss: float, learning_rate: float) -> None:
        """Shows the step, the loss and the learning rate."""
        first = self._step == self._first
        self._step, self._loss, self._rate = step, loss, learning_rate
        last = self._programs is not None and step == self._programs.total
        if not self._console.is_terminal and (first or last or self._clock() - self._shown >= PLAIN_SECONDS):
            self._shown = self._clock()
            self.note(self.line().plain)

    def validated(self, accuracies: Accuracies) -> None:
        """Shows the search-validation accuracies."""
        self._accuracies = accuracies

    def note(self, text: str) -> None:
        """Prints a line."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def line(self) -> Text:
        """Returns the current state of the training as one line."""
        if self._programs is None:
            return Text(f"loading and compiling: {duration(self._clock() - self._began)}")
        recipe, total = self._programs.task.recipe, self._programs.total
        epoch = max(self._step - 1, 0) * recipe.batch_size // self._programs.count + 1
        parts = [f"epoch {epoch:,}/{recipe.epochs:,}", f"step {self._step:,}/{total:,}"]
        if taken := self._step - self._first:
            pace = (self._clock() - self._began) / taken
            parts += [
                f"loss {self._loss:.4f}",
                f"learning rate {self._rate:.5f}",
                *self._validation(),
                *self._speed(recipe.batch_size / pace),
                f"{duration(pace * (total - self._step))} left",
            ]
        return Text(" · ".join(parts))

    def _speed(self, images: float) -> list[str]:
        at_peak = self._programs and self._programs.at_peak
        return [f"{images:,.0f} images/s" + (f" ({images * at_peak:.0%} of the peak)" if at_peak else "")]

    def _validation(self) -> list[str]:
        if self._accuracies is None:
            return []
        last, average = self._accuracies
        return [f"search-validation {last:.4f}" + ("" if average is None else f" (EMA weights {average:.4f})")]
