"""Real processes, really killed in the middle of an epoch: what comes after is what would have come without."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from lanas_jax.trainer import folder as folders
from lanas_jax.trainer.loop import restored
from lanas_jax.trainer.step import shapes
from tests.ctrl_c import ctrl_c
from tests.trainer.tiny_experiment import Config, Final, final

ROOT = Path(__file__).parents[2]
EXPERIMENT = ROOT / "tests" / "trainer" / "tiny_experiment.py"
LANAS = [sys.executable, "-c", "from lanas_jax.cli import run_and_exit; run_and_exit()"]
# An epoch is 10.25 steps, and a checkpoint is written every 7.
SETTINGS = ("--recipe.epochs", "20", "--recipe.steps-per-dispatch", "7", "--recipe.checkpoint-seconds", "0")
TOTAL = 205


def start(out, *settings):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [*LANAS, "train", str(EXPERIMENT), "--code", "0,1", "--out", str(out), *settings]
    with ctrl_c():
        return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def saved(out):
    """Steps at which there are checkpoints, whole or not."""
    folder = out / "checkpoint"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.exists() else []


def wait_for(out, step, process):
    while (not saved(out) or saved(out)[-1] < step) and process.poll() is None:
        time.sleep(0.002)


def state(out):
    settings = json.loads((out / "training.json").read_text())["settings"]
    assert settings["recipe"]["epochs"] == 20
    made = final(Config(), Final(), np.array([0, 1]))
    return restored(folders.open_folder(out), shapes(made.network, made.recipe)).state


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_bits(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _, err = (process := start(whole, *SETTINGS)).communicate(timeout=300)
    assert process.returncode == 0, err
    for step in (7, 50, 120):
        process = start(killed, *SETTINGS)
        wait_for(killed, step, process)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert step <= saved(killed)[-1] < TOTAL
        assert saved(killed)[-1] * 12 % 123  # in the middle of an epoch
    out, err = (process := start(killed, *SETTINGS)).communicate(timeout=300)
    assert process.returncode == 0, err
    assert "resuming after step " in out
    ours, theirs = jax.tree.leaves(state(killed)), jax.tree.leaves(state(whole))
    assert len(ours) == len(theirs) > 20
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (killed / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    mine, wholes = (json.loads((out / "final.json").read_text()) for out in (killed, whole))
    for name in ("test_accuracy", "ema_test_accuracy", "steps", "code"):
        assert mine[name] == wholes[name]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_says_how_to_continue(tmp_path, number, code):
    out = tmp_path / "out"
    process = start(out, *SETTINGS)
    wait_for(out, 7, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    assert f". To continue from the last checkpoint: lanas train {out}" in err
    assert ("which is saved" in err) == (number == signal.SIGTERM)
    assert "Traceback" not in err
    assert saved(out)
