"""The training of a winner in a second: a linear network for patches, whose seed is the sum of the winner's code."""

import dataclasses

from lanas_jax.study.experiment import WinnerTraining
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import FinalTraining
from tests.trainer import tiny_experiment as tiny
from tests.trainer.linear_network import LinearNetwork

RECIPE = Recipe(
    2, 12, ema=None, drop_path=0.0, train_on="train", validate_every=1, steps_per_dispatch=5, checkpoint_seconds=0
)
NETWORK = LinearNetwork(auxiliary=False)


def final(config, settings, code):
    """The training of one code, by a recipe."""
    return FinalTraining(NETWORK, lambda: tiny.dataset(tiny.Config()), settings, seed=int(code.sum()))


def winner_training(**changes):
    """For an `Experiment`, with changes of the recipe."""
    return WinnerTraining(final, None, dataclasses.replace(RECIPE, **changes))
