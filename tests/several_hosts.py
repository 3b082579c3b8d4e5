"""Real processes that run one command together, as several hosts do, on this machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LANAS = [sys.executable, "-c", "from lanas_jax.cli import run_and_exit; run_and_exit()"]
HEARTBEAT = 10  # seconds of silence after which a process is given up
PATIENCE = 6 * HEARTBEAT  # in which the one that is left has ended, be the machine as slow as it may
# Only process 0 of JAX writes programs to its cache. On CPUs, the keys of process 1 are others, so it would compile all
# of its programs in every test: here each process writes its own. JAX is imported within the command, since a command
# ends in another way if it was imported before.
EACH_WRITES = """
from lanas_jax import cli
def writing(*words):
    import types
    from jax._src import compiler
    compiler.distributed = types.SimpleNamespace(global_state=types.SimpleNamespace(process_id=0, client=None))
    return chosen(*words)
chosen, cli._run = cli._run, writing
"""


def start(*arguments, devices=1, before="", more=(), writes=EACH_WRITES, **how):
    """Starts a command in a process of its own.

    `before` is Python code that it runs first, `more` are variables of its environment. `writes` decides which process
    writes compiled programs to the cache.
    """
    environment = (
        os.environ
        | dict(more)
        | {
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
        }
    )
    command = [*LANAS[:2], f"{writes}\n{before}\n{LANAS[2]}", *map(str, arguments)]
    how = {"env": environment, "cwd": ROOT, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | how
    return subprocess.Popen(command, **how)


def start_two(*arguments, devices=1):
    hosts = two_hosts()
    return [start(*arguments, *hosts, "--hosts.index", i, devices=devices) for i in range(2)]


def two_hosts():
    """Settings of both, but for their numbers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    return ("--hosts.coordinator", coordinator, "--hosts.count", 2, "--hosts.heartbeat-seconds", HEARTBEAT)


def ends(processes, seconds=240):
    """Exit codes and what was printed."""
    found = [process.communicate(timeout=seconds) for process in processes]
    return [process.returncode for process in processes], [out for out, _ in found], [err for _, err in found]
