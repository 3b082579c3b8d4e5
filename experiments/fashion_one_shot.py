r"""Cells for pictures of clothes: one supernet in place of a training for each candidate.

Source: section 5.2 of arXiv 1906.06832 at the size of a laptop: normal and reduction cell of five blocks, 1.35e20
masks, searched by the values that parts of one trained supernet have; few-shot: arXiv 2006.06863. Images of
Fashion-MNIST, reduced to 7 x 7 pixels (Debian's package dataset-fashion-mnist, or tensorflow-datasets); scikit-learn's
digits where there is neither.

Measured on 2 cores of an AMD EPYC with jax 0.10.2 (24 November 2026): one supernet, and 500 of its masks for each of
five seeds and four searchers, in some 21 min, partly beside other work, 0.07 s a mask::

    python -m experiments.compare_searches fashion_one_shot --out runs/fashion --seeds 5 \
        --searchers lanas random evolution tpe

=========  =====================  =====================  =====================
searcher   best after 166 masks   after 333              after 500
=========  =====================  =====================  =====================
LaNAS      80.3 (79.6 to 80.8)    80.8 (80.1 to 81.2)    81.0 (80.6 to 81.3)
evolution  79.1 (78.4 to 79.9)    79.9 (79.6 to 80.2)    80.2 (80.1 to 80.6)
TPE        79.1 (78.7 to 79.5)    79.8 (79.3 to 80.4)    80.0 (79.8 to 80.4)
random     78.7 (78.1 to 79.5)    78.8 (78.3 to 79.5)    79.0 (78.6 to 79.5)
=========  =====================  =====================  =====================

(accuracy in the supernet on 2,000 search-validation images, in percent: mean and range over seeds.)

Few-shot, four sub-supernets for the leaves of a tree, which begin with those weights and take 8 more epochs: LaNAS's
search of seed 0 ends at 82.8 % of their values, of the supernet's at 80.8, after 8 min 25 s, trainings included::

    lanas search fashion_one_shot --values few_shot --supernet runs/fashion/supernet --out runs/few

The winner of LaNAS's seed 0, 16 channels, trained from scratch for 10 epochs (3 min 9 s while other work was done) has
a test accuracy of 87.0 %, and 87.1 % for the average of its weights::

    lanas extract runs/fashion/lanas-0
    lanas train runs/fashion/lanas-0

Does the supernet rank? Not at this size. Of 32 networks from all over the space, trained from scratch::

    lanas rank runs/few --networks 32                         # 4 epochs each, 86.0 % on average, deviation 0.5 points
    lanas rank COPY --networks 32 --epochs 1 --batch 8        # 82.6 %, deviation 0.7; COPY: the run without ranking/

============================  =======================  ========================  ========================
values                        mean of the 32 networks  Spearman, 4 epochs        Spearman, 1 epoch
============================  =======================  ========================  ========================
one-shot                      74.8 %                   -0.26 (-0.61 to 0.15)     -0.14 (-0.49 to 0.22)
few-shot                      75.5 %                   -0.30 (-0.61 to 0.09)     -0.11 (-0.44 to 0.24)
one-shot, running statistics  47.6 %                   -0.10 (-0.45 to 0.28)     0.28 (-0.10 to 0.60)
few-shot, running statistics  49.6 %                   -0.17 (-0.50 to 0.23)     0.32 (-0.01 to 0.61)
============================  =======================  ========================  ========================

(95 % bootstrap intervals.) Random networks trained from scratch are all but alike here: a standard error of 2,000
images is 0.8 points, more than they differ by. Batch statistics of each mask's own raise values by 27 points; whether
they rank better these intervals do not tell. By how many training images they are measured (48 random masks,
``python -m experiments.recalibration RUN --images 0 32 128 512 2048 --networks 48``)::

    images                         0 (running)    32     128     512     2048
    mean value                         48.6 %   73.7 %  75.1 %  75.2 %  75.2 %
    Spearman with that of 2,048         0.45     0.78    0.96    0.99    1

So the comparison above is one of searchers, on one and the same function,
and no proof that what they find is better when trained.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

import lanas_jax as lx
from lanas_jax.comparison.optuna_searcher import OptunaTPE
from lanas_jax.data import digits, fashion_mnist
from lanas_jax.data.splits import Dataset, SearchData
from lanas_jax.evaluators.few_shot import FewShot
from lanas_jax.evaluators.from_scratch import FromScratch
from lanas_jax.evaluators.one_shot import OneShot
from lanas_jax.ranking.base import Ranking
from lanas_jax.spaces.nasnet_masks import NASNetMasks
from lanas_jax.study import Experiment
from lanas_jax.supernet.regions import TreeSplit
from lanas_jax.supernet.training import ONE_SHOT
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import FinalTraining
from lanas_jax.training.sgd import TrainConfig
from models.nasnet import FinalNASNet, NASNet, NASNetSupernet

SEARCHERS = {
    "lanas": functools.partial(lx.LaNAS, capacity=512),
    "random": lx.RandomSearch,
    "evolution": lx.RegularizedEvolution,
    "tpe": OptunaTPE,
}
SIZE = 7  # pixels, of 28


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the search.

    Attributes:
      seed: of the search; supernets and data have seeds of their own.
      budget: masks to value.
      batch: masks that are asked for and valued together.
      searcher: how masks are chosen; tpe needs the extra peers.
      values: of one supernet, or of sub-supernets for the leaves of a tree.
      supernet: folder of a trained supernet, or where it is to be trained; default: in the run's folder. Those of the
        leaves are beside it.
      images: Fashion-MNIST, digits, or the former where it is found.
      data_dir: where Fashion-MNIST is; default: TFDS_DATA_DIR, ~/tensorflow_datasets, LANAS_DATA, Debian's folder.
      train: images that supernets are trained on.
      validation: images that masks are compared on.
      recalibration: training images by which batch statistics are measured for each mask.
      channels: of the first cell's blocks.
      cells: cells in the stack.
      epochs: passes of the supernet over its images.
      passes: masks drawn at each step.
      few_shot_epochs: the same of each sub-supernet, from the supernet's weights on.
      depth: levels of the tree whose leaves have sub-supernets.
      batch_size: images per step.
      learning_rate: at the first step.
    """

    seed: int = 0
    budget: int = 500
    batch: int = 10
    searcher: Literal["lanas", "random", "evolution", "tpe"] = "lanas"
    values: Literal["one_shot", "few_shot"] = "one_shot"
    supernet: Path | None = None
    images: Literal["auto", "fashion", "digits"] = "auto"
    data_dir: Path | None = None
    train: int = 20_000
    validation: int = 2_000
    recalibration: int = 512
    channels: int = 8
    cells: int = 3
    epochs: int = 30
    passes: int = 1
    few_shot_epochs: int = 8
    depth: int = 2
    batch_size: int = 64
    learning_rate: float = 0.05


RECIPE = Recipe(epochs=10, batch_size=64, learning_rate=0.05, drop_path=0.1, ema=0.99, auxiliary_weight=0.0)


@dataclasses.dataclass(frozen=True)
class Final:
    """Settings of the winner's training.

    Attributes:
      recipe: how it is trained.
      channels: of the first cell's blocks; to begin with extracted weights, those of the supernet.
      cells: cells in the stack.
      seed: of everything random.
    """

    recipe: Recipe = RECIPE
    channels: int = 16
    cells: int = 3
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Rank:
    """Settings of the trainings from scratch by which supernets are judged.

    Attributes:
      epochs: passes over the training images.
      learning_rate: at the first step.
    """

    epochs: int = 4
    learning_rate: float = 0.05


def fashion(config: Config) -> bool:
    """Whether images are Fashion-MNIST's."""
    if config.images == "auto":
        return fashion_mnist.SOURCE.there(config.data_dir)
    return config.images == "fashion"


def load_images(config: Config, size: int | None = None) -> Dataset:
    """The images; digits are all used."""
    if not fashion(config):
        return digits.load_digits()
    return fashion_mnist.load_fashion_mnist(
        config.data_dir, train=config.train, validation=config.validation, size=size or SIZE
    )


def search_data(config: Config) -> SearchData:
    """What a search may see."""
    return load_images(config).search


def space(config: Config, channels: int, cells: int) -> NASNetMasks:
    """Two cells, stacked for grey images."""
    return NASNetMasks(
        channels=channels, cells=cells, image_size=SIZE if fashion(config) else 8, image_channels=1, classes=10
    )


def one_shot(config: Config) -> OneShot:
    """The supernet and its values."""
    recipe = dataclasses.replace(
        ONE_SHOT,
        epochs=config.epochs,
        passes=config.passes,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
    )
    supernet = NASNetSupernet(space(config, config.channels, config.cells))
    dataset = functools.partial(search_data, config)
    return OneShot(
        supernet,
        dataset,
        recipe,
        directory=config.supernet,
        recalibration=config.recalibration,
        per_device=-(-config.batch // jax.local_device_count()),
    )


def few_shot(config: Config, supernet: OneShot) -> FewShot:
    """Sub-supernets and their values."""
    recipe = dataclasses.replace(supernet.recipe, epochs=config.few_shot_epochs, learning_rate=config.learning_rate / 5)
    directory = None if config.supernet is None else config.supernet.with_name("few_shot")
    return FewShot(supernet, TreeSplit(config.depth), recipe, directory)


def build(config: Config) -> Experiment:
    """The search."""
    evaluator: Any = one_shot(config)
    if config.values == "few_shot":
        evaluator = few_shot(config, evaluator)
    masks = evaluator.supernet.space
    searcher = SEARCHERS[config.searcher](masks)
    return Experiment("fashion_one_shot", masks, searcher, evaluator, config.budget, config.batch, config.seed)


def final(config: Config, settings: Final, code: np.ndarray) -> FinalTraining:
    """The winner's training, from scratch or from extracted weights."""
    network = FinalNASNet(NASNet(space(config, settings.channels, settings.cells)), code, auxiliary=False)
    return FinalTraining(network, functools.partial(load_images, config), settings.recipe, seed=settings.seed)


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
    network = NASNet(measured.supernet.space)
    scratch = TrainConfig(settings.epochs, config.batch_size, settings.learning_rate)
    per_device = -(-config.batch // jax.local_device_count())
    return Ranking(estimates, FromScratch(network, search_data(config), scratch, per_device=per_device, plan="shared"))
