"""Folders of runs, trainings and rankings: one JSON record each, written last, and a lock against a second process."""

import contextlib
import dataclasses
import datetime
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from lanas_jax.runtime.files import replace_json


class RunError(Exception):
    """Raised when a folder cannot be used as requested."""


@dataclasses.dataclass(frozen=True)
class FolderKind:
    """A kind of folder. A JSON file, written last and atomically, describes the content and is also the lock file.

    Attributes:
      what: noun of the content for error messages, such as ``run``.
      record: name of the JSON file.
      format: version of the record that this code reads; None for a record without a version.
      keys: keys that every record has.
      types: types of the values of keys, also of optional ones, such as ``str | None``.
    """

    what: str
    record: str
    format: int | None = None
    keys: frozenset[str] = frozenset()
    types: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def exists(self, directory: Path) -> bool:
        """Returns whether a folder holds content of this kind."""
        return (directory / self.record).exists()

    def read(self, directory: Path) -> dict[str, Any]:
        """Returns the record of a folder.

        Raises:
          RunError: there is no content of this kind, or the record is damaged, incomplete or of another format.
        """
        path = directory / self.record
        if not directory.is_dir():
            raise RunError(f"there is no folder {directory}")
        if not self.exists(directory):
            raise RunError(f"{directory} contains no {self.what}: it has no {self.record}")
        record = read_json(path)
        if self.format is not None and "format" not in record:
            raise RunError(f"{path} does not describe a {self.what}: it has no format")
        if self.format is not None and record["format"] != self.format:
            raise RunError(
                f"{path} has format {record['format']}, but this version of lanas_jax reads format {self.format}: "
                f"continue with the version that wrote it, or start again in another folder"
            )
        if missing := self.keys - record.keys():
            raise RunError(f"{path} is incomplete: missing keys {', '.join(sorted(missing))}")
        for name, kind in self.types.items():
            if not isinstance(value := record.get(name), kind) and name in record:
                expected = kind.__name__ if isinstance(kind, type) else kind
                raise RunError(f"{path} is damaged: {name} is {value!r}, expected {expected}")
        return record

    @contextlib.contextmanager
    def created(self, directory: Path, record: Mapping[str, Any]) -> Iterator[None]:
        """Context that creates a folder if it is missing, and writes the record last, after the other files.

        Of processes that create the same folder at the same time, perhaps on several hosts, one does.

        Raises:
          RunError: the folder cannot be written, or another process is creating it.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            claim = directory / self._claim
            with claim.open("ab") as file:
                _lock(file, claim)
                try:
                    yield
                    replace_json(directory / self.record, record)
                finally:
                    claim.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"cannot write to {directory}: {error.strerror}") from error

    @property
    def unfinished(self) -> frozenset[str]:
        """Names of the temporary files that a process leaves if it is killed while it creates a folder."""
        return frozenset((f"{self.record}.partial", self._claim))

    @property
    def _claim(self) -> str:
        """Name of the file that is locked while a folder is created."""
        return f"{self.record}.claim"

    @contextlib.contextmanager
    def lock(self, directory: Path) -> Iterator[None]:
        """Locks a folder against a second writing process; the lock of a killed process is released.

        Raises:
          RunError: another process holds the lock, or the folder is not writable.
        """
        path = directory / self.record
        try:
            file = path.open("r+b")
        except OSError as error:
            raise RunError(f"cannot write to {directory}: {error.strerror}") from error
        with file:
            _lock(file, path)
            yield


def _lock(file: IO[bytes], path: Path) -> None:
    """Locks an open file, which must still be the one at `path`, until it is closed.

    Raises:
      RunError: another process holds the lock or has replaced the file, or the file system has no locks.
    """
    try:
        import fcntl
    except ImportError:  # Windows: no lock
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_ino != path.stat().st_ino:
            raise BlockingIOError("replaced meanwhile")
    except (BlockingIOError, FileNotFoundError):
        raise RunError(f"{path.parent} is in use by another process: wait until it ends") from None
    except OSError as error:
        raise RunError(f"{path.parent} cannot be locked: {error.strerror}; choose another file system") from error


def new_directory(name: str, now: datetime.datetime) -> contextlib.AbstractContextManager[Path]:
    """Returns the context of a new folder ``runs/NAME-TIME``, created by `numbered_directory`.

    Args:
      name: name of the experiment. The folder's name has at most 100 of its characters; runs of characters other than
        letters, digits and ``._-`` become ``_``.
      now: time of the start.

    Raises:
      RunError: the folder cannot be created.
    """
    return numbered_directory(Path("runs") / f"{re.sub(r'[^a-zA-Z0-9._-]+', '_', name)[:100]}-{now:%Y%m%d-%H%M%S}")


@contextlib.contextmanager
def numbered_directory(path: Path) -> Iterator[Path]:
    """Creates a folder, with a number appended to its name if it exists, and yields its path.

    Processes that start at the same time get separate folders. A folder that is still empty at the end is removed.

    Raises:
      RunError: the folder cannot be created.
    """
    for n in itertools.count(1):
        directory = path if n == 1 else path.with_name(f"{path.name}-{n}")
        first = not directory.parent.exists()
        try:
            directory.mkdir(parents=True)
            break
        except OSError as error:
            if not os.path.lexists(directory):
                raise RunError(f"cannot create {directory}: {error.strerror}; choose a folder with --out") from error
    try:
        yield directory
    finally:
        with contextlib.suppress(OSError):  # not empty
            directory.rmdir()
            if first:
                directory.parent.rmdir()


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
