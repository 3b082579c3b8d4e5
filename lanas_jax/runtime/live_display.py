"""Live progress in the terminal: one line that is redrawn, or plain lines if the output is not a terminal."""

import abc
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_SECONDS = 60.0  # seconds between two plain lines

Display = TypeVar("Display", bound="LiveDisplay")


class LiveDisplay(abc.ABC):
    """A line that shows the progress of a computation; a context manager. Subclasses define what the line contains.

    Args:
      console: console to print to.
      clock: function that returns monotonic time in seconds.

    Attributes:
      plain: True if the output is not a terminal, so that only plain lines are printed.
      started: time at which the computation started.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.perf_counter) -> None:
        self._console = console
        self.clock = clock
        self.plain = not console.is_terminal
        self.started = self._printed = clock()
        self._live: Live | None = None

    @abc.abstractmethod
    def line(self) -> Text:
        """Returns the current state as one line."""

    def __enter__(self: Display) -> Display:
        if not self.plain:
            self._live = Live(console=self._console, get_renderable=self.line, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def start(self) -> None:
        """Sets the start time to now."""
        self.started = self._printed = self.clock()

    def elapsed(self) -> float:
        """Returns the seconds since the start."""
        return self.clock() - self.started

    def note(self, text: str) -> None:
        """Prints a separate line."""
        self._console.print(Text(str(text)), soft_wrap=True)  # not markup: users' paths and reasons contain brackets

    def print_plain(self, *, always: bool = False) -> None:
        """Prints the current state if the output is not a terminal, at most once a minute unless `always`."""
        if self.plain and (always or self.clock() - self._printed >= PLAIN_SECONDS):
            self._printed = self.clock()
            self.note(self.line().plain)
