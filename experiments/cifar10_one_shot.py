r"""CIFAR-10 by one supernet: the one-shot search of the paper, at its size.

Source: section 5.2 of arXiv 1906.06832: normal and reduction cell of five blocks, 1.35e20 masks, evaluated by one
supernet trained for 300 epochs (SGD, cosine schedule from 0.025 to 0.001, momentum 0.9, weight decay 3e-4, clipping at
5). Published: the mean of the best supernet accuracy after about 1,940 samples is 82.7 % for LaNAS, 82.06 % for TPE,
82.05 % for regularized evolution and 81.2 % for random search. This code has not been run at this size, so the hours
are unknown. `experiments/fashion_one_shot.py` runs on two CPU cores.

    lanas search cifar10_one_shot --out runs/one_shot
    lanas search cifar10_one_shot --out runs/few_shot --values few_shot
    python -m lanas_jax.experiments.compare_searches cifar10_one_shot --out runs/compared \
        --searchers lanas random evolution tpe
    lanas rank runs/few_shot --networks 32
    lanas extract runs/one_shot
    lanas plan cifar10_one_shot --topology v5e:2x4 # memory, and a lower bound on chip-hours
    lanas train runs/one_shot                      # the winner, 36 channels, 20 cells, 600 epochs

It needs CIFAR-10 (accepted formats: `lanas_jax/data/cifar10.py`) and GPUs or TPUs. Supernet training splits each batch
over all devices of the process; mask evaluation runs different masks on different devices.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

import lanas_jax as lx
from lanas_jax.comparison.optuna_searcher import OptunaTPE
from lanas_jax.data import cifar10
from lanas_jax.data.splits import Dataset, SearchData
from lanas_jax.evaluators.few_shot import FewShot
from lanas_jax.evaluators.from_scratch import FromScratch
from lanas_jax.evaluators.one_shot import POOL, OneShot
from lanas_jax.models.nasnet import FinalNASNet, NASNet, NASNetSupernet
from lanas_jax.planning.stage import Stage, stand_in
from lanas_jax.planning.stages import final_training, mean_multiply_adds, valuation
from lanas_jax.ranking.base import Ranking, supernet_estimates
from lanas_jax.runtime.devices import per_device_share
from lanas_jax.spaces.nasnet_masks import NASNetMasks
from lanas_jax.study import Experiment
from lanas_jax.supernet import code_pool
from lanas_jax.supernet.regions import OptionSplit, TreeSplit
from lanas_jax.supernet.training import ONE_SHOT, SupernetTraining
from lanas_jax.supernet.valuation import Valuation
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import FinalTraining, costs
from lanas_jax.training.augmentation import Augmentation
from lanas_jax.training.sgd import TrainConfig

SEARCHERS = {
    "lanas": functools.partial(lx.LaNAS, capacity=2048),
    "random": lx.RandomSearch,
    "evolution": lx.RegularizedEvolution,
    "tpe": OptunaTPE,
}
AUGMENTATION = Augmentation(crop=4, flip=True)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the search.

    Attributes:
      seed: random seed of the search; supernets and data have separate seeds.
      budget: number of masks to evaluate.
      batch: number of masks asked for and evaluated together.
      searcher: search algorithm; tpe needs the extra `peers`.
      values: source of the values: one supernet, or sub-supernets.
      split: division into sub-supernets: one per leaf of a tree, or one per operation of a branch, as in the few-shot
        paper.
      supernet: folder of the trained supernet, which is trained there if missing; default: inside the run folder.
        Sub-supernets are in a sibling folder.
      data_dir: folder of CIFAR-10; default: TFDS_DATA_DIR, ~/tensorflow_datasets, LANAS_DATA.
      validation: number of search-validation images, on which masks are compared; the other images of the 50,000 are
        for training.
      recalibration: number of training images for measuring each mask's batch statistics.
      channels: channels of the first cell's blocks.
      cells: number of cells in the stack.
      epochs: number of training epochs of the supernet.
      passes: number of masks drawn per step.
      few_shot_epochs: number of epochs per sub-supernet, starting from the supernet's weights.
      depth: number of levels of the tree whose leaves have sub-supernets.
      batch_size: number of images per step.
      bfloat16: computation in bfloat16 instead of float32.
    """

    seed: int = 0
    budget: int = 1940
    batch: int = 20
    searcher: Literal["lanas", "random", "evolution", "tpe"] = "lanas"
    values: Literal["one_shot", "few_shot"] = "one_shot"
    split: Literal["tree", "operations"] = "tree"
    supernet: Path | None = None
    data_dir: Path | None = None
    validation: int = 10_000
    recalibration: int = 2_048
    channels: int = 36
    cells: int = 8
    epochs: int = 300
    passes: int = 1
    few_shot_epochs: int = 50
    depth: int = 2
    batch_size: int = 64
    bfloat16: bool = True


RECIPE = Recipe(drop_path=0.2, auxiliary_weight=0.4)


@dataclasses.dataclass(frozen=True)
class Final:
    """Settings of the winner training.

    Attributes:
      recipe: training recipe.
      channels: channels of the first cell's blocks; must equal the supernet's to start from extracted weights.
      cells: number of cells in the stack.
      auxiliary: auxiliary head during training.
      seed: random seed.
    """

    recipe: Recipe = RECIPE
    channels: int = 36
    cells: int = 20
    auxiliary: bool = True
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Rank:
    """Settings of the trainings from scratch that supernet values are compared with.

    Attributes:
      epochs: number of training epochs.
      learning_rate: initial learning rate.
    """

    epochs: int = 50
    learning_rate: float = 0.025


def load_images(config: Config) -> Dataset:
    """Loads the images."""
    return cifar10.load_cifar10(config.data_dir, validation=config.validation)


def search_data(config: Config) -> SearchData:
    """Returns the data that a search may use."""
    return load_images(config).search


def dtype(config: Config) -> Any:
    """Returns the compute dtype of the networks."""
    return jnp.bfloat16 if config.bfloat16 else jnp.float32


def one_shot(config: Config) -> OneShot:
    """Returns the evaluator that values masks by one supernet."""
    recipe = dataclasses.replace(ONE_SHOT, epochs=config.epochs, passes=config.passes, batch_size=config.batch_size)
    supernet = NASNetSupernet(NASNetMasks(channels=config.channels, cells=config.cells), dtype(config))
    dataset = functools.partial(search_data, config)
    per_device = per_device_share(config.batch)
    return OneShot(
        supernet, dataset, recipe, AUGMENTATION, config.supernet, config.recalibration, per_device=per_device
    )


def few_shot(config: Config, supernet: OneShot) -> FewShot:
    """Returns the evaluator that values masks by sub-supernets."""
    recipe = dataclasses.replace(supernet.recipe, epochs=config.few_shot_epochs, learning_rate=0.005)
    directory = None if config.supernet is None else config.supernet.with_name("few_shot")
    split = TreeSplit(config.depth) if config.split == "tree" else OptionSplit("normal block 4 op 0")
    return FewShot(supernet, split, recipe, directory)


def build(config: Config) -> Experiment:
    """Returns the search experiment."""
    evaluator: Any = one_shot(config)
    if config.values == "few_shot":
        evaluator = few_shot(config, evaluator)
    space = evaluator.supernet.space
    searcher = SEARCHERS[config.searcher](space)
    return Experiment("cifar10_one_shot", space, searcher, evaluator, config.budget, config.batch, config.seed)


def final(config: Config, settings: Final, code: np.ndarray) -> FinalTraining:
    """Returns the winner training, from scratch or from extracted weights."""
    space = NASNetMasks(channels=settings.channels, cells=settings.cells)
    network = FinalNASNet(NASNet(space, dtype(config)), code, auxiliary=settings.auxiliary)
    augmentation = Augmentation(crop=4, flip=True, policy="autoaugment", cutmix=1.0)
    return FinalTraining(network, functools.partial(load_images, config), settings.recipe, augmentation, settings.seed)


def rank(config: Config, settings: Rank, directory: Path) -> Ranking:
    """Returns the comparison of supernet values with trainings from scratch of the same networks."""
    if config.supernet is None:
        config = dataclasses.replace(config, supernet=directory / "supernet")
    measured = one_shot(config)
    estimates = supernet_estimates(measured, functools.partial(few_shot, config))
    network = NASNet(measured.supernet.space, dtype(config))
    scratch = TrainConfig(settings.epochs, config.batch_size, settings.learning_rate, augmentation=AUGMENTATION)
    return Ranking(estimates, FromScratch(network, search_data(config), scratch))


def stages(config: Config) -> tuple[Stage, ...]:
    """Returns the stages `lanas plan` compiles: supernet training, mask evaluation and winner training.

    Sub-supernets are not included.
    """
    images = cifar10.SOURCE.contents
    data = stand_in(images.train - config.validation, config.validation, images.image_shape, images.classes)
    measured = one_shot(config)
    pool = code_pool.draw_codes(measured.supernet.space, POOL, measured.seed)
    supernet = SupernetTraining(measured.supernet, pool, measured.recipe, measured.augmentation, measured.seed)
    valuing = Valuation(measured.supernet, data, measured.recalibration, measured.batch_size)
    winner = final(config, Final(), pool[0])
    cost = costs(winner.network, pool[0])["multiply_adds"]
    return (
        final_training(
            "supernet",
            supernet,
            data,
            mean_multiply_adds(measured.supernet.space, pool),
            setting="--batch-size of lanas search",
            # two branches per block, of one operation or two half convolutions
            rounds=3 * measured.supernet.space.blocks,
        ),
        valuation("search", valuing, budget=config.budget, batch=config.batch, setting="batch_size of its OneShot"),
        final_training("final", winner, data, cost, setting="--recipe.batch-size of lanas train"),
    )
