"""Live progress of a training: one live line on a terminal, otherwise a plain line about once a minute."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from lanas_jax.runtime.durations import duration
from lanas_jax.runtime.live_display import LiveDisplay
from lanas_jax.trainer.loop import Accuracies
from lanas_jax.trainer.programs import Programs


class TrainingDisplay(LiveDisplay):
    """Shows a training's progress; a `lanas_jax.trainer.loop.TrainingProgress`.

    Args:
      console: console to print to.
      clock: function that returns monotonic time in seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(console, clock)
        self._programs: Programs | None = None
        self._first = self._step = 0  # number of steps taken when this process started, and now
        self._loss = self._rate = float("nan")
        self._accuracies: Accuracies | None = None

    def began(self, programs: Programs, step: int) -> None:
        """Shows that the loop starts."""
        self._programs, self._first, self._step = programs, step, step
        self.start()
        if step:
            self.note(f"resuming after step {step:,} of {programs.total:,}")

    def advanced(self, step: int, loss: float, learning_rate: float) -> None:
        """Shows the step, the loss and the learning rate."""
        first = self._step == self._first
        self._step, self._loss, self._rate = step, loss, learning_rate
        last = self._programs is not None and step == self._programs.total
        self.print_plain(always=first or last)

    def validated(self, accuracies: Accuracies) -> None:
        """Shows the search-validation accuracies."""
        self._accuracies = accuracies

    def line(self) -> Text:
        """Returns the progress line."""
        if self._programs is None:
            return Text(f"loading and compiling: {duration(self.elapsed())}")
        recipe, total = self._programs.task.recipe, self._programs.total
        epoch = max(self._step - 1, 0) * recipe.batch_size // self._programs.count + 1
        parts = [f"epoch {epoch:,}/{recipe.epochs:,}", f"step {self._step:,}/{total:,}"]
        if taken := self._step - self._first:
            pace = self.elapsed() / taken
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


class LanguageDisplay(LiveDisplay):
    """Shows the progress of a language model's training; a `lanas_jax.trainer.language.LanguageProgress`.

    Args:
      console: console to print to.
      clock: function that returns monotonic time in seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(console, clock)
        self._total = self._first = self._step = 0  # number of steps in all, taken when this process started, and now
        self._bits = self._rate = float("nan")
        self._validation: float | None = None

    def began(self, total: int, step: int) -> None:
        """Shows that the loop starts."""
        self._total, self._first, self._step = total, step, step
        self.start()
        if step:
            self.note(f"resuming after step {step:,} of {total:,}")

    def advanced(self, step: int, bits: float, learning_rate: float) -> None:
        """Shows the step, the loss and the learning rate."""
        first = self._step == self._first
        self._step, self._bits, self._rate = step, bits, learning_rate
        self.print_plain(always=first or step == self._total)

    def validated(self, bits: float) -> None:
        """Shows the bits per symbol of the validation part."""
        self._validation = bits

    def line(self) -> Text:
        """Returns the progress line."""
        if not self._total:
            return Text(f"loading and compiling: {duration(self.elapsed())}")
        parts = [f"step {self._step:,}/{self._total:,}"]
        if taken := self._step - self._first:
            parts += [f"{self._bits:.4f} bits per character", f"learning rate {self._rate:.5f}"]
            if self._validation is not None:
                parts.append(f"search-validation {self._validation:.4f}")
            parts.append(f"{duration(self.elapsed() / taken * (self._total - self._step))} left")
        return Text(" · ".join(parts))
