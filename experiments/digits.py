"""Handwritten digits in the NASNet space: every candidate is trained from scratch.

Source: section 5.1 of arXiv 1906.06832 at laptop scale: a search for NASNet cells (normal and reduction) that trains
each candidate from scratch on scikit-learn's 1,797 digits: 1,077 for training, 360 for search validation, 360 for
testing.

    lanas search digits --out runs/digits
    lanas export runs/digits
    lanas search digits --objectives accuracy,multiply-adds --out runs/front    # a front: docs/objectives.md

A candidate's value is the negative loss on the search-validation images, the mean of three trainings of two epochs. The
accuracy is recorded as well. With the accuracy of one training as value (`--objectives accuracy --repeats 1`), the
best of ten searches was 0.39 points above that of random search, with an interval of -0.17 to 1.03: noise hid the gain.

Measured with jax 0.10.2 on a CPU (30 November 2026): ten seeds of LaNAS and of random search, with 64
candidates each::

    python -m lanas_jax.experiments.compare_searches digits --seeds 10 --searchers lanas random --out runs/compared

- Best value after 64 candidates, mean (range) over the seeds: LaNAS -0.166 (-0.208 to -0.139), random search -0.209
  (-0.234 to -0.187). The paired difference is 0.043 (95 % bootstrap interval: 0.027 to 0.058); LaNAS was better with
  nine of the ten seeds.
- Mean of the last quarter of a search's trials minus the mean of the first, with 95 % bootstrap intervals: LaNAS 0.121
  (0.107 to 0.135), random search -0.009 (-0.022 to 0.004).

Each seed, with the mean of the last quarter of the trials minus that of the first::

    seed                       0       1       2       3       4       5       6       7       8       9
    best, LaNAS           -0.166  -0.208  -0.144  -0.160  -0.171  -0.167  -0.178  -0.170  -0.139  -0.156
    best, random          -0.228  -0.204  -0.187  -0.234  -0.234  -0.187  -0.188  -0.222  -0.213  -0.192
    last - first, LaNAS    0.123   0.118   0.151   0.087   0.166   0.128   0.090   0.109   0.108   0.128
    last - first, random  -0.038  -0.013  -0.005  -0.034  -0.028   0.027  -0.015  -0.011   0.005   0.019

The winners of LaNAS's seeds 0, 1 and 2, trained with the winner's recipe and these seeds, have test accuracies of
99.4 %, 99.4 % and 99.7 % (360 images; mean 99.5 %). The nearest neighbour among the same training images has 98.3 %.

`make search` in a fresh clone takes 2 min 6 s on 2 cores, installation and compilation included, and 172 s of CPU
time. On another number of cores, sums are rounded in another order, and a search may find another winner.
"""

import dataclasses
from typing import Literal

import numpy as np

import lanas_jax as lx
from lanas_jax.data import digits
from lanas_jax.evaluators.from_scratch import FromScratch
from lanas_jax.experiments.several_objectives import front_searcher
from lanas_jax.models.nasnet import FinalNASNet, NASNet
from lanas_jax.runtime.devices import per_device_share
from lanas_jax.searchers.base import Searcher
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.study import Experiment
from lanas_jax.study.experiment import WinnerTraining
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import FinalTraining
from lanas_jax.training.augmentation import Augmentation
from lanas_jax.training.sgd import TrainConfig

SEARCHERS = {"lanas": lx.LaNAS, "random": lx.RandomSearch, "evolution": lx.RegularizedEvolution}
RECIPE = Recipe(epochs=45, batch_size=64, learning_rate=0.05, drop_path=0.1, ema=0.99, auxiliary_weight=0.0)


@dataclasses.dataclass(frozen=True)
class Final:
    """Settings of the winner training.

    Attributes:
      recipe: training recipe.
      channels: channels of the first cell's blocks.
      cells: number of cells in the stack.
      crop: maximum random shift of the digits, in pixels; images are not mirrored.
      seed: random seed.
    """

    recipe: Recipe = RECIPE
    channels: int = 16
    cells: int = 3
    crop: int = 1
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the digits search.

    Attributes:
      seed: random seed of everything except the data split.
      budget: number of candidates to train.
      batch: number of candidates proposed and trained together.
      searcher: search algorithm; with several objectives ParetoLaNAS, random search or NSGA-II.
      objectives: names of the objectives, separated by commas: loss or accuracy on the search-validation images,
        multiply-adds, parameters. With several, the winner is the knee of their front.
      max_multiply_adds: hard limit on the multiply-adds of a candidate; None for no limit.
      repeats: number of trainings per candidate, whose mean counts.
      blocks: number of blocks per cell.
      channels: channels of the first cell's blocks.
      cells: number of cells in the stack.
      epochs: number of training epochs per candidate.
      batch_size: number of images per step.
      learning_rate: initial learning rate.
      winner: settings of the winner training, which ends the search.
    """

    seed: int = 0
    budget: int = 64
    batch: int = 8
    searcher: Literal["lanas", "random", "evolution"] = "lanas"
    objectives: str = "loss"
    max_multiply_adds: int | None = None
    repeats: int = 3
    blocks: int = 4
    channels: int = 8
    cells: int = 3
    epochs: int = 2
    batch_size: int = 64
    learning_rate: float = 0.05
    winner: Final = Final()


def space(config: Config, max_multiply_adds: int | None = None) -> NASNetSpace:
    """Returns the space of separate normal and reduction cells for images of 8 x 8 grey pixels."""
    return NASNetSpace(
        config.blocks,
        two_cells=True,
        channels=config.channels,
        cells=config.cells,
        image_size=8,
        image_channels=1,
        classes=digits.CLASSES,
        max_multiply_adds=max_multiply_adds,
    )


def training(config: Config) -> TrainConfig:
    """Returns the training settings of candidates."""
    return TrainConfig(config.epochs, config.batch_size, config.learning_rate)


def build(config: Config) -> Experiment:
    """Returns the search experiment."""
    network = NASNet(space(config, config.max_multiply_adds))
    names = tuple(config.objectives.replace("-", "_").split(","))
    by_loss = "loss" in names or "accuracy" not in names  # otherwise, the value is the accuracy
    called = {"loss": "value", "accuracy": "validation_accuracy" if by_loss else "accuracy"}
    objectives = tuple(called.get(name, name) for name in names)
    several = objectives if objectives not in (("value",), ("accuracy",)) else ()
    evaluator = FromScratch(
        network,
        digits.load_digits().search,
        training(config),
        per_device=per_device_share(config.batch * config.repeats),
        measure="loss" if by_loss else "accuracy",
        repeats=config.repeats,
    )
    searcher: Searcher = SEARCHERS[config.searcher](network.space)
    if several:
        searcher = front_searcher(config.searcher, network.space, several)
    return Experiment(
        name="digits",
        space=network.space,
        searcher=searcher,
        evaluator=evaluator,
        budget=config.budget,
        batch=config.batch,
        seed=config.seed,
        winner=WinnerTraining(final, config, config.winner),
        objectives=several,
    )


def final(config: Config, settings: Final, code: np.ndarray) -> FinalTraining:
    """Returns the winner training, with more channels and random shifts. Images are too small for an auxiliary head."""
    larger = dataclasses.replace(config, channels=settings.channels, cells=settings.cells)
    network = FinalNASNet(NASNet(space(larger)), code, auxiliary=False)
    return FinalTraining(network, digits.load_digits, settings.recipe, Augmentation(crop=settings.crop), settings.seed)
