"""The check of a supernet against NAS-Bench-201: what it is made of, and all of it at a tiny size on made-up images."""

import csv
import dataclasses

import jax
import numpy as np
import pytest

from lanas_jax.cli import main
from lanas_jax.data import cifar10 as data
from lanas_jax.evaluators.base import Evaluator, Prepared
from lanas_jax.evaluators.few_shot import FewShot
from lanas_jax.evaluators.one_shot import OneShot
from lanas_jax.experiments import nasbench201_one_shot as experiment
from lanas_jax.ranking.against import MULTIPLY_ADDS, PARAMETERS
from lanas_jax.storage.trial import best
from lanas_jax.storage.trials import TrialStore
from lanas_jax.supernet.regions import OptionSplit, TreeSplit
from lanas_jax.tables.catalogue import find_benchmark
from lanas_jax.trainer.task import FinalNetwork, Weights
from tests.data import made_up_cifar10 as made_up
from tests.experiments.chosen import chosen, offered

NAMES = ("lanas", "random", "evolution")
CODE = np.array([3, 2, 4, 1, 0, 3], np.int32)


@pytest.fixture
def unread(monkeypatch):
    """Fails where images are loaded."""

    def load(*_, **__):
        raise AssertionError

    monkeypatch.setattr(data, "load_cifar10", load)


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(("values", "kind"), [("one_shot", OneShot), ("few_shot", FewShot)])
def test_a_search_is_built_without_images(values, kind, tmp_path):
    built = experiment.build(experiment.Config(values=values, supernet=tmp_path / "supernet"))
    assert isinstance(built.evaluator, kind)
    for protocol in (Evaluator, Prepared):
        assert isinstance(built.evaluator, protocol)
    assert built.space == built.searcher.space == built.evaluator.supernet.space
    if values == "few_shot":
        assert built.evaluator.directory == tmp_path / "few_shot"
        assert built.evaluator.split.regions(built.space, CODE[None], np.zeros(1)).of(CODE[None]) == [CODE[3]]


def test_a_ranking_has_sub_supernets_of_both_splits(tmp_path, monkeypatch):
    """Those of the search's own split are in the folder that the search uses."""
    (x_train, y_train), (x_test, y_test) = made_up.TRAIN, made_up.TEST
    monkeypatch.setattr(data, "SOURCE", dataclasses.replace(data.SOURCE, contents=made_up.CONTENTS))
    np.savez(tmp_path / "cifar10.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    config = experiment.Config(split="tree", train=40, validation=20, data_dir=tmp_path)
    estimates = experiment.rank(config, experiment.Rank(few_shot=True), tmp_path).estimates
    assert list(estimates) == ["one-shot", "one-shot, running statistics", "few-shot, edge", "few-shot, tree"]
    edge, tree = estimates["few-shot, edge"], estimates["few-shot, tree"]
    assert (edge.directory, tree.directory) == (tmp_path / "few_shot_edge", tmp_path / "few_shot")
    assert (type(edge.split), type(tree.split)) == (OptionSplit, TreeSplit)


@pytest.mark.usefixtures("unread")
def test_each_function_is_searched_once_by_its_smallest_cell():
    space = find_benchmark(experiment.BENCHMARK).space
    every, cells = space.enumerate(), np.asarray(experiment.build(experiment.Config()).searcher.pool.codes)
    smallest = dict.fromkeys(space.functions(every).tolist(), np.inf)
    for function, parameters in zip(space.functions(every).tolist(), space.cost(every).parameters, strict=True):
        smallest[function] = min(smallest[function], parameters)
    found = dict(zip(space.functions(cells).tolist(), space.cost(cells).parameters, strict=True))
    assert len(cells) == 4930
    assert found == smallest


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("name", NAMES)
def test_every_searcher_can_be_chosen(name):
    assert offered(experiment) == NAMES
    chosen(experiment, experiment.Config(), name)


@pytest.mark.slow
@pytest.mark.usefixtures("unread")
def test_extracted_weights_fit_the_final_network_of_the_same_size():
    """Names, shapes and dtypes alike; nothing is computed. By default it is the benchmark's network."""
    supernet = experiment.build(experiment.Config()).evaluator.supernet
    small = experiment.final(experiment.Config(), experiment.Final(size=16, channels=8, cells=1), CODE)
    alone, taken = (
        jax.eval_shape(lambda key, network=network: Weights(*network.init(key)), jax.random.key(0))
        for network in (small.network, supernet.standalone(CODE))
    )
    assert jax.tree.structure(alone) == jax.tree.structure(taken)
    assert jax.tree.leaves(alone) == jax.tree.leaves(taken)
    whole = experiment.final(experiment.Config(), experiment.Final(), CODE).network
    assert isinstance(whole, FinalNetwork)
    assert whole.space == find_benchmark(experiment.BENCHMARK).space


@pytest.mark.slow
def test_searched_ranked_and_picked(tmp_path, monkeypatch):
    """Two steps of training: the numbers mean nothing, but each comes from where it should."""
    monkeypatch.setattr(data, "SOURCE", dataclasses.replace(data.SOURCE, contents=made_up.CONTENTS))
    monkeypatch.setattr(OneShot, "_refuse_chance", lambda *_: None)
    (x_train, y_train), (x_test, y_test) = made_up.TRAIN, made_up.TEST
    np.savez(tmp_path / "cifar10.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    run, images = tmp_path / "run", ("--train", "40", "--validation", "20", "--data-dir", str(tmp_path))
    sizes = ("--size", "4", "--channels", "2", "--epochs", "1", "--batch-size", "20", "--recalibration", "20")
    settings = (*images, *sizes, "--searcher", "random", "--budget", "4")
    assert main(["search", "nasbench201_one_shot", "--out", str(run), *settings]) == 0
    assert main(["rank", str(run), "--against", experiment.BENCHMARK, "--networks", "8"]) == 0
    lines = (run / "against" / experiment.BENCHMARK / "ranking.csv").read_text().splitlines()
    rows = list(csv.DictReader(lines))
    assert list(rows[0])[1:5] == ["one-shot", "one-shot, running statistics", PARAMETERS, MULTIPLY_ADDS]
    assert len(rows) == 8
    with TrialStore.open(run / "trials.sqlite", read_only=True) as store:
        winner = best(store.trials())
    table = find_benchmark(experiment.BENCHMARK)
    row = int(np.flatnonzero((table.codes == np.array(winner.code)).all(axis=1))[0])
    found = {each["pick"]: each for each in experiment.picked_cells((run, run))}
    assert found[str(run)]["test"] == f"{100 * table.test[row].mean():.2f} %"
    assert found["mean of 2 runs"]["test"] == found[str(run)]["test"]
    assert found["mean of all cells"]["test"] == f"{100 * table.test.mean():.2f} %"
    assert found[str(run)]["code"] == ",".join(map(str, winner.code))
    assert found["most parameters"]["code"] == "3,3,3,3,3,3"
    assert found["best by validation"]["test"] == "94.37 %"
