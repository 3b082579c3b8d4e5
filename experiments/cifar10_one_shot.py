"""CIFAR-10 by one supernet: the one-shot search of the paper, at its size.

Source: section 5.2 of arXiv 1906.06832: normal and reduction cell of five blocks, 1.35e20 masks, valued by one supernet
that is trained for 300 epochs (SGD, a cosine from 0.025 to 0.001, momentum 0.9, weight decay 3e-4, clipping at 5).
Published: the mean of the best supernet accuracy after about 1,940 samples is 82.7 % for LaNAS, 82.06 % for TPE,
82.05 % for regularized evolution and 81.2 % for random search. Nothing of this experiment's size has been run with this
code: its hours are not known. `experiments/fashion_one_shot.py` is what two CPU cores can do.

    lanas search cifar10_one_shot --out runs/one_shot
    lanas search cifar10_one_shot --out runs/few_shot --values few_shot
    python -m experiments.compare_searches cifar10_one_shot --out runs/compared --searchers lanas random evolution tpe
    lanas rank runs/few_shot --networks 32
    lanas extract runs/one_shot
    lanas plan cifar10_one_shot --topology v5e:2x4 # does it fit there, and how many chip-hours at least?
    lanas train runs/one_shot                      # the winner, 36 channels, 20 cells, 600 epochs

It needs CIFAR-10 (`lanas_jax/data/cifar10.py` says in which forms) and GPUs or TPUs; on all devices of the process the
supernet is trained, a batch spread over them, and masks are valued side by side.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import lanas_jax as lx
from lanas_jax.comparison.optuna_searcher import OptunaTPE
from lanas_jax.data import cifar10
from lanas_jax.data.splits import Dataset, SearchData
from lanas_jax.evaluators.few_shot import FewShot
from lanas_jax.evaluators.from_scratch import FromScratch
from lanas_jax.evaluators.one_shot import POOL, OneShot
from lanas_jax.planning.stage import Stage, stand_in
from lanas_jax.planning.stages import final_training, mean_multiply_adds, valuation
from lanas_jax.ranking.base import Ranking
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
from models.nasnet import FinalNASNet, NASNet, NASNetSupernet

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
      seed: of the search; supernets and data have seeds of their own.
      budget: masks to value.
      batch: masks that are asked for and valued together.
      searcher: how masks are chosen; tpe needs the extra peers.
      values: of one supernet, or of sub-supernets.
      split: what has a sub-supernet: each leaf of a tree, or each operation of a branch, as in the few-shot paper.
      supernet: folder of a trained supernet, or where it is to be trained; default: in the run's folder. Sub-supernets
        are beside it.
      data_dir: where CIFAR-10 is; default: TFDS_DATA_DIR, ~/tensorflow_datasets, LANAS_DATA.
      validation: images that masks are compared on; the rest of the 50,000 trains.
      recalibration: training images by which batch statistics are measured for each mask.
      channels: of the first cell's blocks.
      cells: cells in the stack.
      epochs: passes of the supernet over its images.
      passes: masks drawn at each step.
      few_shot_epochs: the same of each sub-supernet, from the supernet's weights on.
      depth: levels of the tree whose leaves have sub-supernets.
      batch_size: images per step.
      bfloat16: whether networks compute in it.
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
    """Settings of the winner's training.

    Attributes:
      recipe: how it is trained.
      channels: of the first cell's blocks; to begin with extracted weights, those of the supernet.
      cells: cells in the stack.
      auxiliary: whether there is an auxiliary head.
      seed: of everything random.
    """

    recipe: Recipe = RECIPE
    channels: int = 36
    cells: int = 20
    auxiliary: bool = True
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Rank:
    """Settings of the trainings from scratch by which supernets are judged.

    Attributes:
      epochs: passes over the training images.
      learning_rate: at the first step.
    """

    epochs: int = 50
    learning_rate: float = 0.025


def load_images(config: Config) -> Dataset:
    """The images."""
    return cifar10.load_cifar10(config.data_dir, validation=config.validation)


def search_data(config: Config) -> SearchData:
    """What a search may see."""
    return load_images(config).search


def dtype(config: Config) -> Any:
    """In which networks compute."""
    return jnp.bfloat16 if config.bfloat16 else jnp.float32


def one_shot(config: Config) -> OneShot:
    """The supernet and its values."""
    recipe = dataclasses.replace(ONE_SHOT, epochs=config.epochs, passes=config.passes, batch_size=config.batch_size)
    supernet = NASNetSupernet(NASNetMasks(channels=config.channels, cells=config.cells), dtype(config))
    dataset = functools.partial(search_data, config)
    per_device = -(-config.batch // jax.local_device_count())
    return OneShot(
        supernet, dataset, recipe, AUGMENTATION, config.supernet, config.recalibration, per_device=per_device
    )


def few_shot(config: Config, supernet: OneShot) -> FewShot:
    """Sub-supernets and their values."""
    recipe = dataclasses.replace(supernet.recipe, epochs=config.few_shot_epochs, learning_rate=0.005)
    directory = None if config.supernet is None else config.supernet.with_name("few_shot")
    split = TreeSplit(config.depth) if config.split == "tree" else OptionSplit("normal block 4 op 0")
    return FewShot(supernet, split, recipe, directory)


def build(config: Config) -> Experiment:
    """The search."""
    evaluator: Any = one_shot(config)
    if config.values == "few_shot":
        evaluator = few_shot(config, evaluator)
    space = evaluator.supernet.space
    searcher = SEARCHERS[config.searcher](space)
    return Experiment("cifar10_one_shot", space, searcher, evaluator, config.budget, config.batch, config.seed)


def final(config: Config, settings: Final, code: np.ndarray) -> FinalTraining:
    """The winner's training, from scratch or from extracted weights."""
    space = NASNetMasks(channels=settings.channels, cells=settings.cells)
    network = FinalNASNet(NASNet(space, dtype(config)), code, auxiliary=settings.auxiliary)
    augmentation = Augmentation(crop=4, flip=True, policy="autoaugment", cutmix=1.0)
    return FinalTraining(network, functools.partial(load_images, config), settings.recipe, augmentation, settings.seed)


def rank(config: Config, settings: Rank, directory: Path) -> Ranking:
    """Values of supernets against trainings from scratch of the same networks."""
    if config.supernet is None:
        config = dataclasses.replace(config, supernet=directory / "supernet")
    measured = one_shot(config)
    running = dataclasses.replace(measured, recalibration=0)
    estimates: dict[str, Any] = {
        "one-shot": measured,
        "few-shot": few_shot(config, measured),
        "one-shot, running statistics": running,
        "few-shot, running statistics": few_shot(config, running),
    }
    network = NASNet(measured.supernet.space, dtype(config))
    scratch = TrainConfig(settings.epochs, config.batch_size, settings.learning_rate, augmentation=AUGMENTATION)
    return Ranking(estimates, FromScratch(network, search_data(config), scratch))


def stages(config: Config) -> tuple[Stage, ...]:
    """What `lanas plan` compiles: supernet, values of masks, and the training of a winner; no sub-supernets."""
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
        ),
        valuation("search", valuing, budget=config.budget, batch=config.batch, setting="batch_size of its OneShot"),
        final_training("final", winner, data, cost, setting="--recipe.batch-size of lanas train"),
    )
