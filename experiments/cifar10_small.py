"""CIFAR-10 at laptop scale: every candidate is trained from scratch on 2 CPU cores.

Source: section 5.1 of arXiv 1906.06832, scaled down: a search for NASNet cells (normal and reduction) that trains each
candidate from scratch on CIFAR-10 images reduced to 16 x 16 pixels.

Measured on 2 cores of an AMD EPYC with jax 0.10.2 (24 November 2026), on JPEG-compressed images. Nine searches of 48
candidates, 2.1 s per candidate, took 16 min 21 s; the three LaNAS searches were repeated with a later LaNAS in
6 min 42 s::

    python -m lanas_jax.experiments.compare_searches cifar10_small --seeds 3 --out runs/cifar10_small

=========  =====================  =====================  =====================
searcher   best after 16 trials   after 32               after 48
=========  =====================  =====================  =====================
LaNAS      35.9 (35.6 to 36.2)    38.8 (38.1 to 40.3)    39.2 (38.1 to 40.3)
random     35.9 (35.6 to 36.2)    36.9 (35.8 to 38.4)    38.1 (37.5 to 38.4)
evolution  36.0 (35.2 to 37.2)    36.1 (35.2 to 37.2)    36.2 (35.5 to 37.2)
=========  =====================  =====================  =====================

(search-validation accuracy in percent, mean and range over seeds; one of 2,000 images is 0.05). The winner training, 20
epochs on 10,000 images, took 161 s. Its test accuracy, evaluated once, is 59.7 % (59.6 % for the average of weights)::

    lanas train runs/cifar10_small/lanas-1
"""

import dataclasses
import functools
from pathlib import Path
from typing import Literal

import numpy as np

import lanas_jax as lx
from lanas_jax.data import cifar10
from lanas_jax.evaluators.from_scratch import FromScratch
from lanas_jax.experiments.several_objectives import front_searcher, objective_names
from lanas_jax.models.nasnet import FinalNASNet, NASNet
from lanas_jax.runtime.devices import per_device_share
from lanas_jax.searchers.base import Searcher
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.study import Experiment
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import FinalTraining
from lanas_jax.training.augmentation import Augmentation
from lanas_jax.training.sgd import TrainConfig

SEARCHERS = {"lanas": lx.LaNAS, "random": lx.RandomSearch, "evolution": lx.RegularizedEvolution}
SIZE = 16  # pixels; the original images have 32


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the search.

    Attributes:
      seed: random seed of everything except the data split.
      budget: number of candidates to train.
      batch: number of candidates proposed and trained together.
      searcher: search algorithm; with several objectives ParetoLaNAS, random search or NSGA-II.
      objectives: names of the objectives, separated by commas: accuracy, multiply-adds, parameters. With several, the
        winner is the knee of their front.
      max_multiply_adds: hard limit on the multiply-adds of a candidate; None for no limit.
      plan: form in which candidates train (`FromScratch.strategy`); auto measures the forms and takes the fastest.
      data_dir: folder of CIFAR-10; default: TFDS_DATA_DIR, ~/tensorflow_datasets, LANAS_DATA.
      train: number of training images of candidates.
      validation: number of search-validation images, on which candidates are compared.
      blocks: number of blocks per cell.
      channels: channels of the first cell's blocks.
      cells: number of cells in the stack.
      epochs: number of training epochs per candidate.
      batch_size: number of images per step.
      learning_rate: initial learning rate.
    """

    seed: int = 0
    budget: int = 48
    batch: int = 8
    searcher: Literal["lanas", "random", "evolution"] = "lanas"
    objectives: str = "accuracy"
    max_multiply_adds: int | None = None
    plan: Literal["auto", "shared", "branchless", "specialised"] = "auto"
    data_dir: Path | None = None
    train: int = 2000
    validation: int = 2000
    blocks: int = 4
    channels: int = 8
    cells: int = 3
    epochs: int = 2
    batch_size: int = 64
    learning_rate: float = 0.05


RECIPE = Recipe(epochs=20, batch_size=64, learning_rate=0.05, drop_path=0.1, ema=0.99, auxiliary_weight=0.0)


@dataclasses.dataclass(frozen=True)
class Final:
    """Settings of the winner training.

    Attributes:
      recipe: training recipe.
      channels: channels of the first cell's blocks.
      cells: number of cells in the stack.
      train: number of training images.
      seed: random seed.
    """

    recipe: Recipe = RECIPE
    channels: int = 16
    cells: int = 3
    train: int = 8000
    seed: int = 0


def space(config: Config, channels: int, cells: int, max_multiply_adds: int | None = None) -> NASNetSpace:
    """Returns the space of separate normal and reduction cells for images of 16 x 16 pixels."""
    sizes = {"channels": channels, "cells": cells, "image_size": SIZE}
    return NASNetSpace(config.blocks, two_cells=True, max_multiply_adds=max_multiply_adds, **sizes)


def build(config: Config) -> Experiment:
    """Returns the search experiment."""
    data = cifar10.load_cifar10(config.data_dir, train=config.train, validation=config.validation, size=SIZE).search
    network = NASNet(space(config, config.channels, config.cells, config.max_multiply_adds))
    evaluator = FromScratch(
        network,
        data,
        TrainConfig(config.epochs, config.batch_size, config.learning_rate),
        per_device=per_device_share(config.batch),
        strategy=config.plan,
        candidates=config.budget,
    )
    searcher: Searcher = SEARCHERS[config.searcher](network.space)
    if names := objective_names(config.objectives):
        searcher = front_searcher(config.searcher, network.space, names)
    numbers = config.budget, config.batch, config.seed
    return Experiment("cifar10_small", network.space, searcher, evaluator, *numbers, objectives=names)


def final(config: Config, settings: Final, code: np.ndarray) -> FinalTraining:
    """Returns the winner training, with more channels, more images and augmentation."""
    network = FinalNASNet(NASNet(space(config, settings.channels, settings.cells)), code, auxiliary=False)
    images = {"train": settings.train, "validation": config.validation, "size": SIZE}
    load = functools.partial(cifar10.load_cifar10, config.data_dir, **images)
    return FinalTraining(network, load, settings.recipe, Augmentation(crop=2, flip=True, cutout=4), settings.seed)
