"""The metrics of a search or a training by step: a CSV file, and on request the same numbers as TensorBoard events.

The CSV file holds no times, so a run that was killed and resumed writes the same file as an uninterrupted one. A
process that writes events for the first time writes those of all rows of the file, in place of earlier events. So no
event is missing and none occurs twice, whichever processes of a run wrote events.
"""

import contextlib
import csv
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any

from lanas_jax.runtime.files import replace_text

STEP = "step"  # first column of every file
EVENTS = "tensorboard"  # folder of the events, next to the file
_WANTED: ContextVar[bool] = ContextVar("events_wanted", default=False)


@contextlib.contextmanager
def tensorboard_events(wanted: bool) -> Iterator[None]:
    """Context in which metrics are also written as TensorBoard events, which needs tensorboardX."""
    token = _WANTED.set(wanted)
    try:
        yield
    finally:
        _WANTED.reset(token)


class Metrics:
    """An open CSV file of metrics, to which rows are appended; a context manager.

    Args:
      path: path of the file; created if missing.
      columns: names of the columns; the first one is ``step``.
      step: number of steps taken. Rows of later steps are removed, since these steps will be repeated.
    """

    def __init__(self, path: Path, columns: Sequence[str], step: int):
        head = ",".join(columns) + "\n"
        kept = _lines_up_to(path, head, step)
        replace_text(path, "".join(kept))
        self._file = path.open("a", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, columns, lineterminator="\n")
        self._events: Any = None
        if _WANTED.get():
            self._events = _event_writer(path.with_name(EVENTS))
            self._add_events(csv.DictReader(kept))

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends one line per row and flushes the file, so that the lines survive if the process is killed.

        Args:
          rows: values by column; missing columns and None are empty.
        """
        texts = [{k: f"{x:.7g}" if isinstance(x, float) else x for k, x in row.items()} for row in rows]
        self._writer.writerows(texts)
        self._file.flush()
        if self._events is not None:
            self._add_events(texts)

    def _add_events(self, rows: Iterator[Mapping[str, Any]] | Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            for name, value in row.items():
                if name != STEP and value not in (None, ""):
                    self._events.add_scalar(name, float(value), int(row[STEP]))


class Unwritten:
    """A replacement for `Metrics` in processes that write nothing; a context manager."""

    def __enter__(self) -> "Unwritten":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Does nothing."""


def read_metrics(path: Path) -> dict[str, list[float]]:
    """Returns the columns of a CSV file of metrics, NaN where a row has no number; an unfinished last line is left out.

    Raises:
      ValueError: the file is damaged: a field is not a number, or a row has another number of fields.
    """
    with path.open(encoding="utf-8", newline="") as file:
        lines = [line for line in file if line.endswith("\n")]
    names, *rows = csv.reader(lines)
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    return {name: [float(field or "nan") for field in column] for name, column in zip(names, columns, strict=True)}


def _event_writer(folder: Path) -> Any:
    """Returns tensorboardX's writer of events to a folder, from which earlier events are removed."""
    from tensorboardX import SummaryWriter

    for earlier in folder.glob("events.out.tfevents.*"):
        earlier.unlink()
    return SummaryWriter(str(folder))


def _lines_up_to(path: Path, head: str, step: int) -> list[str]:
    """Returns the header and the complete lines of the steps up to `step`; damaged lines are left out."""
    if not path.exists():
        return [head]
    found, *lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) or [""]
    if found != head:
        return [head]
    whole = ((line.partition(",")[0], line) for line in lines if line.endswith("\n"))
    return [head, *(line for number, line in whole if number.isdecimal() and int(number) <= step)]
