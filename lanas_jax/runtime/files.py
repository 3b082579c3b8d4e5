"""Files that are replaced as a whole: a reader sees the old content or the new one, even after a power cut."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def replacing_file(path: Path, suffix: str = "partial") -> Iterator[IO[bytes]]:
    """Opens a new file beside `path`, which takes its place at the end of the block, once it is on disk.

    Args:
      path: the file to replace or to make.
      suffix: ending of the new file's name until then; unique where several processes may write at the same time.
    """
    partial = path.with_name(f"{path.name}.{suffix}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Writes text as UTF-8 in the place of what `path` holds."""
    with replacing_file(path) as file:
        file.write(text.encode("utf-8"))


def replace_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object, indented, in the place of what `path` holds.

    Raises:
      ValueError: a number that is not finite.
    """
    replace_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
