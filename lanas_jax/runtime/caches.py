"""The location of on-disk caches."""

import os
from pathlib import Path


def folder(name: str) -> Path:
    """Returns the folder ``lanas_jax/NAME`` in XDG_CACHE_HOME, by default ``~/.cache``. It may not exist."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (caches if caches.is_absolute() else Path.home() / ".cache") / "lanas_jax" / name
