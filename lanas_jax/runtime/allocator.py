"""The memory allocator of a process that computes on CPUs.

XLA allocates the temporaries of a program at each call. glibc returns blocks above 32 MB to the system, so each call
pays for every page again: half of a training step of a supernet on one core. A process whose allocator has one arena,
maps no blocks and is not trimmed pays during its first calls alone, and keeps up to several times the temporaries. This
was measured on two cores; threads of many cores may wait for the one arena. `GLIBC_TUNABLES` or any other variable in
`OWN` leaves the allocator as it is.
"""

import ctypes
import importlib.util
import os
import sys

# Parameters of mallopt (malloc.h) with their values.
SETTINGS = {-8: 1, -4: 0, -1: 2**31 - 1}  # M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD
OWN = ("GLIBC_TUNABLES", "MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def hold_freed_memory() -> bool:
    """Lets this process hold the memory that it frees, if it will compute on CPUs; returns whether it does.

    Nothing changes where packages for accelerators are installed, unless JAX_PLATFORMS is cpu; where the C library is
    not glibc; and where an environment variable sets the allocator. Threads that exist already are not affected.
    """
    platforms, accelerators = os.environ.get("JAX_PLATFORMS"), ("jax_plugins", "libtpu")
    on_cpu = platforms == "cpu" or not (platforms or any(map(importlib.util.find_spec, accelerators)))
    if sys.platform != "linux" or not on_cpu or any(name in os.environ for name in OWN):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(parameter, value) for parameter, value in SETTINGS.items())
