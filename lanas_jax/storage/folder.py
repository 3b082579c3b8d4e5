"""Folders of runs and trainings: atomic writes of JSON files, and a lock against a second process."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class RunError(Exception):
    """Raised when a folder cannot be used as requested."""


@contextlib.contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Locks a file's folder against a second process; the lock of a killed process is released.

    Raises:
      RunError: another process holds the lock.
    """
    try:
        import fcntl
    except ImportError:  # Windows: no lock
        yield
        return
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_ino != path.stat().st_ino:
                raise BlockingIOError("replaced meanwhile")
        except BlockingIOError:
            raise RunError(f"{path.parent} is in use by another process: wait until it ends") from None
        except OSError as error:
            raise RunError(f"{path.parent} cannot be locked: {error.strerror}; choose another file system") from error
        yield


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file.

    Raises:
      RunError: the file cannot be read, or does not contain a JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise RunError(f"{path} is damaged: expected a JSON object, found {type(found).__name__}")
    return found
