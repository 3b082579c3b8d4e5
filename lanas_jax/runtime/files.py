"""Atomic replacement of files, and the folder where relative paths start.

A reader of a replaced file sees either the old or the new content, even after a power failure.
"""

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def inside_folder(path: Path | str | None) -> Iterator[None]:
    """Context in which relative paths start in a folder; no effect if the path is None or the folder does not exist."""
    if path is None or not os.path.isdir(path):
        yield
        return
    with contextlib.chdir(path):
        yield


def check_creatable(directory: Path) -> None:
    """Checks that a folder exists and can be written, or can be created; creates nothing.

    Raises:
      OSError: it cannot; names the file or folder that is in the way.
    """
    nearest = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(nearest))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(nearest))


@contextlib.contextmanager
def replacing_file(path: Path, suffix: str = "partial") -> Iterator[IO[bytes]]:
    """Opens a temporary file next to `path`, and moves it to `path` at the end of the block, once it is on disk.

    Args:
      path: path of the file to replace or create.
      suffix: suffix of the temporary file's name; must be unique if several processes may write at the same time.

    Raises:
      OSError: the file cannot be written; names the file.
    """
    partial = path.with_name(f"{path.name}.{suffix}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)  # the system names no file if the disk is full
        raise
    finally:
        partial.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Replaces the content of `path` by text, as UTF-8; bytes of file names that are not text are escaped."""
    with replacing_file(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def replace_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replaces the content of `path` by an indented JSON object.

    Raises:
      ValueError: a number is not finite.
    """
    replace_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
