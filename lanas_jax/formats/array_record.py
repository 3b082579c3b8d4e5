"""ArrayRecord files, through the package `array_record`, which verifies their checksums."""

from collections.abc import Iterator
from pathlib import Path

from lanas_jax.formats.errors import FileError


def records(path: Path) -> Iterator[bytes]:
    """The records of a file, in order.

    Raises:
      FileError: no such file, one that is cut off, damaged, or no ArrayRecord file.
      ImportError: the package is not installed; says how to do without.
    """
    try:
        from array_record.python.array_record_module import ArrayRecordReader
    except ImportError as error:
        raise ImportError(
            f"{path} is an ArrayRecord file: pip install array_record, or prepare the dataset as tfrecord"
        ) from error
    if not path.is_file():
        raise FileError(f"{path}: No such file")
    reader = ArrayRecordReader(str(path))
    try:
        yield from reader.read_all()
    except RuntimeError as error:
        raise FileError(f"{path}: {error}") from error
    finally:
        reader.close()
