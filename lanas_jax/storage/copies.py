"""Copies of folders to buckets and back: runs, trainings, supernets and exported networks.

Everything is written to local disks, since locks, SQLite and the replacement of files need a file system. A bucket
(``gs://``, ``s3://`` and other places of `etils.epath`) holds copies. A folder may be copied while a search or a
training writes to it: checkpoints are copied first, then the trials as they are at one moment, then the records. So the
copy is a state from which the run can be resumed, whenever the copying was interrupted.
"""

import contextlib
import importlib.util
import json
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lanas_jax.runtime.paths import PathError, local_path
from lanas_jax.storage.folder import RunError

RECORDS = ("config.json", "training.json", "architecture.json")  # of a run, a training and exported weights
EXTRAS = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}  # scheme -> package that reads and writes such places
_REMOTE = re.compile(f"({'|'.join(EXTRAS)})://.")
_NUMBERED = re.compile(r"(?:.*/)?checkpoint/(?:[^/]+/)??\d+(?=/)")  # such as final/checkpoint/15
_PATTERN = re.compile(r"[*?\[]")  # fsspec would rename and delete the files that match such a path
_UNFINISHED = re.compile(r"\.partial$|-journal$|-wal$|-shm$|\.orbax-checkpoint-tmp")


def place_of(text: str) -> Any:
    """Returns a local path, or an `etils.epath.Path` for a remote place.

    Raises:
      PathError: the place is neither, or the package for it is not installed.
    """
    if (found := _REMOTE.match(text)) is None:
        return local_path(text)
    if importlib.util.find_spec(package := EXTRAS[found[1]]) is None:
        raise PathError(f"{text} needs the package {package}: pip install {package}")
    from etils import epath

    return epath.Path(text)


def copy_folder(source: Any, target: Any) -> int:
    """Copies a folder between places as `place_of` returns them.

    Args:
      source: folder of a run, a training or exported weights.
      target: new or empty folder; a remote one may also hold an earlier copy of the same folder, which is brought up to
        date, or the beginning of a copy that was interrupted.

    Returns:
      The number of files that were copied.

    Raises:
      RunError: the source holds none of these, or the target holds something else.
      Exception: an error of the remote file system.
    """
    name, record = _record(source)
    if name is None:
        raise RunError(f"{source} contains no run, no training and no exported network")
    here, there = dict(_files(source)), dict(_files(target)) if target.is_dir() else {}
    names = {_top(path) for path in here}
    if there and isinstance(target, Path):
        raise RunError(f"{target} is not empty: choose a new or an empty folder")
    if isinstance(source, Path) and isinstance(target, Path) and target.resolve().is_relative_to(source.resolve()):
        raise RunError(f"{target} is inside {source}: choose a folder outside of it")
    begun = name not in there and {_top(path) for path in there} <= names  # an interrupted first copy, or none
    if not begun and (name not in there or _identity(_record(target)[1]) != _identity(record)):
        raise RunError(f"{target} contains something other than an earlier copy of {source}: choose another place")
    old, new = _checkpoints(there), _checkpoints(here)
    stale = {path for path in there.keys() - here.keys() if not _PATTERN.search(str(target / path))}
    for path in stale:
        if not _checkpoint(path) and "/" in path and _top(path) in names:  # such as the result of an earlier winner
            (target / path).unlink()
    copied, vanished = 0, set()
    for path in sorted(here, key=lambda path: (_rank(path), path)):
        folder = _checkpoint(path)
        if folder and not begun and old.get(folder) == new[folder]:
            continue
        if _copy_file(source / path, target / path):
            copied += 1
        else:
            vanished.add(folder)
    whole = {Path(folder).parent for folder in new.keys() - vanished}
    for path in stale:
        if (folder := _checkpoint(path)) and Path(folder).parent in whole:  # replaced by a newer one
            (target / path).unlink()
    return copied


def _top(path: str) -> str:
    """Returns the first part of a relative path."""
    return path.split("/")[0]


def _checkpoint(path: str) -> str:
    """Returns the folder of the checkpoint that a file belongs to, or "" if it belongs to none."""
    return found[0] if (found := _NUMBERED.match(path)) else ""


def _checkpoints(files: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Returns the files of each checkpoint: orbax gives the files of arrays random names, so they identify it."""
    found: dict[str, dict[str, int]] = {}
    for path, size in files.items():
        if folder := _checkpoint(path):
            found.setdefault(folder, {})[path] = size
    return found


def _record(folder: Any) -> tuple[str | None, Any]:
    """Returns the name and the content of the file that says what a folder holds."""
    for name in RECORDS:
        if (folder / name).exists():
            return name, json.loads((folder / name).read_text())
    return None, None


def _identity(record: Any) -> Any:
    """Returns what does not change in the record of a folder."""
    return record.get("created", record)


def _rank(path: str) -> float:
    """Returns the place of a file in the order of copying."""
    if Path(path).name in RECORDS:
        return 2 - path.count("/") / 1000  # that of the whole folder last
    return 1 if path.endswith(".sqlite") else 0


def _files(folder: Any, inside: str = "") -> Iterator[tuple[str, int]]:
    """Yields the paths of all complete files in a folder, relative to it and with ``/``, and their sizes in bytes."""
    for path in folder.iterdir():
        name = f"{inside}{path.name}"
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            if _UNFINISHED.search(name):
                continue
            if path.is_dir():
                yield from _files(path, f"{name}/")
            else:
                status = path.stat()
                yield name, status.st_size if isinstance(path, Path) else status.length


def _copy_file(source: Any, target: Any) -> bool:
    """Copies one file; returns False if it was deleted meanwhile."""
    if isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if isinstance(source, Path) and source.suffix == ".sqlite":
            source = stack.enter_context(_snapshot(source))
        try:
            reading = stack.enter_context(source.open("rb"))
        except FileNotFoundError:
            return False
        partial = target.with_name(f"{target.name}.partial")  # closing a remote file completes it, even after an error
        whole = isinstance(target, Path) or not _PATTERN.search(str(target))
        with (partial if whole else target).open("wb") as writing:
            shutil.copyfileobj(reading, writing)
        if whole:
            partial.replace(target)
    return True


@contextlib.contextmanager
def _snapshot(database: Path) -> Iterator[Path]:
    """Yields a copy of a SQLite file as it is at one moment, whatever other processes write.

    Raises:
      RunError: SQLite cannot read the file.
    """
    with tempfile.TemporaryDirectory(prefix="lanas-") as folder:
        copy = Path(folder) / database.name
        try:
            with (
                contextlib.closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True)) as reading,
                contextlib.closing(sqlite3.connect(copy)) as writing,
            ):
                reading.backup(writing)
        except sqlite3.Error as error:
            raise RunError(f"{database} cannot be read: {error}") from error
        yield copy
