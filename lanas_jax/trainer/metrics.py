"""metrics.csv: loss, schedules and accuracies of a training, one line per step.

The file holds no times, so a training that was killed and resumed writes the same file as an uninterrupted one.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from lanas_jax.runtime.files import replace_text

COLUMNS = ("step", "epoch", "loss", "learning_rate", "drop_path", "validation_accuracy", "ema_validation_accuracy")
HEAD = ",".join(COLUMNS) + "\n"


class Metrics:
    """The open file, to which lines are appended; a context manager.

    Args:
      path: path of the file; created if missing.
      step: number of steps taken. Lines of later steps are removed, since these steps will be repeated.
    """

    def __init__(self, path: Path, step: int):
        kept = _lines_up_to(path, step)
        replace_text(path, "".join(kept or [HEAD]))
        self._file = path.open("a", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, COLUMNS, lineterminator="\n")

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Appends one line per step and flushes them, so that they survive a kill of the process."""
        self._writer.writerows({name: _text(value) for name, value in row.items()} for row in rows)
        self._file.flush()


class Unwritten:
    """A stand-in for `Metrics` in processes that write nothing; a context manager."""

    def __enter__(self) -> "Unwritten":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Does nothing."""


def _lines_up_to(path: Path, step: int) -> list[str]:
    """Returns the header and the complete lines of the steps up to `step`."""
    if not path.exists():
        return []
    head, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
    if head != HEAD:
        return []
    return [head, *(line for line in lines if line.endswith("\n") and int(line.partition(",")[0]) <= step)]


def _text(value: Any) -> str:
    return f"{value:.7g}" if isinstance(value, float) else str(value)
