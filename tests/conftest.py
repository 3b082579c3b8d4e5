"""Test-run settings: several virtual devices, strict promotion, shapes checked at every call, no cache of programs."""

import os
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

os.environ["LANAS_COMPILE_CACHE"] = "off"  # of the commands that tests start, too

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

install_import_hook(["lanas_jax", "models"], "beartype.beartype")

MAPPINGS = (
    20_000  # of memory, a third of what Linux allows a process; beyond its limit LLVM ends in a segmentation fault
)


@pytest.fixture(scope="module", autouse=True)
def _few_programs():
    """Lets go of compiled programs where many are held: each takes several mappings of memory."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MAPPINGS:
        jax.clear_caches()
