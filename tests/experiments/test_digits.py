import jax
import numpy as np
import pytest
from rich.console import Console

from lanas_jax import study
from lanas_jax.commands import train
from lanas_jax.experiments import digits
from lanas_jax.storage.trials import Status
from lanas_jax.trainer.display import TrainingDisplay
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.train import Origin, train_network
from tests.experiments.chosen import chosen, offered

TINY = digits.Config(budget=4, batch=4, searcher="random", blocks=1, channels=2, cells=1, epochs=1, finale_epochs=2)


def test_a_tiny_search_runs_to_its_end(tmp_path):
    experiment = digits.build(TINY)
    assert experiment.evaluator.per_device == 1  # 4 candidates on the 4 devices of the test run
    result = study.run(experiment, tmp_path / "run")
    assert [(trial.status, trial.reason) for trial in result.trials] == [(Status.DONE, None)] * 4
    cost = experiment.space.cost(np.array([trial.code for trial in result.trials]))
    assert [trial.multiply_adds for trial in result.trials] == cost.multiply_adds.tolist()
    assert result.final.code == result.best.code
    assert result.final.epochs == 2
    for accuracy in (result.final.validation_accuracy, result.final.test_accuracy):
        assert 0 <= accuracy <= 1
        assert accuracy * 360 == pytest.approx(round(accuracy * 360), abs=1e-3)
    assert any((tmp_path / "run" / "checkpoint" / "winner").iterdir())


NAMES = ("lanas", "random", "evolution")


@pytest.mark.parametrize("name", NAMES)
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


@pytest.mark.slow
def test_the_winner_is_trained(tmp_path):
    settings = digits.Final(Recipe(epochs=1, batch_size=64, ema=0.5), channels=4)
    final = digits.final(TINY, settings, CODE)
    origin = Origin("digits", config=TINY, settings=settings)
    described = train_network(
        final, CODE, tmp_path / "final", origin, TrainingDisplay(Console(quiet=True)), jax.devices()[:1]
    )
    assert described["steps"] == 23  # 1,077 images and 360 for validation
    assert described["trained_parameters"] == described["parameters"]
