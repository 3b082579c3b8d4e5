"""Where on disk things are kept that can be made anew."""

import os
from pathlib import Path


def folder(name: str) -> Path:
    """The folder ``lanas_jax/NAME`` in the user's folder of caches, which XDG_CACHE_HOME moves; it need not exist."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (caches if caches.is_absolute() else Path.home() / ".cache") / "lanas_jax" / name
