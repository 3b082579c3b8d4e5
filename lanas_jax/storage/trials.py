"""The trial store: every trial of a run in one SQLite file.

A trial is recorded as *pending* before its training and ends as *done* or *failed*. One ask is one transaction, and so
is one tell: a process killed at any moment leaves either the whole event or nothing. Asks and tells are events,
numbered from 0; replayed in that order they give the searcher's state.

The file uses SQLite's rollback journal, not its write-ahead log, so that it is a single file that also opens on network
drives and in read-only folders. Each row has a checksum, because SQLite detects damaged pages but not damaged values.

`trial.py` defines a trial. Neither module imports JAX or NumPy, so that listing trials is fast. `lanas_jax.study`
interprets the trials.
"""

import contextlib
import dataclasses
import json
import math
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lanas_jax.storage.plain import LARGEST_VALUE, plain_count, plain_float, plain_text
from lanas_jax.storage.trial import Status, Trial, TrialOutcome
from lanas_jax.storage.trial_file import (
    APPLICATION_ID,
    FORMATS,
    STUMBLES,
    TrialStoreError,
    check_trial_file,
    connect,
    damaged,
    unreadable,
)

_TABLES = """
CREATE TABLE trials (
  id INTEGER PRIMARY KEY,
  batch INTEGER NOT NULL,
  code TEXT NOT NULL,
  key TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('pending', 'done', 'failed')),
  value REAL,
  multiply_adds INTEGER,
  parameters INTEGER,
  compile_seconds REAL,
  train_seconds REAL,
  steps INTEGER,
  reason TEXT,
  software TEXT NOT NULL,
  started REAL,
  finished REAL,
  asked INTEGER NOT NULL,
  wanted INTEGER NOT NULL,
  told INTEGER,
  tries INTEGER,
  worker TEXT,
%s  checksum INTEGER NOT NULL,
  CHECK ((status = 'pending') = (told IS NULL)),
  CHECK ((status = 'done') = (value IS NOT NULL)),
  CHECK ((status = 'failed') = (reason IS NOT NULL))
);
CREATE INDEX trials_asked ON trials (asked);
CREATE INDEX trials_told ON trials (told);
"""
_BEYOND = ", beyond the numbers of float32 in which searchers compute"
_SCHEMA = "SELECT type, name, sql FROM sqlite_schema ORDER BY name"
_FIELDS = tuple(field.name for field in dataclasses.fields(Trial) if field.name != "outcomes")  # the first columns


class TrialStore:
    """The trials of one run. Created by `create` or `open`; a context manager that closes its file.

    Attributes:
      path: path of the file.
      outcomes: names of the outcomes that trials have besides their value, each a column.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path):
        self._connection = connection
        self.path = path
        self.outcomes: tuple[str, ...] = ()
        self._delay: float | None = None  # maximum age of a group inside `grouped`, seconds
        self._begun = 0.0  # start of the open group, monotonic seconds

    @classmethod
    def create(cls, path: Path, outcomes: Sequence[str] = ()) -> "TrialStore":
        """Creates an empty store in a new file.

        Args:
          path: path of the file.
          outcomes: names of the outcomes that trials have besides their value, identifiers in lower case.

        Raises:
          TrialStoreError: the file already exists.
        """
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            raise TrialStoreError(f"{path} already exists") from None
        store = cls(connect(path, "rw"), path)
        store.outcomes, version = tuple(outcomes), FORMATS[bool(outcomes)]
        store._connection.executescript(
            f"BEGIN; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {version}; "
            f"{_tables(outcomes)} COMMIT;"
        )
        return store

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> "TrialStore":
        """Opens the store in a file, after checking the file without writing to it.

        Raises:
          TrialStoreError: the file does not exist, is of another program or format, or is damaged. It is not changed.
        """
        unfinished = check_trial_file(path)
        # Rolling back the transaction of a killed process is a write.
        store = cls(connect(path, "rw" if unfinished or not read_only else "ro"), path)
        try:
            store._check()
        except STUMBLES as error:
            store.close()
            raise unreadable(path, error) from error
        except TrialStoreError:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def __enter__(self) -> "TrialStore":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextlib.contextmanager
    def grouped(self, seconds: float) -> Iterator[None]:
        """Buffers writes inside this context and commits them in groups, in order, since each disk write is slow.

        A killed process loses the last group: a whole number of the latest asks and tells.

        Args:
          seconds: age at which a group is committed, by the next write or `flush`.
        """
        self._delay = seconds
        try:
            yield
        finally:
            self._delay = None
            self._complete()

    def flush(self, *, now: bool = False) -> None:
        """Commits the open group if it is old enough, or in any case if `now` is True."""
        if now or (self._delay is not None and time.monotonic() - self._begun >= self._delay):
            self._complete()

    def trials(self) -> list[Trial]:
        """Returns all trials, in the order asked.

        Raises:
          TrialStoreError: a row does not match its checksum.
        """
        rows = self._connection.execute("SELECT * FROM trials ORDER BY id")
        return [_trial(self.path, row, self.outcomes) for row in rows]

    def add_pending(
        self,
        batch: int,
        codes: Sequence[Sequence[int]],
        keys: Sequence[str],
        software: Mapping[str, str],
        *,
        wanted: int | None = None,
    ) -> list[Trial]:
        """Records a batch as pending, in one transaction.

        Args:
          batch: number of the batch, from 0.
          codes: codes of the `n` trials.
          keys: keys of the `n` trials, in hexadecimal.
          software: software versions by name.
          wanted: number of codes requested; default: `n`.

        Returns:
          The trials; their numbers continue from the last recorded trial.
        """
        with self._transaction():
            first = self._connection.execute("SELECT coalesce(max(id) + 1, 0) AS id FROM trials").fetchone()["id"]
            event = self._next_event()
            common: dict[str, Any] = {"status": Status.PENDING, "software": dict(software), "asked": event}
            common["wanted"] = len(codes) if wanted is None else wanted
            trials = [
                Trial(first + i, batch, tuple(map(int, code)), key, **common)
                for i, (code, key) in enumerate(zip(codes, keys, strict=True))
            ]
            for trial in trials:
                self._write("INSERT", trial)
        return trials

    def finish(
        self,
        ids: Sequence[int],
        outcomes: Sequence[TrialOutcome],
        software: Mapping[str, str],
        started: float,
        *,
        tries: int = 1,
        worker: str | None = None,
    ) -> list[Trial]:
        """Records the outcomes of one tell, in one transaction.

        A value that is not finite, or beyond float32, is recorded as a failure, so searchers also receive a failure.

        Args:
          ids: numbers of pending trials, in ascending order.
          outcomes: outcomes in the same order, one per trial.
          software: software versions of the evaluating process, by name.
          started: start of the evaluation, Unix seconds.
          tries: number of evaluations started per trial, this one included.
          worker: name of the evaluating worker; None for this process.

        Returns:
          The finished trials.

        Raises:
          ValueError: the numbers of outcomes and trials differ, a trial is not pending, or a field of an outcome is
            not a number; `lanas_jax.evaluators.faults.outcomes_or_errors` returns plain outcomes only.
        """
        if len(outcomes) != len(ids):
            raise ValueError(f"got {len(outcomes)} outcomes for {len(ids)} trials; expected one per trial")
        common: dict[str, Any] = {
            "software": dict(software),
            "started": started,
            "finished": time.time(),
            "tries": tries,
        }
        with self._transaction():
            common |= {"told": self._next_event(), "worker": worker}
            trials = [
                dataclasses.replace(self._pending(i), **_result(outcome, self.outcomes), **common)
                for i, outcome in zip(ids, outcomes, strict=True)
            ]
            for trial in trials:
                self._write("REPLACE", trial)
        return trials

    def _pending(self, trial: int) -> Trial:
        row = self._connection.execute("SELECT * FROM trials WHERE id = ?", (trial,)).fetchone()
        if row is None or row["status"] != Status.PENDING:
            raise ValueError(f"trial {trial} is not pending")
        return _trial(self.path, row, self.outcomes)

    def _next_event(self) -> int:
        """Returns the number of events so far; the indexes make each maximum a single lookup."""
        asked = self._connection.execute("SELECT max(asked) AS event FROM trials").fetchone()["event"]
        told = self._connection.execute("SELECT max(told) AS event FROM trials").fetchone()["event"]
        return max(-1 if event is None else event for event in (asked, told)) + 1

    def _write(self, verb: str, trial: Trial) -> None:
        row = _row(trial, self.outcomes)
        self._connection.execute(f"{verb} INTO trials VALUES (?{', ?' * len(row)})", (*row, _sum(row)))

    def _check(self) -> None:
        """Reads everything once, so that damage is found on opening."""
        columns = [column["name"] for column in self._connection.execute("PRAGMA table_info(trials)")]
        self.outcomes = tuple(columns[len(_FIELDS) : -1])
        with contextlib.closing(sqlite3.connect(":memory:")) as ours:
            ours.row_factory = self._connection.row_factory
            ours.executescript(_tables(self.outcomes))
            if self._connection.execute(_SCHEMA).fetchall() != ours.execute(_SCHEMA).fetchall():
                raise damaged(self.path, "its tables are not those of a trials file")
        self.trials()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")
            self._begun = time.monotonic()
        self._connection.execute("SAVEPOINT member")
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:  # SQLite itself rolls back if the disk is full
                self._connection.execute("ROLLBACK TO member")
            self._complete_unless_grouped()
            raise
        self._connection.execute("RELEASE member")
        self._complete_unless_grouped()

    def _complete_unless_grouped(self) -> None:
        if self._delay is None:
            self._complete()
        else:
            self.flush()

    def _complete(self) -> None:
        """Commits the open transaction, if there is one."""
        if not self._connection.in_transaction:
            return
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


def _tables(outcomes: Sequence[str]) -> str:
    """Returns the statements that create the tables, with a column per outcome."""
    return _TABLES % "".join(f'  "{name}" REAL,\n' for name in outcomes)


def _result(outcome: TrialOutcome, names: Sequence[str]) -> dict[str, Any]:
    """Returns the fields of a trial that its outcome determines; `names` are those of the outcomes to record."""
    value, reason = plain_float("value", outcome.value), None
    if value is None:
        reason = plain_text(outcome.reason or "no reason given")
    elif not abs(value) <= LARGEST_VALUE:  # NaN too
        reason = plain_text(outcome.reason or f"the value is {value}{_BEYOND * math.isfinite(value)}")
    return {
        "status": Status.FAILED if reason else Status.DONE,
        "value": None if reason else value,
        "reason": reason,
        "multiply_adds": plain_count("multiply_adds", outcome.multiply_adds),
        "parameters": plain_count("parameters", outcome.parameters),
        "compile_seconds": _finite("compile_seconds", outcome.compile_seconds),
        "train_seconds": _finite("train_seconds", outcome.train_seconds),
        "steps": plain_count("steps", outcome.steps),
        "outcomes": {name: _finite(name, outcome.outcomes.get(name)) for name in names},
    }


def _finite(name: str, number: object) -> float | None:
    """Converts a number to a Python float; None if it is not finite."""
    found = plain_float(name, number)
    return None if found is None or not math.isfinite(found) else found


def _row(trial: Trial, outcomes: Sequence[str]) -> tuple[int | float | str | None, ...]:
    fields = {name: getattr(trial, name) for name in _FIELDS}
    fields |= {"status": trial.status.value, "software": json.dumps(trial.software), "code": _text(trial.code)}
    return (*fields.values(), *(trial.outcomes.get(name) for name in outcomes))


def _trial(path: Path, row: dict[str, Any], outcomes: Sequence[str]) -> Trial:
    if row.pop("checksum") != _sum(tuple(row.values())):
        raise damaged(path, f"trial {row['id']} does not match its checksum")
    read = {
        "code": _integers(path, row["code"]),
        "status": Status(row["status"]),
        "software": json.loads(row["software"]),
        "outcomes": {name: row.pop(name) for name in outcomes},
    }
    return Trial(**row | read)


def _sum(row: tuple[object, ...]) -> int:
    return zlib.crc32(repr(row).encode())


def _text(code: Sequence[int]) -> str:
    return ",".join(map(str, code))


def _integers(path: Path, text: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, text.split(",")))
    except ValueError:
        raise damaged(path, f"{text!r} is not a code") from None
