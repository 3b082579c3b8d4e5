"""The line that is printed after the end of a process that had no chance to print it."""

import subprocess
import sys

import pytest

from tests.several_hosts import ROOT

PROGRAM = """\
import os, signal
from lanas_jax.runtime.last_line import LastLine
with LastLine("first") as line:
    line.change("to continue: lanas 'a b' -n $HOME")
    {end}
"""


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("os.abort()", "to continue: lanas 'a b' -n $HOME\n"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "to continue: lanas 'a b' -n $HOME\n"),
        ("os._exit(3)", "to continue: lanas 'a b' -n $HOME\n"),
        ("line.cancel(); os._exit(3)", ""),
        ("pass", ""),
        ("raise SystemExit(3)", ""),
    ],
)
def test_only_a_process_that_was_ended_by_force_has_a_last_line(end, said):
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(end=end)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (found.returncode == 0) == (end == "pass")
    assert found.stderr == said
