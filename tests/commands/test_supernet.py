"""`lanas supernet`: trained beforehand, by one process or by two, a supernet is the one that a search reads."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from lanas_jax.cli import main
from lanas_jax.storage.trials import TrialStore
from lanas_jax.trainer import folder as folders
from lanas_jax.trainer.loop import restored
from lanas_jax.trainer.step import shapes
from tests.refusals import refused
from tests.several_hosts import PATIENCE, ends, start, start_two, two_hosts
from tests.supernet.linear_experiment import Config, one_shot

EXPERIMENT = Path(__file__).parents[1] / "supernet" / "linear_experiment.py"
LONG = ("--epochs", "20")  # 200 steps, a checkpoint after every 7


def command(out, *settings):
    return ("supernet", EXPERIMENT, "--out", out, *settings)


def search(run, *settings):
    return ["search", *map(str, (EXPERIMENT, "--out", run, *settings))]


def values(run):
    with TrialStore.open(run / "trials.sqlite", read_only=True) as store:
        return [(trial.code, trial.value) for trial in store.trials()]


def metrics(out):
    return (out / "metrics.csv").read_text()


def state(out):
    training = one_shot(Config(epochs=20))._training
    return restored(folders.open_folder(out), shapes(training.network, training.recipe)).state


def wait_for(out, step, processes):
    while all(process.poll() is None for process in processes):
        if (out / "metrics.csv").exists() and len(metrics(out).splitlines()) > step:
            return
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one_shot", "few_shot"])
def test_a_search_reads_the_supernet_that_was_trained_beforehand(tmp_path, capsys, kind):
    out, run, alone = tmp_path / "supernet", tmp_path / "run", tmp_path / "alone"
    assert main(list(map(str, command(out, "--values", kind)))) == 0
    told = capsys.readouterr().out
    assert f"supernet of linear, in {out}" in told
    assert "supernet: 40 of 40 steps" in told
    assert told.splitlines()[-1] == f"folder: {out}"
    before = (out / "final.json").read_bytes()
    assert main(search(run, "--values", kind, "--supernet", out)) == 0
    assert "supernet: 40 steps" not in capsys.readouterr().out.split("sub-supernet")[0]
    assert not (run / "supernet").exists()
    assert (out / "final.json").read_bytes() == before
    assert main(search(alone, "--values", kind)) == 0
    assert values(run) == values(alone)


def test_the_setting_printed_for_searches_names_the_folder(tmp_path, capsys):
    out = tmp_path / "supernet"
    for _ in range(2):  # the second finds it trained
        assert main(["supernet", str(EXPERIMENT), "--supernet", str(out)]) == 0
        assert f"folder: {out}" in capsys.readouterr().out
    message = refused(capsys, "supernet", EXPERIMENT, "--supernet", out, "--epochs", 5)
    assert f"{out} holds a different supernet: the recipe: epochs 4, now 5" in message


def test_without_a_name_the_folder_is_a_new_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["supernet", str(EXPERIMENT)]) == 0
    (out,) = (tmp_path / "runs").iterdir()
    assert out.name.startswith("linear-supernet-")
    assert f"folder: runs/{out.name}" in capsys.readouterr().out


def test_what_has_no_supernet_is_refused(tmp_path, capsys):
    message = refused(capsys, "supernet", EXPERIMENT, "--values", "random", "--out", tmp_path / "out")
    assert "linear does not use a supernet, so there is none to train" in message
    assert "usage: lanas supernet EXPERIMENT" in refused(capsys, "supernet")
    assert "no-such-experiment" in refused(capsys, "supernet", "no-such-experiment")
    message = refused(capsys, *command(tmp_path / "out", "--hosts.count", 2))
    assert "give coordinator, count and index together" in message
    assert not (tmp_path / "out").exists()


def test_help(capsys):
    assert main(["supernet", "--help"]) == 0
    assert "usage: lanas supernet EXPERIMENT" in capsys.readouterr().out


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a supernet that two processes trained without a break, and what they printed."""
    out = tmp_path_factory.mktemp("hosts") / "whole"
    codes, outs, errors = ends(start_two(*command(out, *LONG)))
    assert codes == [0, 0], errors
    return out, outs


def assert_goes_on_to_the_same_bits(whole, out):
    codes, outs, errors = ends(start_two(*command(out, *LONG)))
    assert codes == [0, 0], errors
    assert "resuming after step " in outs[0]
    assert metrics(out) == metrics(whole)
    for ours, theirs in zip(
        *(np.asarray(state(folder).weights.params["kernel"]) for folder in (out, whole)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_two_processes_train_the_supernet_that_one_trains(whole, tmp_path):
    out, outs = whole
    codes, _, errors = ends([start(*command(alone := tmp_path / "alone", *LONG))])
    assert codes == [0], errors
    ours, theirs = (np.genfromtxt(folder / "metrics.csv", delimiter=",")[1:21, 2] for folder in (out, alone))
    np.testing.assert_allclose(ours, theirs, rtol=2e-5)
    assert "supernet: 200 of 200 steps" in outs[0]
    assert not [line for line in outs[1].splitlines() if not line.startswith("[Gloo]")]
    assert json.loads((out / "training.json").read_text())["devices"] == "2 x cpu"


@pytest.mark.slow
def test_two_processes_train_a_sandwich_of_several_programs_as_one_does(tmp_path):
    both, alone = (command(tmp_path / name, "--values", "varied") for name in ("both", "alone"))
    codes, _, errors = ends([*start_two(*both), start(*alone)])
    assert codes == [0, 0, 0], errors
    ours, theirs = (np.genfromtxt(tmp_path / name / "metrics.csv", delimiter=",")[1:, 2] for name in ("both", "alone"))
    assert len(ours) == 40
    np.testing.assert_allclose(ours, theirs, rtol=2e-5)


@pytest.mark.slow
def test_a_search_by_one_process_reads_the_supernet_of_two(whole, tmp_path, capsys):
    out, _ = whole
    assert main(search(tmp_path / "run", "--supernet", out, *LONG)) == 0
    assert "supernet: 200 steps" not in capsys.readouterr().out
    assert len(values(tmp_path / "run")) == 6


@pytest.mark.slow
def test_sigterm_to_one_stops_both_and_they_continue(whole, tmp_path):
    processes = start_two(*command(out := tmp_path / "part", *LONG))
    wait_for(out, 14, processes)
    processes[1].send_signal(signal.SIGTERM)
    codes, _, errors = ends(processes)
    assert codes == [143, 143], errors
    step = int(state(out).step)
    assert 14 <= step < 200
    for index, error in enumerate(errors):
        assert f"stopped after step {step}, which is saved. To continue from the last checkpoint: " in error
        assert f"lanas supernet {EXPERIMENT} --out {out} --epochs 20" in error
        assert f"--hosts.index {index}" in error
    assert_goes_on_to_the_same_bits(whole[0], out)


@pytest.mark.slow
def test_a_killed_process_ends_the_other(tmp_path):
    processes = start_two(*command(out := tmp_path / "part", *LONG))
    wait_for(out, 14, processes)
    processes[1].kill()
    assert processes[0].wait(timeout=PATIENCE) == 1
    _, _, errors = ends(processes)
    assert "lanas supernet: a process was lost" in errors[0]


@pytest.mark.slow
def test_processes_of_other_settings_are_refused(tmp_path):
    hosts = two_hosts()
    processes = [start(*command(tmp_path / "out", "--epochs", 4 + i), *hosts, "--hosts.index", i) for i in range(2)]
    codes, _, errors = ends(processes)
    assert codes == [2, 2], errors
    for error in errors:
        assert "process 1 of 2 differs from process 0 in supernet, images or software" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_sigterm_to_the_only_process_saves_before_it_stops(tmp_path):
    process = start(*command(out := tmp_path / "part", "--epochs", 4000))
    wait_for(out, 14, [process])
    process.send_signal(signal.SIGTERM)
    codes, _, errors = ends([process])
    assert codes == [143], errors
    assert f"stopped after step {int(state(out).step):,}, which is saved. To continue" in errors[0]
