"""What a trials file looks like from outside, and how to check one without writing to it.

A file that is not ours, or that is damaged, must be left as it is: a person may yet rescue it. So the header is read as
plain bytes before SQLite sees the file, and SQLite first sees it read-only. What is in the file is `trials`' business.
"""

import contextlib
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

APPLICATION_ID = 0x4C614E41  # "LaNA": stands in the file's header, so that foreign SQLite files are recognised
FORMAT = 3  # of the tables; stands in the header as well
STUMBLES = (sqlite3.Error, UnicodeDecodeError)  # what Python's sqlite3 raises on damaged files
_LOCK_SECONDS = 30.0  # how long to wait for another process's transaction
_MAGIC = b"SQLite format 3\x00"


class TrialStoreError(Exception):
    """A trials file that is missing, foreign, damaged or already there."""


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection that never creates a file, with explicit transactions and rows as dictionaries.

    Args:
      path: the file.
      mode: SQLite's ``ro`` or ``rw``.
    """
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}", uri=True, timeout=_LOCK_SECONDS, isolation_level=None
    )
    connection.row_factory = _dictionary
    connection.text_factory = lambda text: text.decode(errors="replace")  # damaged text is for the checksum to notice
    return connection


def _dictionary(cursor: sqlite3.Cursor, row: tuple) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


def check_trial_file(path: Path) -> bool:
    """Checks a file without writing to it.

    Returns:
      Whether a killed process left a transaction in it that has to be rolled back (which opening it for writing does).

    Raises:
      TrialStoreError: no such file, a file of another program or format, or a damaged one.
    """
    _check_header(path)
    try:
        return _check_pages(path)
    except STUMBLES as error:
        raise unreadable(path, error) from error


def damaged(path: Path, why: str) -> TrialStoreError:
    """The error that says a file is damaged."""
    return TrialStoreError(f"{path} is damaged ({why.strip()}). It was not touched")


def unreadable(path: Path, error: sqlite3.Error | UnicodeDecodeError) -> TrialStoreError:
    """What SQLite stumbled over: a lock, a missing permission, or damage."""
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_PERM")):
        return TrialStoreError(f"{path} cannot be opened: {error}")
    return damaged(path, str(error))


def _check_header(path: Path) -> None:
    """Reads the file's first 100 bytes as plain bytes: SQLite's mark, our mark, our format."""
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        raise TrialStoreError(f"there is no trials file {path}") from None
    except OSError as error:
        raise TrialStoreError(f"{path} cannot be read: {error.strerror}") from error
    if len(header) < 100 or not header.startswith(_MAGIC):
        raise TrialStoreError(f"{path} is no trials file of lanas_jax, or its beginning is damaged. It was not touched")
    if int.from_bytes(header[68:72]) != APPLICATION_ID:
        raise TrialStoreError(f"{path} is an SQLite file of another program, no trials file. It was not touched")
    if (found := int.from_bytes(header[60:64])) != FORMAT:
        raise TrialStoreError(f"{path} has format {found}; this lanas_jax reads format {FORMAT}. It was not touched")


def _check_pages(path: Path) -> bool:
    """Whether a transaction has to be rolled back; raises `sqlite3.Error` where SQLite stumbles."""
    try:
        _check_integrity(path, path, "ro")
    except sqlite3.OperationalError as error:
        if not error.sqlite_errorname.startswith("SQLITE_READONLY"):
            raise
        # SQLite checks a file only after rolling back, so a copy is rolled back and checked first.
        with tempfile.TemporaryDirectory() as folder:
            for name in (path.name, f"{path.name}-journal"):
                shutil.copy(path.with_name(name), folder)
            _check_integrity(path, Path(folder) / path.name, "rw")
        return True
    return False


def _check_integrity(path: Path, copy: Path, mode: str) -> None:
    with contextlib.closing(connect(copy, mode)) as connection:
        connection.execute("BEGIN")  # so that the four readings are of one moment, even while another process writes
        (first, *_) = connection.execute("PRAGMA integrity_check(1)").fetchall()
        pages = connection.execute("PRAGMA page_count").fetchone()["page_count"]
        missing = pages * connection.execute("PRAGMA page_size").fetchone()["page_size"] - copy.stat().st_size
    if first["integrity_check"] != "ok":
        raise damaged(path, first["integrity_check"])
    if missing > 0:
        raise damaged(path, f"its last {missing} bytes are missing")
