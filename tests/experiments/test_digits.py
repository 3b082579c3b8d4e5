import dataclasses

import jax
import numpy as np
import pytest

from lanas_jax import study
from lanas_jax.commands import train
from lanas_jax.experiments import digits
from lanas_jax.storage.trial import Status
from tests.experiments.chosen import chosen, offered

FINAL = digits.Final(dataclasses.replace(digits.RECIPE, epochs=2), channels=2, cells=1)
TINY = digits.Config(budget=4, batch=4, searcher="random", blocks=1, channels=2, cells=1, epochs=1, winner=FINAL)


@pytest.mark.slow
def test_a_tiny_search_runs_to_its_end(tmp_path):
    experiment = dataclasses.replace(digits.build(TINY), winner=None, batch=2)
    assert experiment.evaluator.per_device == 3  # 3 trainings of 4 candidates on the 4 devices of the test run
    result = study.run(experiment, tmp_path / "run")
    assert [(trial.status, trial.reason) for trial in result.trials] == [(Status.DONE, None)] * 4
    cost = experiment.space.cost(np.array([trial.code for trial in result.trials]))
    assert [trial.multiply_adds for trial in result.trials] == cost.multiply_adds.tolist()
    assert all(-4 < trial.value < -1 for trial in result.trials)  # negative losses; of equal probabilities -2.3
    assert all(0 < trial.outcomes["validation_accuracy"] < 1 for trial in result.trials)
    # A search that was extended by a batch has the same trials and values.
    study.run(dataclasses.replace(experiment, budget=2), tmp_path / "resumed")
    resumed = study.run(experiment, tmp_path / "resumed", extend=True)
    assert [(trial.code, trial.value) for trial in resumed.trials] == [(t.code, t.value) for t in result.trials]


@pytest.mark.parametrize(
    ("asked", "measure", "objectives"),
    [
        ("loss", "loss", ()),
        ("accuracy", "accuracy", ()),
        ("loss,multiply-adds", "loss", ("value", "multiply_adds")),
        ("accuracy,parameters", "accuracy", ("accuracy", "parameters")),
        ("loss,accuracy", "loss", ("value", "validation_accuracy")),
    ],
)
def test_the_value_is_measured_as_the_objectives_say(asked, measure, objectives):
    experiment = digits.build(dataclasses.replace(TINY, objectives=asked))
    assert experiment.evaluator.measure == measure
    assert experiment.objectives == objectives


@pytest.mark.slow
def test_a_search_ends_with_the_training_of_its_winner(tmp_path):
    result = study.run(digits.build(TINY), tmp_path / "run")
    assert tuple(result.final["code"]) == result.best.code
    assert result.final["steps"] == 45  # 2 x 1,437 images, those of search validation included, in batches of 64
    assert result.final["trained_parameters"] == result.final["parameters"]
    assert result.final["validation_accuracy"] is None
    accuracy = result.final["test_accuracy"]
    assert 0 <= accuracy <= 1
    assert accuracy * 360 == pytest.approx(round(accuracy * 360), abs=1e-3)


NAMES = ("lanas", "random", "evolution")


@pytest.mark.parametrize("name", [pytest.param("lanas", marks=pytest.mark.slow), "random", "evolution"])
def test_every_searcher_can_be_chosen(name):
    assert offered(digits) == NAMES
    experiment = chosen(digits, TINY, name)
    state = experiment.searcher.init(jax.random.key(0))
    codes = np.asarray(experiment.searcher.ask(state, 3)[1])
    assert len(np.unique(codes, axis=0)) == 3
    assert np.asarray(experiment.space.valid(codes)).all()


CODE = np.array([0, 1, 0, 1, 0, 3, 0, 1], np.int32)


def test_the_winners_training_is_found_and_has_a_network_of_its_own_size():
    assert train.find_target("digits").module.final
    final = digits.final(digits.Config(blocks=1), digits.Final(channels=12, cells=6), CODE)
    assert (final.network.space.channels, final.network.space.cells) == (12, 6)
    assert not final.network.auxiliary  # cells of the second third see 4 x 4 pixels
    assert final.recipe.auxiliary_weight == 0
    assert not final.augmentation.flip  # mirrored digits are none
