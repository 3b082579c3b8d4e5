"""Searches on a Ray cluster of several nodes, and what goes wrong on one."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest

from lanas_jax.storage.checkpoints import Checkpoints
from lanas_jax.storage.trial import Status
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study import run_folder
from lanas_jax.study.objectives import winner_among
from lanas_jax.study.replay import SearchLog, keys_of
from tests import energy_experiment
from tests.cluster.waiting_experiment import value

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:os.fork")]  # Ray starts nodes, beside JAX's threads
EXPERIMENT = Path(__file__).with_name("waiting_experiment.py")


@pytest.fixture(scope="module")
def two(nodes):
    """A cluster of two nodes with a core each."""
    both = [nodes.join(), nodes.join()]
    yield nodes
    for node in both:
        nodes.kill(node)


def search(nodes, tmp_path, folder=None, **settings):
    (tmp_path / "log").mkdir()
    settings = {"cluster": nodes.address, "out": tmp_path / "run", "log": tmp_path / "log"} | settings
    options = [part for name, one in settings.items() for part in (f"--{name.replace('_', '-')}", str(one))]
    options = [part for part in options if part != "True"]
    return nodes.lanas("search", EXPERIMENT, *options, folder=folder or nodes.root)


def output(process, code=0):
    text, _ = process.communicate(timeout=400)
    assert process.returncode == code, text
    return text


def trials_of(tmp_path):
    with TrialStore.open(tmp_path / "run" / "trials.sqlite", read_only=True) as store:
        return store.trials()


def evaluations(tmp_path):
    """The evaluations begun: code and process of each."""
    names = (path.name.split() for path in (tmp_path / "log").iterdir())
    return [(tuple(map(int, code.split("-"))), int(process)) for code, process, _ in names]


def wait_for(condition, process, seconds=400):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def right_value(trial):
    return value(trial.code, [int(trial.key[i : i + 8], 16) for i in range(0, len(trial.key), 8)])


def test_every_trial_is_evaluated_once_with_its_key_and_the_winner_comes_back(two, tmp_path):
    text = output(search(two, tmp_path, budget=16))
    trials = trials_of(tmp_path)
    assert [trial.id for trial in trials] == list(range(16))
    assert [trial.value for trial in trials] == [right_value(trial) for trial in trials]
    assert Counter(code for code, _ in evaluations(tmp_path)) == Counter(trial.code for trial in trials)
    assert len({trial.worker for trial in trials}) == 2
    assert {trial.tries for trial in trials} == {1}
    assert {trial.worker.rpartition("/")[2] for trial in trials} == {
        str(process) for _, process in evaluations(tmp_path)
    }
    best = max(trials, key=lambda trial: (trial.value, -trial.id))
    final = json.loads((tmp_path / "run" / "final" / "final.json").read_text())
    assert tuple(final["code"]) == best.code
    assert f"test accuracy {final['test_accuracy']:.4f}" in text
    assert (tmp_path / "run" / "report.html").exists()


def test_outcomes_of_workers_are_objectives(two, tmp_path):
    where = ("--cluster", two.address, "--out", tmp_path / "run")
    text = output(two.lanas("search", energy_experiment.__file__, *where))
    trials = trials_of(tmp_path)
    assert len(trials) == 16
    assert len({trial.worker for trial in trials}) == 2
    assert 0 < [trial.status for trial in trials].count(Status.FAILED) < 16
    for trial in trials:
        expected = energy_experiment.outcome(trial.code)
        energy = expected.outcomes.get("energy")
        assert dict(trial.outcomes) == {"energy": energy}
        assert trial.value == (None if energy is None else expected.value)
        assert trial.reason == ("the evaluator reports no energy" if energy is None else None)
    winner = winner_among(trials, energy_experiment.NAMES)
    assert "knee of the front of 16 trials" in text
    assert f"trial {winner.id}" in text


def test_the_recorded_order_leads_to_the_same_tree_and_the_same_proposals(two, tmp_path):
    output(search(two, tmp_path, budget=24))
    run = run_folder.open_run(tmp_path / "run")
    experiment = dataclasses.replace(run.experiment(), budget=30)  # so that there is something to ask for
    states, asked = [], []
    for again in ("from the checkpoint", "from nothing"):
        copy = shutil.copytree(run.directory, tmp_path / again)
        if again == "from nothing":
            shutil.rmtree(copy / "checkpoint" / "searcher")
        with TrialStore.open(copy / "trials.sqlite") as store, Checkpoints(copy / "checkpoint" / "searcher") as kept:
            search_log = SearchLog(experiment, store, kept)
            states.append(search_log._state)
            asked.append([trial.code for trial in search_log.ask(6)])
    assert asked[0] == asked[1]
    assert len(set(asked[0])) == 6
    for one, other in zip(*map(jax.tree.leaves, states), strict=True):
        if jax.dtypes.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(one, other)


def test_a_trial_that_kills_its_worker_is_tried_again_and_then_failed(two, tmp_path):
    text = output(search(two, tmp_path, budget=12, deadly=2, **{"ray.tries": 2}))
    trials, begun = trials_of(tmp_path), Counter(code for code, _ in evaluations(tmp_path))
    deadly = [trial for trial in trials if trial.code[0] == 2]
    assert deadly, "this seed draws none"
    for trial in deadly:
        assert (trial.status, trial.tries, begun[trial.code]) == (Status.FAILED, 2, 2)
        assert trial.reason.startswith("its worker was lost in each of 2 tries")
    others = [trial for trial in trials if trial.code[0] != 2]
    assert [trial.value for trial in others] == [right_value(trial) for trial in others]
    assert text.count("is gone") == 2 * len(deadly)


def test_a_trial_past_its_time_limit_is_cancelled_and_recorded(two, tmp_path):
    output(search(two, tmp_path, budget=12, slow=1, **{"ray.seconds": 4}))
    trials = trials_of(tmp_path)
    slow = [trial for trial in trials if trial.code[0] == 1]
    assert slow, "this seed draws none"
    for trial in slow:
        assert trial.reason.startswith("past its time limit of 4 s on ")
        assert trial.finished - trial.started < 50
    assert all(trial.value == right_value(trial) for trial in trials if trial not in slow)


def test_an_evaluator_that_only_raises_ends_the_search(two, tmp_path):
    text = output(search(two, tmp_path, raising=True), code=1)
    assert "raised an error for each of the last 8 trials: ArithmeticError: no such luck" in text
    assert [trial.status for trial in trials_of(tmp_path)].count(Status.FAILED) == 7


def test_workers_that_answer_with_something_else_are_refused(two, tmp_path):
    text = output(search(two, tmp_path, wrong=True), code=1)
    assert "no worker can be used: unexpected answer to evaluate: Answer(" in text
    assert {trial.status for trial in trials_of(tmp_path)} == {Status.PENDING}


def test_nodes_on_which_the_experiment_does_not_build_are_refused(two, tmp_path):
    text = output(search(two, tmp_path, needs=tmp_path / "data"), code=1)
    assert f"build(config) raised FileNotFoundError: there is no {tmp_path / 'data'}" in text


def test_workers_of_another_version_are_refused(two, tmp_path):
    """On a node whose PYTHONPATH leads to a copy of the package in which one file was changed."""
    shutil.copytree(two.root / "lanas_jax", tmp_path / "old" / "lanas_jax")
    with (tmp_path / "old" / "lanas_jax" / "searchers" / "surrogate.py").open("a") as file:
        file.write("\n# changed\n")
    old = two.join(PYTHONPATH=str(tmp_path / "old"))
    (tmp_path / "elsewhere").mkdir()
    text = output(search(two, tmp_path, folder=tmp_path / "elsewhere"))
    two.kill(old)
    assert text.count("its code differs from the driver's: same packages, different source files or settings") >= 1
    assert len({trial.worker for trial in trials_of(tmp_path)}) == 2
    assert {trial.status for trial in trials_of(tmp_path)} == {Status.DONE}


def test_a_full_disk_stops_the_search_and_the_store_opens(two, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted: {mounted.stderr.strip()}")
    try:
        text = output(search(two, tmp_path, out=disk / "run", budget=2000, pause=0.0), code=1)
        assert "the searcher's state cannot be saved: the disk is full: " in text
        assert "Traceback" not in text
        with TrialStore.open(disk / "run" / "trials.sqlite") as store:
            finished = [trial for trial in store.trials() if trial.finished is not None]
        assert 0 < len(finished) < 2000
        assert [trial.value for trial in finished] == [right_value(trial) for trial in finished]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_few_shot_supernets_are_trained_in_parts(two, tmp_path):
    """Every value is that of the same evaluator in one process, prepared by itself."""
    experiment = Path(__file__).parents[1] / "supernet" / "linear_experiment.py"
    where = ("--cluster", two.address, "--out", tmp_path / "run")
    text = output(two.lanas("search", experiment, "--values", "few_shot", *where))
    evaluator = run_folder.open_run(tmp_path / "run").experiment().evaluator
    evaluator.prepare(tmp_path / "alone", lambda line: None)
    assert f"the workers do {len(evaluator.regions.names)} parts of the preparation" in text
    trials = trials_of(tmp_path)
    alone = evaluator.evaluate(np.array([trial.code for trial in trials], np.int32), keys_of(trials))
    assert [trial.value for trial in trials] == [outcome.value for outcome in alone]


def test_nodes_leave_and_join_and_the_driver_is_killed(nodes, tmp_path):
    """Digits on three nodes: one is killed in mid-trial, one is added, the driver is killed, and goes on."""
    three = [nodes.join() for _ in range(3)]
    run = tmp_path / "run"
    winner = ("--winner.recipe.epochs", 2, "--winner.channels", 2, "--winner.cells", 1)
    settings = ("--budget", 18, "--epochs", 2, "--blocks", 1, "--channels", 2, "--cells", 1, *winner)
    driver = nodes.lanas(
        "search", "digits", "--cluster", nodes.address, "--out", run, "--searcher", "random", *settings
    )

    def finished():
        return run.joinpath("trials.sqlite").exists() and sum(t.finished is not None for t in trials_of(tmp_path))

    wait_for(lambda: finished() and finished() >= 3, driver)
    nodes.kill(three.pop())
    three.append(nodes.join())
    wait_for(lambda: finished() >= 9, driver)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    before = {trial.id: trial for trial in trials_of(tmp_path) if trial.finished is not None}
    output(nodes.lanas("resume", run, "--cluster", nodes.address))

    trials = trials_of(tmp_path)
    assert [trial.id for trial in trials] == list(range(18))
    assert len({trial.code for trial in trials}) == 18
    assert {trial.status for trial in trials} == {Status.DONE}
    assert all(trials[number] == trial for number, trial in before.items())
    best = max(trials, key=lambda trial: (trial.value, -trial.id))
    experiment = run_folder.open_run(run).experiment()
    alone = experiment.evaluator.evaluate(np.array([best.code], np.int32), keys_of([best]))
    assert alone[0].value == best.value
    for node in three:
        nodes.kill(node)
