"""Ctrl-C, once and twice."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lanas_jax.runtime.interruption import handle_signals, uninterrupted
from lanas_jax.storage.checkpoints import Checkpoints
from tests.ctrl_c import ctrl_c

ROOT = Path(__file__).parents[2]
STUBBORN = """
import time
from lanas_jax.runtime.interruption import handle_signals
with handle_signals(lambda text: print(text, flush=True)):
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(60)  # does not listen
"""


@pytest.fixture(autouse=True)
def _ctrl_c():
    with ctrl_c():
        yield


def test_second_ctrl_c_ends_at_once_what_does_not_listen():
    process = subprocess.Popen(
        [sys.executable, "-c", STUBBORN], text=True, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "stopping; interrupt again to stop immediately\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def test_what_is_said_at_the_end_comes_last():
    lines = []

    def slowly(text):
        time.sleep(0.1)
        lines.append(text)

    with handle_signals(slowly):
        try:
            signal.raise_signal(signal.SIGINT)
            time.sleep(60)
        except KeyboardInterrupt:
            lines.append("stopped")
    assert lines == ["stopping; interrupt again to stop immediately", "stopped"]


LOST = """
import signal, sys, time
from lanas_jax.runtime.interruption import handle_signals

class Interrupts:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)

with handle_signals(lambda text: print(text, flush=True)) as interruption:
    try:
        Interrupts()
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(0.2)  # in which the listener would notice a second signal
        print("stopped")
sys.exit(interruption.exit_code)
"""


def test_a_signal_that_arrives_where_exceptions_are_only_printed_is_not_lost():
    process = subprocess.run(
        [sys.executable, "-c", LOST],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout == "stopping; interrupt again to stop immediately\nstopped\n"
    assert (process.returncode, process.stderr) == (143, "")


def test_ctrl_c_waits_for_the_end_of_an_uninterrupted_block_but_the_second_does_not():
    reached = []

    @uninterrupted()
    def press(times):
        for i in range(times):
            signal.raise_signal(signal.SIGINT)
            reached.append(i)

    @uninterrupted()
    def nested():
        press(1)
        reached.append("after the inner block")

    for function, expected in ((lambda: press(2), [0]), (nested, [0, "after the inner block"])):
        with pytest.raises(KeyboardInterrupt):
            function()
        assert reached == expected
        reached.clear()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("behind", [False, True])
def test_ctrl_c_while_a_checkpoint_is_written_leaves_it_whole(tmp_path, behind, monkeypatch):
    def save(checkpoints):
        with checkpoints:
            written = checkpoints._manager.save

            def hit(*args, **settings):
                signal.raise_signal(signal.SIGINT)
                return written(*args, **settings)

            monkeypatch.setattr(checkpoints._manager, "save", hit)
            checkpoints.save(3, np.arange(5), "something")

    with pytest.raises(KeyboardInterrupt):
        save(Checkpoints(tmp_path, behind))
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(np.zeros(5, int), {3: "something"})
        assert restored is not None
        np.testing.assert_array_equal(restored.state, np.arange(5))
