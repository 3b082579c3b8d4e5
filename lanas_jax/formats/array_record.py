"""ArrayRecord files, through the package `array_record`, which verifies their checksums."""

import functools
from pathlib import Path
from typing import Any

from lanas_jax.formats.errors import FileError


def records(path: Path) -> list[bytes]:
    """The records of a file, in order.

    Raises:
      FileError: no such file, one that is cut off, damaged, or no ArrayRecord file.
      ImportError: the package is not installed; says how to do without.
    """
    try:
        reader = _reader(path)
        found = reader.read_all()
        reader.close()
    except RuntimeError as error:
        raise FileError(f"{path}: {error}") from error
    return found


def read_at(path: Path, number: int) -> bytes:
    """The record of a number, from 0.

    Raises:
      FileError: as for `records`, or there is no such record.
      ImportError: as for `records`.
    """
    try:
        return _kept_reader(path).read([number])[0]
    except (RuntimeError, ValueError, IndexError) as error:
        raise FileError(f"{path}: record {number}: {error}") from error


def _reader(path: Path) -> Any:
    try:
        from array_record.python.array_record_module import ArrayRecordReader
    except ImportError as error:
        raise ImportError(
            f"{path} is an ArrayRecord file: pip install array_record, or prepare the dataset as tfrecord"
        ) from error
    if not path.is_file():
        raise FileError(f"{path}: No such file")
    return ArrayRecordReader(str(path))


_kept_reader = functools.lru_cache(maxsize=64)(_reader)  # opening one reads the whole directory of its records
