"""CIFAR-10 in the NASNet space: every candidate is trained from scratch, and the winner by the published recipe.

Source: section 5.1 of arXiv 1906.06832. Published: 99.0 % test accuracy after 800 trained networks, one cell of seven
blocks as normal and reduction cell, the winner with 128 channels and 24 cells (44.6 M parameters). This code has not
been run at this size, so the hours are unknown. `experiments/cifar10_small.py` runs on two CPU cores;
`experiments/benchmarks/candidates.py --setting cifar10` measures the training speed of such candidates.

    lanas search cifar10 --out runs/cifar10
    lanas train runs/cifar10                                                        # 36 channels, 20 cells, 600 epochs
    lanas train runs/cifar10 --out runs/large --channels 128 --cells 24 --recipe.epochs 1500
    lanas export runs/cifar10
    lanas plan cifar10 --topology v5e:2x4                      # memory, and a lower bound on chip-hours

It needs CIFAR-10 (accepted formats: `lanas_jax/data/cifar10.py`) and GPUs or TPUs; it uses all devices of the process.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

import lanas_jax as lx
from lanas_jax.candidates.halving import Halving
from lanas_jax.data import cifar10
from lanas_jax.evaluators.from_scratch import FromScratch
from lanas_jax.models.nasnet import FinalNASNet, NASNet
from lanas_jax.planning.stage import Stage, stand_in
from lanas_jax.planning.stages import candidates, final_training
from lanas_jax.runtime.devices import per_device_share
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.study import Experiment
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import FinalTraining, costs
from lanas_jax.training.augmentation import Augmentation
from lanas_jax.training.sgd import TrainConfig

SEARCHERS = {"lanas": lx.LaNAS, "random": lx.RandomSearch, "evolution": lx.RegularizedEvolution}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the search.

    Attributes:
      seed: random seed of everything except the data split.
      budget: number of candidates to train.
      batch: number of candidates proposed and trained together.
      searcher: search algorithm.
      plan: form in which candidates train (`FromScratch.strategy`); auto measures the forms and takes the fastest.
      halving: early stopping of the worst candidates of a batch by successive halving.
      data_dir: folder of CIFAR-10; default: TFDS_DATA_DIR, ~/tensorflow_datasets, LANAS_DATA.
      train: number of training images of candidates; default: all except the validation images.
      validation: number of search-validation images, on which candidates are compared.
      blocks: number of blocks per cell.
      channels: channels of the first cell's blocks.
      cells: number of cells in the stack.
      epochs: number of training epochs per candidate.
      batch_size: number of images per step.
      learning_rate: initial learning rate.
      dtype: compute dtype; parameters are float32.
    """

    seed: int = 0
    budget: int = 800
    batch: int = 8
    searcher: Literal["lanas", "random", "evolution"] = "lanas"
    plan: Literal["auto", "shared", "branchless", "specialised"] = "auto"
    halving: bool = False
    data_dir: Path | None = None
    train: int | None = None
    validation: int = 10_000
    blocks: int = 7
    channels: int = 16
    cells: int = 8
    epochs: int = 25
    batch_size: int = 128
    learning_rate: float = 0.05
    dtype: Literal["float32", "bfloat16"] = "bfloat16"


RECIPE = Recipe()  # the published recipe


@dataclasses.dataclass(frozen=True)
class Final:
    """Settings of the winner training.

    Attributes:
      recipe: training recipe.
      channels: channels of the first cell's blocks.
      cells: number of cells in the stack.
      auxiliary: auxiliary head during training.
      weight_standardisation: weight standardisation of 1x1 convolutions.
      cutmix: alpha of CutMix; 0 disables it.
      policy: augmentation policy.
      seed: random seed.
    """

    recipe: Recipe = RECIPE
    channels: int = 36
    cells: int = 20
    auxiliary: bool = True
    weight_standardisation: bool = True
    cutmix: float = 1.0
    policy: Literal["autoaugment", "randaugment"] | None = "autoaugment"
    seed: int = 0


def candidate(config: Config) -> NASNet:
    """Returns the network definition of the search."""
    space = NASNetSpace(config.blocks, channels=config.channels, cells=config.cells)
    return NASNet(space, jnp.dtype(config.dtype))


def candidate_training(config: Config) -> TrainConfig:
    """Returns the training settings of candidates."""
    shown = Augmentation(crop=4, flip=True)
    return TrainConfig(config.epochs, config.batch_size, config.learning_rate, augmentation=shown)


def build(config: Config) -> Experiment:
    """Returns the search experiment."""
    data = cifar10.load_cifar10(config.data_dir, train=config.train, validation=config.validation).search
    network = candidate(config)
    evaluator = FromScratch(
        network,
        data,
        candidate_training(config),
        per_device=per_device_share(config.batch),
        strategy=config.plan,
        candidates=config.budget,
        halving=Halving() if config.halving else None,
    )
    searcher = SEARCHERS[config.searcher](network.space)
    return Experiment("cifar10", network.space, searcher, evaluator, config.budget, config.batch, config.seed)


def final(config: Config, settings: Final, code: np.ndarray) -> FinalTraining:
    """Returns the winner training by the published recipe."""
    space = NASNetSpace(config.blocks, channels=settings.channels, cells=settings.cells)
    network = NASNet(space, jnp.dtype(config.dtype), settings.weight_standardisation)
    load = functools.partial(cifar10.load_cifar10, config.data_dir, train=config.train, validation=config.validation)
    augmentation = Augmentation(crop=4, flip=True, policy=settings.policy, cutmix=settings.cutmix)
    winner = FinalNASNet(network, code, settings.auxiliary)
    return FinalTraining(winner, load, settings.recipe, augmentation, settings.seed)


def stages(config: Config) -> tuple[Stage, ...]:
    """Returns the stages `lanas plan` compiles: the search with one shared program, and the winner training."""
    images = cifar10.SOURCE.contents
    train = config.train or images.train - config.validation
    data = stand_in(train, config.validation, images.image_shape, images.classes)
    network, settings = candidate(config), Final()
    code = np.asarray(network.space.random(jax.random.key(config.seed), 1))[0]
    winner = final(config, settings, code)
    cost = costs(winner.network, code)["multiply_adds"]
    return (
        candidates(
            "search",
            network,
            candidate_training(config),
            data,
            budget=config.budget,
            batch=config.batch,
            setting="--batch-size of lanas search",
            # two branches per block, of one operation or two half convolutions
            rounds=3 * config.blocks,
        ),
        final_training("final", winner, data, cost, setting="--recipe.batch-size of lanas train"),
    )
