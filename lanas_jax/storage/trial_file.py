"""Opening and checking of a trials file without writing to it.

A damaged file, or a file of another program, must stay unchanged, so that the user can still rescue it. The header is
therefore read as plain bytes before SQLite opens the file, and SQLite opens it read-only first. `trials` handles the
contents.
"""

import contextlib
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

APPLICATION_ID = 0x4C614E41  # "LaNA", stored in the file's header to distinguish our files from other SQLite files
FORMATS = (4, 5)  # versions of the tables, also stored in the header: without and with outcomes of the evaluator
STUMBLES = (sqlite3.Error, UnicodeDecodeError)  # exceptions that Python's sqlite3 raises on damaged files
_LOCK_SECONDS = 30.0  # maximum wait for another process's transaction
_MAGIC = b"SQLite format 3\x00"


class TrialStoreError(Exception):
    """Raised for a trials file that is missing, damaged, of another program, or already exists."""


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Opens a connection with explicit transactions and rows as dictionaries; never creates a file.

    Args:
      path: path of the file.
      mode: SQLite open mode, ``ro`` or ``rw``.
    """
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}", uri=True, timeout=_LOCK_SECONDS, isolation_level=None
    )
    connection.row_factory = _dictionary
    connection.text_factory = lambda text: text.decode(errors="replace")  # the checksum detects damaged text
    return connection


def _dictionary(cursor: sqlite3.Cursor, row: tuple) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


def check_trial_file(path: Path) -> bool:
    """Checks a file without writing to it.

    Returns:
      True if a killed process left a transaction that must be rolled back; opening the file for writing does that.

    Raises:
      TrialStoreError: the file does not exist, is of another program or format, or is damaged.
    """
    _check_header(path)
    try:
        return _check_pages(path)
    except STUMBLES as error:
        raise unreadable(path, error) from error


def is_trial_file(path: Path) -> bool:
    """Returns whether a file has the header of a trials file; False if there is no such file or it cannot be read."""
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except OSError:
        return False
    return header.startswith(_MAGIC) and int.from_bytes(header[68:72]) == APPLICATION_ID


def damaged(path: Path, why: str) -> TrialStoreError:
    """Returns the error for a damaged file."""
    return TrialStoreError(f"{path} is damaged ({why.strip()}). It was not changed")


def unreadable(path: Path, error: sqlite3.Error | UnicodeDecodeError) -> TrialStoreError:
    """Returns the error for a file that SQLite cannot read: a lock, a missing permission, or damage."""
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_PERM")):
        return TrialStoreError(f"{path} cannot be opened: {error}")
    return damaged(path, str(error))


def _check_header(path: Path) -> None:
    """Checks the file's first 100 bytes: SQLite's magic string, our application id, our format."""
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        raise TrialStoreError(f"there is no trials file {path}") from None
    except OSError as error:
        raise TrialStoreError(f"{path} cannot be read: {error.strerror}") from error
    if len(header) < 100 or not header.startswith(_MAGIC):
        raise TrialStoreError(f"{path} is not a trials file of lanas_jax, or its header is damaged. It was not changed")
    if int.from_bytes(header[68:72]) != APPLICATION_ID:
        raise TrialStoreError(f"{path} is an SQLite file of another program, not a trials file. It was not changed")
    if (found := int.from_bytes(header[60:64])) not in FORMATS:
        raise TrialStoreError(
            f"{path} has format {found}, but this lanas_jax reads formats {FORMATS[0]} and {FORMATS[1]}. It was not "
            f"changed"
        )


def _check_pages(path: Path) -> bool:
    """Returns whether a transaction must be rolled back; raises `sqlite3.Error` if SQLite cannot read the file."""
    try:
        _check_integrity(path, path, "ro")
    except sqlite3.OperationalError as error:
        if not error.sqlite_errorname.startswith("SQLITE_READONLY"):
            raise
        # SQLite checks a file only after a rollback, so roll back and check a copy.
        with tempfile.TemporaryDirectory() as folder:
            for name in (path.name, f"{path.name}-journal"):
                shutil.copy(path.with_name(name), folder)
            _check_integrity(path, Path(folder) / path.name, "rw")
        return True
    return False


def _check_integrity(path: Path, copy: Path, mode: str) -> None:
    with contextlib.closing(connect(copy, mode)) as connection:
        connection.execute("BEGIN")  # one consistent snapshot for all reads, even while another process writes
        (first, *_) = connection.execute("PRAGMA integrity_check(1)").fetchall()
        pages = connection.execute("PRAGMA page_count").fetchone()["page_count"]
        missing = pages * connection.execute("PRAGMA page_size").fetchone()["page_size"] - copy.stat().st_size
    if first["integrity_check"] != "ok":
        raise damaged(path, first["integrity_check"])
    if missing > 0:
        raise damaged(path, f"its last {missing} bytes are missing")
