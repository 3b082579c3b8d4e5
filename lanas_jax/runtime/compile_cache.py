"""Compiled programs on disk, reused by later processes: JAX's persistent compilation cache.

The command line switches it on (`enable_compile_cache`), for repeated searches and trainings. From Python, JAX's own
settings decide, and importing changes nothing. JAX records each program's compile time in the cache, so a cost model
can estimate compile times even when programs come from the cache (`compile_cached`).

The size is bounded here, once at each start, and not by JAX's setting `jax_compilation_cache_max_size`. With that, each
write reads the access times of all entries, under a lock that also excludes reading. Measured with jax 0.10.2 and
0.12.0: a write takes 20 and 15 ms with 200 entries, 120 and 90 ms with 1,000, and 300 and 210 ms with 3,000, instead of
less than 1 ms. With 3,000 entries, 16 threads that write at once exceed JAX's timeout of 10 s for the lock and lose
entries. With jax 0.10.2, nothing more is cached after a process was killed between writing the two files of an entry,
nor for a user without an entry in /etc/passwd, as is common in containers.

JAX does not replace an entry that was truncated when its process was killed, so its program would be compiled at every
start. JAX reports this only as a warning. Therefore `warnings.showwarning`, the documented hook, is replaced by a
function that removes the entry. A warnings filter can only hide or raise a warning, and `logging.captureWarnings` would
redirect all other warnings.
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
from lanas_jax.runtime.paths import PathError

SWITCH = "LANAS_COMPILE_CACHE"  # environment variable; "off" disables the cache
LARGEST = 2**30  # maximum size of the cache in bytes, enforced at each start
_SAVED = "/jax/compilation_cache/compile_time_saved_sec"
_TROUBLE = r"Error (reading|writing) persistent compilation cache entry for '(?P<name>[^']*)'"
_local = threading.local()


def enable_compile_cache(note: Callable[[str], None]) -> None:
    """Enables the cache of compiled programs. Must be called before the first array is created.

    JAX's own settings (JAX_COMPILATION_CACHE_DIR, JAX_ENABLE_COMPILATION_CACHE) take precedence.

    Args:
      note: receives one message if the cache cannot be used; the process continues without it.
    """
    config: Any = jax.config
    if os.environ.get(SWITCH) == "off" or config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return
    try:
        folder = default_folder()
    except PathError as error:
        note(f"compiled programs are not cached: {error}")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
        prune_cache(folder, LARGEST)
    except OSError as error:
        note(
            f"compiled programs are not cached: cannot write to {folder}: {error.strerror}; "
            f"set {SWITCH}=off to disable the cache"
        )
        return
    _handle_warnings(folder, note)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def default_folder() -> Path:
    """Returns the folder of compiled programs, ``lanas_jax/compiled`` in the user's cache folder."""
    return caches.folder("compiled")


def prune_cache(folder: Path, largest: int) -> None:
    """Removes the least recently used files until the remaining ones have at most `largest` bytes in total."""
    files = [(max(stat.st_atime, stat.st_mtime), stat.st_size, path) for path, stat in _files(folder)]
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= largest:
            return
        path.unlink(missing_ok=True)
        total -= size


def compile_cached(program: jax.stages.Lowered, options: Mapping[str, Any]) -> tuple[jax.stages.Compiled, float]:
    """Compiles a program and returns it with the seconds that the cache saved, 0 if the program was not cached.

    The saved time is the compile time recorded in the cache, in whole seconds rounded down, minus the time of reading.
    """
    _listening()
    _local.saved = 0.0
    made = program.compile(dict(options))
    return made, _local.saved


@functools.cache
def _listening() -> None:
    jax.monitoring.register_event_duration_secs_listener(_listen)


def _listen(event: str, duration_secs: float, **_: Any) -> None:
    if event == _SAVED:  # called in the thread that compiles
        _local.saved = max(0.0, duration_secs)


def _handle_warnings(folder: Path, note: Callable[[str], None]) -> None:
    """Turns JAX's warnings about the cache into one message, and removes damaged files, which JAX would not replace."""
    shown, noted = warnings.showwarning, False

    def show(message: Warning | str, *others: Any, **more: Any) -> None:
        nonlocal noted
        if (found := re.match(_TROUBLE, str(message))) is None:
            return shown(message, *others, **more)
        if found[1] == "reading":
            for path in folder.glob(f"{found['name']}-*"):
                path.unlink(missing_ok=True)
        if not noted:
            noted = True
            note(f"a program was recompiled, since its entry in the cache {folder} cannot be used: {message}")
        return None

    warnings.showwarning = show
    warnings.filterwarnings("always", _TROUBLE)


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """Returns the files in a folder and its subfolders. Another process may remove files meanwhile."""
    found = []
    for path in folder.rglob("*"):
        try:
            found.append((path, path.stat()))
        except FileNotFoundError:
            continue
    return [(path, stat) for path, stat in found if path.is_file()]
