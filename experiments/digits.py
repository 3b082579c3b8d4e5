"""Handwritten digits in the NASNet space: every candidate is trained from scratch.

Source: section 5.1 of arXiv 1906.06832 at laptop scale: a search for NASNet cells (normal and reduction) that trains
each candidate from scratch on scikit-learn's 1,797 digits: 1,077 for training, 360 for search validation, 360 for
testing.

    lanas search digits --out runs/digits
    lanas export runs/digits
    lanas search digits --objectives accuracy,multiply-adds --out runs/front    # a front: docs/objectives.md

Measured with jax 0.10.2 on 29 November 2026:

- `make search` in a fresh clone, on 2 idle cores: 2 min 54 s, installation and compilation included.
- The winners of seeds 0, 1 and 2, trained with the winner's recipe and these seeds, have test accuracies of 99.4 %,
  98.9 % and 100 % (360 images; mean 99.4 %). The nearest neighbour among the same training images has 98.3 %.
- Ten seeds of LaNAS and of random search, 64 candidates each::

      python -m lanas_jax.experiments.compare_searches digits --seeds 10 --searchers lanas random --out runs/compared

  The best search value is 96.3 % on average (95.6 % to 97.2 %), of random search 95.9 % (95.0 % to 97.2 %); the paired
  difference is 0.39 points (95 % bootstrap interval: -0.17 to 1.03). The last quarter of LaNAS's trials has a mean 0.80
  points above the first (-0.16 to 1.46). So 64 short trainings, valued on 360 images, show the direction of a search,
  but not its gain: `lanas compare` shows that on benchmark tables.

Candidates are trained for only 2 epochs because their values then differ most: the standard deviation over random codes
is 3.1 points, of which 1.3 are seed noise; after 5 epochs it is 1.0, mostly noise. Training long makes all good cells
nearly equal.
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
      objectives: names of the objectives, with commas: loss or accuracy on the search-validation images, multiply-adds,
        parameters. With several, the winner is the knee of their front.
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
    objectives: str = "accuracy"
    max_multiply_adds: int | None = None
    repeats: int = 1
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
    # The value that is maximised is the negative loss, or the accuracy.
    objectives = tuple("value" if name == "loss" else name for name in names)
    several = objectives if objectives not in (("value",), ("accuracy",)) else ()
    evaluator = FromScratch(
        network,
        digits.load_digits().search,
        training(config),
        per_device=per_device_share(config.batch * config.repeats),
        measure="accuracy" if "accuracy" in names else "loss",
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
