"""Paths that users give: a leading ``~`` stands for the home folder, and remote places are refused.

Files are read and written at local paths only. Without the check here, ``gs://bucket/run`` would become a local folder
``gs:``, since `pathlib` does not recognize URLs.
"""

import os
import re
from pathlib import Path

_SCHEME = re.compile(r"(?:^|/)([A-Za-z][A-Za-z0-9+.-]+):(?:/|$)")


class PathError(Exception):
    """Raised for a path that is unusable in itself, regardless of what it contains."""


def local_path(path: Path | str) -> Path:
    """Returns a path of this machine's file system, with a leading ``~`` or ``~user`` expanded.

    Args:
      path: path that a user gave; may not exist.

    Raises:
      PathError: the path is remote, is not valid UTF-8, is too long or cannot be reached, or there is no home folder.
    """
    given = Path(path)
    try:
        found = given.expanduser()
    except RuntimeError:
        raise PathError(f"{given}: the home folder is unknown; give a path without ~") from None
    try:
        whole = os.path.abspath(found)
    except FileNotFoundError:
        raise PathError(f"{given}: the current folder no longer exists; change to another one") from None
    if scheme := _SCHEME.search(whole):
        raise PathError(
            f"{given} is a remote place ({scheme[1]}:), but only local folders and files are supported; lanas copy "
            f"copies folders from and to buckets"
        )
    try:
        whole.encode("utf-8")
    except UnicodeEncodeError:
        raise PathError(f"{whole!a} is not valid UTF-8, so it cannot be recorded; rename it") from None
    try:
        found.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return found
    except (OSError, ValueError) as error:  # a name that is too long, a folder without permission, a zero byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise PathError(f"{_shortened(given)} cannot be used: {reason}") from None
    return found


def _shortened(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 200 else f"{text[:200]}..."
