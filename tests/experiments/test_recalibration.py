"""What the number of images changes: the values are those of the evaluator with that number."""

from pathlib import Path

import jax
import numpy as np
import pytest

from lanas_jax import study
from lanas_jax.experiments import recalibration
from lanas_jax.experiments.recalibration import Config
from lanas_jax.study import run_folder
from lanas_jax.supernet import code_pool
from tests.supernet import linear_experiment

SOURCE = Path(linear_experiment.__file__)


def run_of(directory, values):
    config = linear_experiment.Config(values=values)
    experiment = linear_experiment.build(config)
    here = run_folder.create(directory, experiment, SOURCE, config)
    study.run(experiment, here.directory)
    return experiment


@pytest.mark.slow
def test_rows_say_what_the_evaluator_says(tmp_path):
    evaluator = run_of(tmp_path / "run", "one_shot").evaluator
    found = recalibration.rows(Config(tmp_path / "run", images=(48, 0, 16), networks=6))
    assert [row["images"] for row in found] == ["0 (running)", "16", "48"]
    codes = code_pool.draw_codes(evaluator.supernet.space, 6, 1)
    outcomes = evaluator.evaluate(codes, jax.random.split(jax.random.key(0), 6))  # with 48 images
    assert found[2]["mean value"] == f"{100 * np.mean([outcome.value for outcome in outcomes]):.1f} %"
    assert found[2]["Spearman with the last"].startswith("1.000")
    assert found[0]["mean value"] != found[2]["mean value"]


def test_values_that_no_supernet_gave_are_refused(tmp_path):
    run_of(tmp_path / "run", "random")
    with pytest.raises(ValueError, match="come from Anything; expected OneShot"):
        recalibration.rows(Config(tmp_path / "run"))
