"""Folders of runs and trainings: JSON files written at once, and a lock against a second process."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class RunError(Exception):
    """A folder that cannot be used as asked."""


@contextlib.contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Keeps a second process out of a file's folder; a killed process's lock goes with it.

    Raises:
      RunError: another process is in.
    """
    try:
        import fcntl
    except ImportError:  # Windows: go without
        yield
        return
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"{path.parent} is being written by another process") from None
        yield


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file.

    Raises:
      RunError: the file cannot be read, or holds no JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise RunError(f"{path} is damaged: it holds no JSON object")
    return found
