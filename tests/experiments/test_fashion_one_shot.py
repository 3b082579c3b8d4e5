import dataclasses
import json

import jax
import numpy as np
import pytest

from lanas_jax.candidates.step import Network
from lanas_jax.cli import main
from lanas_jax.commands import train
from lanas_jax.data import digits, fashion_mnist
from lanas_jax.evaluators import one_shot
from lanas_jax.evaluators.base import Evaluator, Prepared
from lanas_jax.evaluators.few_shot import FewShot
from lanas_jax.evaluators.one_shot import OneShot
from lanas_jax.experiments import cifar10_one_shot, fashion_one_shot
from lanas_jax.export import load as exported
from lanas_jax.supernet import code_pool
from lanas_jax.supernet.base import Extracting
from lanas_jax.trainer.task import Weights
from tests.experiments.chosen import chosen, offered

NAMES = ("lanas", "random", "evolution", "tpe")
DIGITS = fashion_one_shot.Config(images="digits", channels=2, cells=3)
CELL = [0, 1, *8 * [2], 0, 1, 0, 2, 0, 3, 0, 4, 0, 5]  # operations, then inputs, of five blocks
FEW_CONVOLUTIONS = ",".join(map(str, 2 * CELL))  # compiled in a fraction of a random network's time


@pytest.fixture
def unread(monkeypatch):
    """Fails where images are loaded."""

    def load(*_, **__):
        raise AssertionError

    monkeypatch.setattr(digits, "load_digits", load)
    monkeypatch.setattr(fashion_mnist, "load_fashion_mnist", load)


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(("values", "kind"), [("one_shot", OneShot), ("few_shot", FewShot)])
def test_a_search_is_built_without_images(values, kind):
    experiment = fashion_one_shot.build(dataclasses.replace(DIGITS, values=values))
    assert isinstance(experiment.evaluator, kind)
    for protocol in (Evaluator, Prepared):
        assert isinstance(experiment.evaluator, protocol)
    assert experiment.space == experiment.searcher.space == experiment.evaluator.supernet.space
    assert (experiment.space.image_size, experiment.space.image_channels, experiment.space.classes) == (8, 1, 10)
    assert experiment.space.masks == pytest.approx(1.35e20, rel=0.01)  # section 5.2
    assert fashion_one_shot.space(fashion_one_shot.Config(images="fashion"), 8, 3).image_size == 7


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("module", [fashion_one_shot, cifar10_one_shot], ids=["fashion", "cifar10"])
def test_every_searcher_can_be_chosen(module, name):
    if name == "tpe":
        pytest.importorskip("optuna", reason="optuna is not installed")
    assert offered(module) == NAMES
    chosen(module, module.Config(), name)


@pytest.mark.slow
@pytest.mark.usefixtures("unread")
def test_extracted_weights_fit_the_final_network_of_the_same_size():
    """Names, shapes and dtypes alike, so that a training can begin with them; nothing is computed."""
    experiment = fashion_one_shot.build(DIGITS)
    supernet, code = experiment.evaluator.supernet, code_pool.draw_codes(experiment.space, 1, seed=0)[0]
    final = fashion_one_shot.final(DIGITS, fashion_one_shot.Final(channels=2), code)
    alone, taken = (
        jax.eval_shape(lambda key, network=network: Weights(*network.init(key)), jax.random.key(0))
        for network in (final.network, supernet.standalone(code))
    )
    assert jax.tree.structure(alone) == jax.tree.structure(taken)
    assert jax.tree.leaves(alone) == jax.tree.leaves(taken)


@pytest.mark.usefixtures("unread")
def test_sub_supernets_are_in_a_sibling_folder_of_a_shared_supernet(tmp_path):
    config = dataclasses.replace(DIGITS, values="few_shot", supernet=tmp_path / "supernet")
    evaluator = fashion_one_shot.build(config).evaluator
    assert (evaluator.one_shot.directory, evaluator.directory) == (tmp_path / "supernet", tmp_path / "few_shot")


def test_a_ranking_is_of_the_space_that_was_searched(tmp_path):
    """Estimates share the supernets, by recalibrated and by running statistics."""
    found = fashion_one_shot.rank(DIGITS, fashion_one_shot.Rank(), tmp_path)
    assert list(found.estimates) == [
        "one-shot", "few-shot", "one-shot, running statistics", "few-shot, running statistics",
    ]  # fmt: skip
    space = fashion_one_shot.build(DIGITS).space
    for estimate in found.estimates.values():
        assert isinstance(estimate, Extracting)
        assert estimate.supernet.space == space
        shared = estimate if isinstance(estimate, OneShot) else estimate.one_shot
        assert shared.directory == tmp_path / "supernet"
        assert shared.recalibration == (0 if "running" in _name(found, estimate) else 512)
    assert isinstance(found.truth.network, Network)
    assert found.truth.network.space == space


def _name(found, estimate):
    return next(name for name, other in found.estimates.items() if other is estimate)


def test_it_is_found_and_offers_a_final_training():
    assert train.find_target("fashion_one_shot").module.final


@pytest.mark.slow
def test_searched_extracted_and_trained(tmp_path, monkeypatch):
    """The smallest sizes: a part of the supernet is valued by what its extracted network does, be it little."""
    monkeypatch.setattr(one_shot, "DEVIATIONS", -np.inf)  # it may have learned nothing
    run, out = tmp_path / "run", tmp_path / "final"
    sizes = ("--images", "digits", "--channels", "4", "--cells", "3", "--epochs", "6", "--batch-size", "32")
    settings = (*sizes, "--searcher", "random", "--budget", "4", "--batch", "4", "--recalibration", "256")
    assert main(["search", "fashion_one_shot", "--out", str(run), *settings]) == 0
    assert main(["extract", str(run), "--code", FEW_CONVOLUTIONS]) == 0
    about = json.loads((run / "extracted" / "architecture.json").read_text())
    data = digits.load_digits()
    logits = exported.load(run / "extracted")(data.search.validation.images)
    chosen_classes = np.asarray(logits).argmax(axis=1)
    assert len(set(chosen_classes.tolist())) > 1
    accuracy = np.mean(chosen_classes == data.search.validation.labels)
    assert about["validation_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    settings = ("--channels", "4", "--recipe.epochs", "1", "--recipe.batch-size", "64")
    weights = ("--weights", str(run / "extracted"), "--out", str(out))
    assert main(["train", str(run), "--code", FEW_CONVOLUTIONS, *weights, *settings]) == 0
    final = json.loads((out / "final.json").read_text())
    assert final["trained_parameters"] == about["trained_parameters"]
