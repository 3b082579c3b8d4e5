"""Real processes, really killed: what `lanas resume` makes of them is what an uninterrupted search would have been."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lanas_jax.storage.trial_file import TrialStoreError
from lanas_jax.storage.trials import TrialStore
from tests.ctrl_c import ctrl_c

ROOT = Path(__file__).parents[2]
EXPERIMENT = ROOT / "tests" / "quick_experiment.py"
LANAS = [sys.executable, "-c", "from lanas_jax.cli import run_and_exit; run_and_exit()"]


def start(*arguments, kill=""):
    environment = os.environ | {"KILL": kill, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [*LANAS, *map(str, arguments)]
    with ctrl_c():
        return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def trials(run):
    """All that does not depend on the clock, of every trial and of the winner's training."""
    with TrialStore.open(run / "trials.sqlite", read_only=True) as store:
        found = [
            (t.id, t.batch, t.code, t.key, t.status.value, t.value, t.multiply_adds, t.parameters, t.reason)
            for t in store.trials()
        ]
    final = run / "final" / "final.json"
    if not final.exists():
        return found, None
    names = ("code", "validation_accuracy", "test_accuracy", "steps")
    return found, [*map(json.loads(final.read_text()).get, names), (run / "final" / "metrics.csv").read_bytes()]


def finished(run):
    try:
        return sum(trial[4] != "pending" for trial in trials(run)[0])
    except TrialStoreError:  # not there yet
        return 0


def wait_for(run, count, process):
    while finished(run) < count and process.poll() is None:
        time.sleep(0.1)


def uninterrupted(folder, *settings):
    code, out, err = finish(start("search", EXPERIMENT, "--out", folder / "whole", *settings))
    assert code == 0, err
    return trials(folder / "whole"), out


@pytest.mark.slow
def test_killed_again_and_again_it_comes_to_the_trials_of_an_uninterrupted_search(tmp_path):
    settings = ("--winner-epochs", "3")
    whole, _ = uninterrupted(tmp_path, *settings)
    run = tmp_path / "run"
    moments = [
        ("ask 2", 4),  # between two transactions: the next batch is chosen, but not recorded
        ("evaluate 3", 4),  # in the middle of a batch
        ("tell 2", 12),  # between two transactions: a batch is recorded, but not told
        ("winner 1", 24),
    ]
    command = ("search", EXPERIMENT, "--out", run, *settings)
    for moment, kept in moments:
        code, _, err = finish(start(*command, kill=moment))
        assert code == -signal.SIGKILL, err
        assert finished(run) == kept
        before, final = trials(run)
        assert before[:kept] == whole[0][:kept]
        assert final is None
        command = ("resume", run)
    assert finish(start(*command))[0] == 0
    assert trials(run) == whole
    assert (run / "report.html").exists()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_ctrl_c_keeps_finished_trials_and_says_how_to_resume(tmp_path, number, code):
    run = tmp_path / "run"
    process = start("search", EXPERIMENT, "--out", run, "--pause", "0.2", "--budget", "200")
    wait_for(run, 4, process)
    process.send_signal(number)
    returned, _, err = finish(process)
    assert returned == code, err
    kept = finished(run)
    assert kept >= 4
    assert f"{kept} finished trials are saved. To continue: lanas resume {run}" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    """Seeded moments, from before the first trial to within the winner training."""
    settings = ("--searcher", "lanas", "--budget", "40", "--pause", "0.03", "--winner-epochs", "30")
    whole, _ = uninterrupted(tmp_path, *settings)
    run, moments = tmp_path / "run", random.Random("lanas")
    command = ("search", EXPERIMENT, "--out", run, *settings)
    kills = 0
    for kept in (0, 8, 24, 40):
        process = start(*command)
        wait_for(run, kept, process)
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        kills += finish(process)[0] == -signal.SIGKILL
        if (run / "config.json").exists():
            command = ("resume", run)
    assert kills >= 3
    assert finish(start(*command))[0] == 0
    assert trials(run) == whole
