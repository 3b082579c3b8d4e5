"""ArrayRecord files, read by the package `array_record`, which verifies their checksums."""

import functools
from pathlib import Path
from typing import Any

from lanas_jax.formats.errors import FileError


def records(path: Path) -> list[bytes]:
    """Returns the records of a file, in order.

    Raises:
      FileError: if the file is missing, cut off, damaged, or not an ArrayRecord file.
      ImportError: if the package is not installed; names the alternative.
    """
    try:
        reader = _reader(path)
        found = reader.read_all()
        reader.close()
    except RuntimeError as error:
        raise FileError(f"{path}: {error}") from error
    return found


def read_at(path: Path, number: int) -> bytes:
    """Returns the record with the given number, from 0.

    Raises:
      FileError: for the same reasons as `records`, or if there is no such record.
      ImportError: if the package is not installed.
    """
    try:
        return _cached_reader(path).read([number])[0]
    except (RuntimeError, ValueError, IndexError) as error:
        raise FileError(f"{path}: record {number}: {error}") from error


def _reader(path: Path) -> Any:
    try:
        from array_record.python.array_record_module import ArrayRecordReader
    except ImportError as error:
        raise ImportError(
            f"{path} is an ArrayRecord file, which needs array_record: pip install array_record, or prepare the "
            "dataset as tfrecord"
        ) from error
    if not path.is_file():
        raise FileError(f"{path}: No such file")
    return ArrayRecordReader(str(path))


_cached_reader = functools.lru_cache(maxsize=64)(_reader)  # opening a file reads its whole record directory
