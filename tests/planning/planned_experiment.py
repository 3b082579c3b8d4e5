"""An experiment that can be planned in a second: the linear supernet, and one of its networks."""

import dataclasses

import numpy as np

from lanas_jax.planning.stage import stand_in
from lanas_jax.planning.stages import final_training, valuation
from lanas_jax.supernet.valuation import Valuation
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import FinalTraining
from tests.supernet.linear_supernet import CountedSpace, LinearSupernet

SUPERNET = LinearSupernet(CountedSpace())
DATA = stand_in(60, 30, (6, 6, 1), 3)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings.

    Attributes:
      batch_size: of the training.
    """

    batch_size: int = 12


def build(config):
    raise AssertionError("planning builds no search")


def training(config):
    recipe = Recipe(epochs=4, batch_size=config.batch_size, ema=None, steps_per_dispatch=5)
    return FinalTraining(SUPERNET.standalone(np.array([0, 1])), _no_images, recipe)


def stages(config):
    valuing = Valuation(SUPERNET, DATA, recalibration=24, batch_size=12)
    return (
        final_training("final", training(config), DATA, 1000.0, setting="--batch-size"),
        valuation("search", valuing, budget=10, batch=4, setting="batch_size"),
    )


def _no_images():
    raise AssertionError("planning reads no images")
