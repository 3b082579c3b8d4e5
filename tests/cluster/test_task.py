"""What goes to workers, and what a worker makes of it, in this process."""

import copy
import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lanas_jax.cluster import task as tasks
from lanas_jax.cluster.cluster import Cluster
from lanas_jax.cluster.task import ClusterTask
from lanas_jax.cluster.worker import Order, Worker
from lanas_jax.cluster.workforce import _answers
from lanas_jax.storage.folder import RunError
from lanas_jax.storage.results import network_results
from lanas_jax.study import discovery, run_folder
from lanas_jax.study.replay import hexadecimal, keys_of_words, trial_keys
from lanas_jax.trainer.loop import SilentTraining
from tests.cluster import waiting_experiment
from tests.several_hosts import PATIENCE, ROOT, two_hosts


@pytest.fixture
def run(tmp_path):
    source = discovery.find_experiment("tests/cluster/waiting_experiment.py")
    module = discovery.load_experiment(source)
    (tmp_path / "log").mkdir()
    config = module.Config(pause=0.0, log=tmp_path / "log", seed=3)
    return run_folder.create(tmp_path / "run", module.build(config), source, config)


@pytest.fixture
def task(run):
    return ClusterTask.of(run)


@pytest.fixture
def worker(task):
    worker = Worker(task, cores=1.0)
    hello = worker.introduce()
    assert (hello.fingerprint, hello.devices) == (task.fingerprint, 4)  # of this test run
    assert hello.name.endswith(f"/{os.getpid()}")
    return worker


def test_a_worker_confines_itself_to_its_chips_before_jax_opens_them(task, monkeypatch):
    """As Ray starts a worker with two chips of a host of a slice."""
    slice_of_hosts = {
        "TPU_VISIBLE_CHIPS": "2,3",
        "TPU_WORKER_ID": "1",
        "TPU_WORKER_HOSTNAMES": "a,b",
        "TPU_PROCESS_BOUNDS": "1,2,1",
    }
    others = ("HOST_BOUNDS", "CHIPS_PER_PROCESS_BOUNDS", "CHIPS_PER_HOST_BOUNDS", "VISIBLE_DEVICES")
    addresses = ("TPU_PROCESS_ADDRESSES", "TPU_PROCESS_PORT", "CLOUD_TPU_TASK_ID")
    for name in (*(f"TPU_{other}" for other in others), *addresses):
        monkeypatch.setenv(name, "of the slice")  # restored at the end
    for name, value in slice_of_hosts.items():
        monkeypatch.setenv(name, value)
    opened = []

    def local_device_count():
        names = ("TPU_PROCESS_BOUNDS", "TPU_CHIPS_PER_PROCESS_BOUNDS", "TPU_VISIBLE_CHIPS", "TPU_WORKER_HOSTNAMES")
        opened.append([os.environ[name] for name in (*names, "TPU_PROCESS_ADDRESSES")])
        return 2

    monkeypatch.setattr("jax.local_device_count", local_device_count)
    assert Worker(task, cores=1.0).introduce().devices == 2
    assert opened == [["1,1,1", "1,2,1", "2,3", "localhost", "localhost:8478"]]


OF_TWO = """
import os, sys, time
import jax
from lanas_jax.cluster.task import ClusterTask
from lanas_jax.cluster.worker import Worker

jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
if sys.argv[2] == "0":
    try:
        Worker(ClusterTask("", "", None, None, "", ""), cores=1.0).introduce()
    except ValueError as error:
        print(error, flush=True)
    os._exit(1)  # at an orderly end, JAX waits for the other
jax.devices()
time.sleep(600)
"""


@pytest.mark.slow
def test_a_worker_that_has_joined_other_processes_is_refused_and_waits_for_nobody():
    """As on a host of a slice whose variables did not confine it; its evaluator would wait in a collective."""
    address, environment = two_hosts()[1], os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", OF_TWO, address]
    other = subprocess.Popen([*command, "1"], env=environment)
    try:
        worker = subprocess.run([*command, "0"], env=environment, capture_output=True, text=True, timeout=PATIENCE)
    finally:
        other.kill()
        other.wait()
    assert worker.stdout.startswith("JAX has joined 2 processes, so this worker would wait for the others"), worker


def order(n=3):
    codes = tuple((i, i, 0, 3) for i in range(n))
    return Order(tuple(range(n)), codes, tuple(hexadecimal(trial_keys(3, range(n)))))


def with_value(outcome, value):
    """A copy whose value is of the wrong kind, as another process may send it."""
    wrong = copy.copy(outcome)
    object.__setattr__(wrong, "value", value)
    return wrong


def test_the_experiment_is_built_again_with_its_settings(task):
    experiment = task.experiment()
    assert (experiment.name, experiment.seed, experiment.budget) == ("waiting", 3, 12)


def test_fingerprints_differ_where_anything_does(task, monkeypatch):
    same = tasks.experiment_fingerprint(task.source, task.config)
    assert same == task.fingerprint
    assert tasks.experiment_fingerprint(task.source + "\n", task.config) != same
    assert tasks.experiment_fingerprint(task.source, task.config | {"seed": 4}) != same
    monkeypatch.setattr(tasks.software, "versions", lambda: {"jax": "0"})
    assert tasks.experiment_fingerprint(task.source, task.config) != same


def test_the_code_is_part_of_the_fingerprint(task, monkeypatch, tmp_path):
    (tmp_path / "lanas_jax").mkdir()
    monkeypatch.setattr(tasks.lanas_jax, "__file__", str(tmp_path / "lanas_jax" / "__init__.py"))
    digests = []
    for content in ("a = 1", "a = 2"):
        (tmp_path / "lanas_jax" / "__init__.py").write_text(content)
        tasks.code_digest.cache_clear()
        digests.append(tasks.code_digest())
    tasks.code_digest.cache_clear()
    assert len(set(digests)) == 2


def test_a_run_without_a_file_has_no_task(tmp_path):
    experiment = waiting_experiment.build(waiting_experiment.Config())
    with pytest.raises(
        RunError, match="was started from Python, so it has no experiment file for workers to build from"
    ):
        ClusterTask.of(run_folder.create(tmp_path / "run", experiment))


def test_a_worker_gives_what_the_evaluator_gives(worker, task):
    asked = order()
    answer = worker.evaluate(asked)
    here = task.experiment().evaluator.evaluate(np.array(asked.codes, np.int32), keys_of_words(asked.keys))
    assert [one.value for one in answer.outcomes] == [one.value for one in here]
    assert _answers(answer, asked, task.fingerprint)


def test_errors_become_words(task):
    config = task.config | {"raising": True}
    worker = Worker(dataclasses.replace(task, config=config), cores=1.0)
    (raised,) = worker.evaluate(order(1)).outcomes
    assert raised.text.startswith("ArithmeticError: no such luck (experiment.py, line ")


@pytest.mark.parametrize(
    "garbage",
    [
        lambda answer: "done",
        lambda answer: tuple(answer),
        lambda answer: answer._replace(fingerprint="0"),
        lambda answer: answer._replace(ids=(0, 1)),
        lambda answer: answer._replace(outcomes=answer.outcomes[:2]),
        lambda answer: answer._replace(outcomes=(None,) * 3),
        lambda answer: answer._replace(outcomes=(with_value(answer.outcomes[0], "0.9"),) * 3),
    ],
)
def test_garbage_is_no_answer(worker, task, garbage):
    asked = order()
    assert not _answers(garbage(worker.evaluate(asked)), asked, task.fingerprint)


def test_the_winner_is_trained_in_the_runs_folder_or_its_files_come_back(run, task, worker, tmp_path):
    code = np.array([1, 1, 1, 1], np.int32)
    found, files = worker.train_winner(tuple(code.tolist()))
    assert files == {}
    assert run.result == found
    elsewhere = Worker(dataclasses.replace(task, directory=str(tmp_path / "not here")), cores=1.0)
    cluster = Cluster.__new__(Cluster)  # without Ray
    cluster._workforce = SimpleNamespace(all_done=lambda method, codes: [elsewhere.train_winner(*codes)])
    alone = run_folder.create(tmp_path / "alone", task.experiment(), run.source, None)
    cluster.train_winner(code, alone, SilentTraining())
    assert alone.result["test_accuracy"] == found["test_accuracy"]
    assert (alone.final / "metrics.csv").read_bytes() == (run.final / "metrics.csv").read_bytes()
    assert network_results(alone.directory)[0].digest == network_results(run.directory)[0].digest
    assert Path(network_results(alone.directory)[0].directory) == alone.final
