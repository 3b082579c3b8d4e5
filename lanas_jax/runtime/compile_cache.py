"""Compiled programs on disk, so that no process compiles what an earlier one did: JAX's persistent compilation cache.

The command line switches it on (`enable_compile_cache`), for searches that are resumed or repeated and winners that are trained again.
From Python, JAX's own settings decide, and nothing happens on import. JAX neither bounds the cache without a further
package nor repairs it, so both are done here. What a program took to compile is recorded with it, which tells a cost
model what compiling others will take (`compile_cached`).
"""

import functools
import os
import re
import tempfile
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from lanas_jax.runtime import caches

SWITCH = "LANAS_COMPILE_CACHE"  # an environment variable; "off" keeps no programs
LARGEST = 2**30  # bytes, to which the cache is brought at each start
_SAVED = "/jax/compilation_cache/compile_time_saved_sec"
_TROUBLE = r"Error (reading|writing) persistent compilation cache entry for '(?P<name>[^']*)'"
_local = threading.local()


def enable_compile_cache(note: Callable[[str], None]) -> None:
    """Keeps compiled programs from here on, and uses those that were kept. Call it before the first array is made.

    JAX's own settings (JAX_COMPILATION_CACHE_DIR, JAX_ENABLE_COMPILATION_CACHE) come first.

    Args:
      note: is told, once, what is wrong with the folder; work goes on without it.
    """
    config: Any = jax.config
    if os.environ.get(SWITCH) == "off" or config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return
    folder = default_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
        prune_cache(folder, LARGEST)
    except OSError as error:
        note(f"compiled programs are not kept, {folder} cannot be written: {error.strerror}; {SWITCH}=off is quiet")
        return
    _heed(folder, note)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def default_folder() -> Path:
    """Where compiled programs are kept: ``lanas_jax/compiled`` in the user's folder of caches."""
    return caches.folder("compiled")


def prune_cache(folder: Path, largest: int) -> None:
    """Removes the files that were not used for longest, until the others have at most `largest` bytes together."""
    files = [(max(stat.st_atime, stat.st_mtime), stat.st_size, path) for path, stat in _files(folder)]
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= largest:
            return
        path.unlink(missing_ok=True)
        total -= size


def compile_cached(program: jax.stages.Lowered, options: Mapping[str, Any]) -> tuple[jax.stages.Compiled, float]:
    """A compiled program, and the seconds that a cache saved: 0 where it was compiled here.

    They are those that the cache recorded, whole seconds rounded down, less those that reading took.
    """
    _listening()
    _local.saved = 0.0
    made = program.compile(dict(options))
    return made, _local.saved


@functools.cache
def _listening() -> None:
    jax.monitoring.register_event_duration_secs_listener(_listen)


def _listen(event: str, duration_secs: float, **_: Any) -> None:
    if event == _SAVED:  # in the thread that compiles
        _local.saved = max(0.0, duration_secs)


def _heed(folder: Path, note: Callable[[str], None]) -> None:
    """Makes one notice of JAX's warnings about the cache, and removes damaged programs, which JAX would not replace."""
    shown, told = warnings.showwarning, False

    def show(message: Warning | str, *others: Any, **more: Any) -> None:
        nonlocal told
        if (found := re.match(_TROUBLE, str(message))) is None:
            return shown(message, *others, **more)
        if found[1] == "reading":
            for path in folder.glob(f"{found['name']}-*"):
                path.unlink(missing_ok=True)
        if not told:
            told = True
            note(f"a program was compiled anew, the ones kept in {folder} cannot be used: {message}")
        return None

    warnings.showwarning = show
    warnings.filterwarnings("always", _TROUBLE)


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """Those in a folder and below; another process may remove some in between."""
    found = []
    for path in folder.rglob("*"):
        try:
            found.append((path, path.stat()))
        except FileNotFoundError:
            continue
    return [(path, stat) for path, stat in found if path.is_file()]
