"""Memory that a program frees stays with the process, and is not paid for at each call.

The first calls may still grow the heap: small blocks split what an earlier call has freed.
"""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import resource, statistics, sys
from lanas_jax.runtime.allocator import hold_freed_memory
held = "hold" in sys.argv and hold_freed_memory()
import jax, jax.numpy as jnp
def loss(w):
    x = jnp.ones((2**16, 64))
    for _ in range(3):
        x = jnp.tanh(x @ w)
    return x.sum()
program = jax.jit(jax.grad(loss)).lower(jnp.eye(64)).compile()
weights = jax.block_until_ready(jnp.eye(64))
pages = program.memory_analysis().temp_size_in_bytes / resource.getpagesize()
def call():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    program(weights).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(bool(held), statistics.median(call() for _ in range(31)) / pages)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
@pytest.mark.parametrize(
    ("arguments", "changed", "held"),
    [
        (["hold"], {}, True),
        ([], {}, False),
        (["hold"], {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7"}, False),
    ],
)
def test_temporaries_are_paid_for_once(arguments, changed, held):
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", SCRIPT, *arguments]
    environment |= {"JAX_PLATFORMS": "cpu", **changed}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    said, faults_per_page = done.stdout.split()
    assert said == str(held)
    assert float(faults_per_page) < 0.1 if held else float(faults_per_page) > 0.5
