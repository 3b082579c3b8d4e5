"""ArrayRecord files, through the package `array_record`, which verifies their checksums."""

from pathlib import Path

from lanas_jax.formats.errors import FileError


def records(path: Path) -> list[bytes]:
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
    try:
        reader = ArrayRecordReader(str(path))
        found = reader.read_all()
        reader.close()
    except RuntimeError as error:
        raise FileError(f"{path}: {error}") from error
    return found
