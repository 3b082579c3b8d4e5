"""Several real processes on one machine: they train as one, stop together, and go on to the same bits."""

import json
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from lanas_jax.trainer import folder as folders
from lanas_jax.trainer.loop import restored
from lanas_jax.trainer.step import shapes
from tests.several_hosts import PATIENCE, ends, start, start_two, two_hosts
from tests.trainer.tiny_training import RECIPE, network
from tests.trees import same

STREAM, IN_MEMORY = (Path(__file__).with_name(name) for name in ("tiny_stream.py", "tiny_experiment.py"))
SETTINGS = ("--recipe.batch-size", "16", "--recipe.steps-per-dispatch", "5", "--recipe.train-on", "train")
LONG = ("--recipe.epochs", "20", "--recipe.checkpoint-seconds", "0", "--pause", "0.02")  # 113 steps


def command(experiment, out, *settings):
    return ("train", experiment, "--code", "0,1", "--out", out, *SETTINGS, *settings)


def losses(out):
    rows = (out / "metrics.csv").read_text().splitlines()[1:]
    return np.array([float(row.split(",")[2]) for row in rows])


def state(out):
    return restored(folders.open_folder(out), shapes(network(), RECIPE)).state


def wait_for(out, step, processes):
    def saved():
        folder = out / "checkpoint"
        return [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.exists() else []

    while max(saved(), default=0) < step and all(process.poll() is None for process in processes):
        time.sleep(0.01)


@pytest.mark.slow
def test_eight_devices_train_as_one_does(tmp_path):
    """20 steps, in memory and streamed, of which each device has two images: losses to five digits."""
    runs = {(name, devices): tmp_path / f"{name}{devices}" for name in ("memory", "stream") for devices in (1, 8)}
    for devices in (1, 8):
        pair = {STREAM: runs["stream", devices], IN_MEMORY: runs["memory", devices]}
        codes, _, errors = ends([start(*command(experiment, out), devices=devices) for experiment, out in pair.items()])
        assert codes == [0, 0], errors
    expected = losses(runs["memory", 1])
    assert len(expected) == 23  # 4 epochs of 90 images
    assert np.ptp(expected) > 0.05
    for out in runs.values():
        np.testing.assert_allclose(losses(out), expected, rtol=2e-5)
    assert "8 x cpu" in json.loads((runs["stream", 8] / "final.json").read_text())["devices"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a training of two processes that was not interrupted, and what they printed."""
    out = tmp_path_factory.mktemp("hosts") / "whole"
    codes, outs, errors = ends(start_two(*command(STREAM, out, *LONG)))
    assert codes == [0, 0], errors
    return out, outs


def assert_goes_on_to_the_same_bits(whole, out):
    codes, outs, errors = ends(start_two(*command(STREAM, out, *LONG)))
    assert codes == [0, 0], errors
    assert "resuming after step " in outs[0]
    assert same(state(out), state(whole))
    assert (out / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


@pytest.mark.slow
def test_two_processes_train_as_one_does_and_one_of_them_speaks(whole, tmp_path):
    out, outs = whole
    codes, _, errors = ends([start(*command(STREAM, alone := tmp_path / "alone", *LONG), devices=2)])
    assert codes == [0], errors
    np.testing.assert_allclose(losses(out)[:20], losses(alone)[:20], rtol=2e-5)
    assert "test accuracy" in outs[0]
    assert not [line for line in outs[1].splitlines() if not re.search(r"\[Gloo\]|peer ranks", line)]
    assert json.loads((out / "final.json").read_text())["devices"] == "2 x cpu"


@pytest.mark.slow
def test_sigterm_to_one_stops_both_after_the_same_step(whole, tmp_path):
    processes = start_two(*command(STREAM, out := tmp_path / "part", *LONG))
    wait_for(out, 10, processes)
    processes[1].send_signal(signal.SIGTERM)
    codes, _, errors = ends(processes)
    assert codes == [143, 143], errors
    step = int(state(out).step)
    assert 10 <= step < 113
    for error in errors:
        assert f"stopped after step {step}, which is saved. To continue from the last checkpoint: lanas train" in error
    assert_goes_on_to_the_same_bits(whole[0], out)


@pytest.mark.slow
def test_killed_process_ends_the_other(tmp_path):
    processes = start_two(*command(STREAM, out := tmp_path / "part", *LONG))
    wait_for(out, 10, processes)
    processes[1].kill()
    assert processes[0].wait(timeout=PATIENCE) == 1
    _, _, errors = ends(processes)
    assert "a process was lost" in errors[0]
    assert "To continue from the last checkpoint: lanas train" in errors[0]


@pytest.mark.slow
def test_process_with_other_settings_is_refused(tmp_path):
    hosts = two_hosts()
    processes = [
        start(*command(STREAM, tmp_path / "out", "--pause", pause), *hosts, "--hosts.index", index)
        for index, pause in (("0", "0.0"), ("1", "0.1"))
    ]
    codes, _, errors = ends(processes)
    assert codes == [2, 2], errors
    for error in errors:
        assert "process 1 of 2 differs from process 0 in settings, images or software" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("experiment", [STREAM, IN_MEMORY])
def test_sigterm_saves_before_it_stops(tmp_path, experiment):
    """One process, whose checkpoints are far apart."""
    settings = ("--recipe.epochs", "4000", "--recipe.checkpoint-seconds", "1000")
    process = start(*command(experiment, out := tmp_path / "part", *settings))
    while process.poll() is None and not ((out / "metrics.csv").exists() and len(losses(out)) >= 10):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    codes, _, errors = ends([process])
    assert codes == [143], errors
    step = int(state(out).step)
    assert step >= 10
    assert f"stopped after step {step:,}, which is saved. To continue" in errors[0]
    assert len(losses(out)) == step
