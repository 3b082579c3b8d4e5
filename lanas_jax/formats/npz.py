"""Arrays in ``.npz`` files: reading with specific errors, and atomic writing."""

import contextlib
import secrets
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lanas_jax.formats.errors import FileError
from lanas_jax.runtime.files import replacing_file


def fields_of(path: Path) -> tuple[str, ...]:
    """Returns the names of the arrays in an ``.npz`` file.

    Raises:
      FileError: if the file is missing or not an ``.npz`` file.
    """
    with _opened(path) as file:
        return tuple(file.files)


def read_npz(path: Path, fields: Iterable[str]) -> dict[str, np.ndarray]:
    """Reads the given arrays of an ``.npz`` file; unpickles nothing.

    Raises:
      FileError: if the file is missing or not an ``.npz`` file, or a field is missing or damaged.
    """
    arrays = {}
    with _opened(path) as file:
        for field in fields:
            if field not in file.files:
                raise FileError(f"{path}: expected a field {field!r}; found {', '.join(file.files)}")
            try:
                arrays[field] = file[field]
            except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
                raise FileError(f"{path}: the field {field!r} is damaged: {error}") from error
    return arrays


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a compressed ``.npz`` file atomically: to a temporary file in the same folder, which is then renamed.

    Raises:
      OSError: if the folder cannot be written.
    """
    with replacing_file(path, f"{secrets.token_hex(4)}.partial") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Opens an ``.npz`` file and reads only its directory."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
            start = file.read(4)
            if start != b"PK\x03\x04":
                raise FileError(f"{path}: expected an .npz file, b'PK\\x03\\x04' at byte 0; found {start!r}")
            file.seek(0)
            opened = stack.enter_context(np.load(file, allow_pickle=False))
        except zipfile.BadZipFile as error:
            size = path.stat().st_size
            raise FileError(f"{path}: the .npz file is damaged or cut off at byte {size}: {error}") from error
        except OSError as error:
            raise FileError(f"{path}: {error.strerror or error}") from error
        yield opened
