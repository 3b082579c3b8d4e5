"""metrics.csv: what each step of a training came to, one line each.

No clock goes into it, so that a training that was killed and resumed ends with the file of one that was not.
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
    """The file, open for further steps; a context manager.

    Args:
      path: of the file, made when missing.
      step: steps taken; lines of later ones, which will be taken again, are removed.
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
        """Adds a line per step, for good: they are there should the process be killed."""
        self._writer.writerows({name: _text(value) for name, value in row.items()} for row in rows)
        self._file.flush()


class Unwritten:
    """What a process has in place of `Metrics` that writes nothing; a context manager."""

    def __enter__(self) -> "Unwritten":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Nothing."""


def _lines_up_to(path: Path, step: int) -> list[str]:
    """The head and the lines of the steps up to `step`, as far as they were written whole."""
    if not path.exists():
        return []
    head, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
    if head != HEAD:
        return []
    return [head, *(line for line in lines if line.endswith("\n") and int(line.partition(",")[0]) <= step)]


def _text(value: Any) -> str:
    return f"{value:.7g}" if isinstance(value, float) else str(value)
