import dataclasses

import numpy as np
import pytest

from experiments import digits
from lanas_jax import study

TINY = digits.Config(budget=4, batch=4, searcher="random", blocks=1, channels=2, cells=1, epochs=1, finale_epochs=2)


def test_a_tiny_search_runs_to_its_end(tmp_path):
    experiment = digits.build(TINY)
    assert experiment.evaluator.per_device == 1  # 4 candidates on the 4 devices of the test run
    result = study.run(experiment, tmp_path / "run")
    assert [(trial.status, trial.reason) for trial in result.trials] == [(study.Status.DONE, None)] * 4
    cost = experiment.space.cost(np.array([trial.code for trial in result.trials]))
    assert [trial.multiply_adds for trial in result.trials] == cost.multiply_adds.tolist()
    assert result.final.code == result.best.code
    assert result.final.epochs == 2
    for accuracy in (result.final.validation_accuracy, result.final.test_accuracy):
        assert 0 <= accuracy <= 1
        assert accuracy * 360 == pytest.approx(round(accuracy * 360), abs=1e-3)
    assert any((tmp_path / "run" / "checkpoint" / "winner").iterdir())


@pytest.mark.parametrize("name", digits.SEARCHERS)
def test_every_searcher_can_be_chosen(name):
    experiment = digits.build(dataclasses.replace(TINY, searcher=name))
    assert isinstance(experiment.searcher, digits.SEARCHERS[name])
    assert experiment.searcher.space == experiment.space
