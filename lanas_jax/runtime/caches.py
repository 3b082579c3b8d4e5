"""The location of on-disk caches."""

import os
from pathlib import Path

from lanas_jax.runtime.paths import PathError


def folder(name: str) -> Path:
    """Returns the folder ``lanas_jax/NAME`` in XDG_CACHE_HOME, by default ``~/.cache``. It may not exist.

    Raises:
      PathError: there is no home folder, as in a container whose user has no password entry.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "")
    try:
        home = caches if caches.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        raise PathError("the home folder is unknown; set HOME or XDG_CACHE_HOME") from None
    return home / "lanas_jax" / name
