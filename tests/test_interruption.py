"""Ctrl-C, once and twice."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
STUBBORN = """
import time
from lanas_jax.interruption import heard
with heard(lambda text: print(text, flush=True)):
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(60)  # does not listen
"""


def test_second_ctrl_c_ends_at_once_what_does_not_listen():
    process = subprocess.Popen(
        [sys.executable, "-c", STUBBORN], text=True, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "stopping; once more to stop at once\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
