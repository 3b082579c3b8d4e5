"""Real processes, really killed while the supernet trains: the search comes to the trials it would have had without."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lanas_jax.storage.trials import TrialStore
from tests.ctrl_c import ctrl_c

ROOT = Path(__file__).parents[2]
EXPERIMENT = ROOT / "tests" / "supernet" / "linear_experiment.py"
LANAS = [sys.executable, "-c", "from lanas_jax.cli import run_and_exit; run_and_exit()"]
EPOCHS = 30  # 300 steps, a checkpoint after every 7


def start(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [*LANAS, *map(str, arguments)]
    with ctrl_c():
        return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def saved(run):
    """Steps of the supernet at which there are checkpoints, whole or not."""
    folder = run / "supernet" / "checkpoint"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.exists() else []


def wait_for(run, step, process):
    while (not saved(run) or saved(run)[-1] < step) and process.poll() is None:
        time.sleep(0.002)


def trials(run):
    with TrialStore.open(run / "trials.sqlite", read_only=True) as store:
        return [(trial.id, trial.code, trial.key, trial.status, trial.value) for trial in store.trials()]


@pytest.mark.slow
def test_killed_while_the_supernet_trains_it_comes_to_the_same_trials(tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    settings = ("--epochs", EPOCHS)
    code, _, err = finish(start("search", EXPERIMENT, "--out", whole, *settings))
    assert code == 0, err
    command = ("search", EXPERIMENT, "--out", run, *settings)
    for step in (7, 100):
        process = start(*command)
        wait_for(run, step, process)
        process.kill()
        assert finish(process)[0] == -signal.SIGKILL
        assert step <= saved(run)[-1] < 10 * EPOCHS
        assert trials(run) == []
        command = ("resume", run)
    code, out, err = finish(start(*command))
    assert code == 0, err
    assert "resuming after step" in out
    assert trials(run) == trials(whole)
    assert len(trials(run)) == 6
    assert (run / "supernet" / "metrics.csv").read_bytes() == (whole / "supernet" / "metrics.csv").read_bytes()


@pytest.mark.slow
def test_ctrl_c_while_the_supernet_trains_says_how_to_continue(tmp_path):
    run = tmp_path / "run"
    process = start("search", EXPERIMENT, "--out", run, "--epochs", EPOCHS)
    wait_for(run, 7, process)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130, err
    assert f"0 finished trials are saved. To continue: lanas resume {run}" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_supernet_that_cannot_be_used_stops_the_search_in_words(tmp_path):
    """The folder of another one: exit code 1, and what differs."""
    for epochs, expected in ((4, 0), (5, 1)):
        run = tmp_path / str(epochs)
        settings = ("--supernet", tmp_path / "shared", "--epochs", epochs)
        code, _, err = finish(start("search", EXPERIMENT, "--out", run, *settings))
        assert code == expected, err
    assert f"{tmp_path / 'shared'} holds a different supernet: the recipe: epochs 4, now 5" in err
    assert f"To continue: lanas resume {run}" in err
    assert "Traceback (" not in err
