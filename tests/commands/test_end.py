"""How a process of the command `lanas` ends."""

import subprocess
import sys

import pytest

IN_JAX = """
import threading, time
from lanas_jax import cli
def choose(*words):
    import jax
    step = jax.jit(lambda x: x @ x)
    x = jax.numpy.ones((300, 300))
    step(x).block_until_ready()
    def forever():
        while True:
            step(x).block_until_ready()
    threading.Thread(target=forever, daemon=True).start()
    time.sleep(0.2)
    return chosen(*words)
chosen, cli._run = cli._run, choose
"""
IMPORTED_BEFORE = "import atexit; atexit.register(print, 'at exit'); import jax"
REGISTERING = """
import atexit
from lanas_jax import cli
def choose(*words):
    atexit.register(print, "at exit")
    return chosen(*words)
chosen, cli._run = cli._run, choose
"""


def ended(*arguments, before=""):
    command = [sys.executable, "-c", f"{before}\nfrom lanas_jax.cli import run_and_exit\nrun_and_exit()", *arguments]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return found.returncode, found.stdout, found.stderr


@pytest.mark.slow
def test_a_thread_that_is_still_in_jax_does_not_abort_the_process():
    """Before Python 3.14, finalization ends such a thread, and its C++ frames abort the process (exit code -6)."""
    code, out, errors = ended("--help", before=IN_JAX)
    assert (code, errors) == (0, "")
    assert out.startswith("lanas finds good neural networks")


@pytest.mark.parametrize(
    ("arguments", "expected"), [(("tables",), 0), (("tables", "--help"), 0), (("tables", "--unknown"), 2), (("x",), 2)]
)
def test_exit_codes_and_output_are_complete(arguments, expected):
    """What a command registers is called, and what is buffered at the end is written."""
    code, out, errors = ended(*arguments, before=REGISTERING)
    assert code == expected, errors
    assert out.endswith("at exit\n")


@pytest.mark.slow
def test_functions_of_jax_at_exit_are_called_if_it_was_imported_before():
    """They part from the other processes of a run."""
    for arguments, expected in ((("tables",), 0), (("x",), 2)):
        code, out, errors = ended(*arguments, before=IMPORTED_BEFORE)
        assert code == expected, errors
        assert out.endswith("at exit\n")


def test_an_exception_that_nothing_caught_is_printed():
    code, _, errors = ended(before="import lanas_jax.cli\nlanas_jax.cli._run = None")
    assert code == 1
    assert "Traceback" in errors


WRITING = """
import os, subprocess, sys
from lanas_jax import cli
def choose(*words):
    with open(words[1][0], "w") as file:
        os.write(1, b"of a library")
        file.write("of lanas")
    subprocess.run([sys.executable, "-c", "import os; os.fstat(1)"], check=True)  # the child has an output, too
    return chosen(*words)
chosen, cli._run = cli._run, choose
"""


@pytest.mark.slow
def test_what_is_printed_to_a_closed_output_does_not_land_in_a_file(tmp_path):
    """As of `lanas tables >&-`: the next file that is opened would get the number of standard output."""
    file = tmp_path / "trials"
    code = f"import os\nfor number in range(3): os.close(number)\n{WRITING}\ncli.run_and_exit()"
    done = subprocess.run([sys.executable, "-c", code, "tables", file], check=False, timeout=120)
    assert file.read_text() == "of lanas"
    assert done.returncode == 2  # no such file of a benchmark
    closed = f"sh -c 'exec {sys.executable} -m lanas_jax.cli tables <&- >&- 2>&-'"
    assert subprocess.run(closed, shell=True, check=False, timeout=120).returncode == 0
