r"""Fashion-MNIST by one supernet, which replaces the training of each candidate.

Source: section 5.2 of arXiv 1906.06832 at laptop scale: normal and reduction cell of five blocks, 1.35e20 masks,
evaluated in one trained supernet. Few-shot: arXiv 2006.06863. The images are Fashion-MNIST reduced to 7 x 7 pixels
(from Debian's package dataset-fashion-mnist or tensorflow-datasets), or scikit-learn's digits if neither is installed.

Measured on 2 cores of an AMD EPYC with jax 0.10.2 (24 November 2026): one supernet, and 500 of its masks for each of
five seeds and four searchers, took about 21 min (0.07 s per mask), partly on a busy machine::

    python -m lanas_jax.experiments.compare_searches fashion_one_shot --out runs/fashion --seeds 5 \
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

Few-shot: four sub-supernets for the leaves of a tree start from the supernet's weights and train for 8 more epochs. The
LaNAS search of seed 0 ends at 82.8 % with their values and at 80.8 % with the supernet's, after 8 min 25 s including
training::

    lanas search fashion_one_shot --values few_shot --supernet runs/fashion/supernet --out runs/few

The winner of LaNAS's seed 0 with 16 channels, trained from scratch for 10 epochs (3 min 9 s on a busy machine), has a
test accuracy of 87.0 %, and 87.1 % for the average of its weights::

    lanas extract runs/fashion/lanas-0
    lanas train runs/fashion/lanas-0

The supernet does not rank networks at this size. Results for 32 networks from the whole space, trained from scratch::

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

(95 % bootstrap intervals.) Random networks trained from scratch are nearly equal here: the standard error on 2,000
images is 0.8 points, more than the difference between networks. Measuring batch statistics for each mask raises values
by 27 points; the intervals do not show whether it improves the ranking. Effect of the number of training images used to
measure them (48 random masks,
``python -m lanas_jax.experiments.recalibration RUN --images 0 32 128 512 2048 --networks 48``)::

    images                         0 (running)    32     128     512     2048
    mean value                         48.6 %   73.7 %  75.1 %  75.2 %  75.2 %
    Spearman with that of 2,048         0.45     0.78    0.96    0.99    1

The comparison above therefore compares searchers on the same function. It does not show that the networks they find
are better after training.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

import numpy as np

import lanas_jax as lx
from lanas_jax.comparison.optuna_searcher import OptunaTPE
from lanas_jax.data import digits, fashion_mnist
from lanas_jax.data.splits import Dataset, SearchData
from lanas_jax.evaluators.few_shot import FewShot
from lanas_jax.evaluators.from_scratch import FromScratch
from lanas_jax.evaluators.one_shot import OneShot
from lanas_jax.models.nasnet import FinalNASNet, NASNet, NASNetSupernet
from lanas_jax.ranking.base import Ranking, supernet_estimates
from lanas_jax.runtime.devices import per_device_share
from lanas_jax.spaces.nasnet_masks import NASNetMasks
from lanas_jax.study import Experiment
from lanas_jax.supernet.regions import TreeSplit
from lanas_jax.supernet.training import ONE_SHOT
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import FinalTraining
from lanas_jax.training.sgd import TrainConfig

SEARCHERS = {
    "lanas": functools.partial(lx.LaNAS, capacity=512),
    "random": lx.RandomSearch,
    "evolution": lx.RegularizedEvolution,
    "tpe": OptunaTPE,
}
SIZE = 7  # pixels; the original images have 28


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the search.

    Attributes:
      seed: random seed of the search; supernets and data have separate seeds.
      budget: number of masks to evaluate.
      batch: number of masks asked for and evaluated together.
      searcher: search algorithm; tpe needs the extra `peers`.
      values: source of the values: one supernet, or sub-supernets for the leaves of a tree.
      supernet: folder of the trained supernet, which is trained there if missing; default: inside the run folder.
        Sub-supernets are in a sibling folder.
      images: data set: Fashion-MNIST, digits, or (auto) Fashion-MNIST if it is found and digits otherwise.
      data_dir: folder of Fashion-MNIST; default: TFDS_DATA_DIR, ~/tensorflow_datasets, LANAS_DATA, Debian's folder.
      train: number of training images of supernets.
      validation: number of search-validation images, on which masks are compared.
      recalibration: number of training images for measuring each mask's batch statistics.
      channels: channels of the first cell's blocks.
      cells: number of cells in the stack.
      epochs: number of training epochs of the supernet.
      passes: number of masks drawn per step.
      few_shot_epochs: number of epochs per sub-supernet, starting from the supernet's weights.
      depth: number of levels of the tree whose leaves have sub-supernets.
      batch_size: number of images per step.
      learning_rate: initial learning rate.
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
    """Settings of the winner training.

    Attributes:
      recipe: training recipe.
      channels: channels of the first cell's blocks; must equal the supernet's to start from extracted weights.
      cells: number of cells in the stack.
      seed: random seed.
    """

    recipe: Recipe = RECIPE
    channels: int = 16
    cells: int = 3
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Rank:
    """Settings of the trainings from scratch that supernet values are compared with.

    Attributes:
      epochs: number of training epochs.
      learning_rate: initial learning rate.
    """

    epochs: int = 4
    learning_rate: float = 0.05


def fashion(config: Config) -> bool:
    """Returns whether the images are those of Fashion-MNIST."""
    if config.images == "auto":
        return fashion_mnist.SOURCE.there(config.data_dir)
    return config.images == "fashion"


def load_images(config: Config, size: int | None = None) -> Dataset:
    """Loads the images; all digits are used."""
    if not fashion(config):
        return digits.load_digits()
    return fashion_mnist.load_fashion_mnist(
        config.data_dir, train=config.train, validation=config.validation, size=size or SIZE
    )


def search_data(config: Config) -> SearchData:
    """Returns the data that a search may use."""
    return load_images(config).search


def space(config: Config, channels: int, cells: int) -> NASNetMasks:
    """Returns the space of masks for grey images."""
    return NASNetMasks(
        channels=channels, cells=cells, image_size=SIZE if fashion(config) else 8, image_channels=1, classes=10
    )


def one_shot(config: Config) -> OneShot:
    """Returns the evaluator that values masks by one supernet."""
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
        per_device=per_device_share(config.batch),
    )


def few_shot(config: Config, supernet: OneShot) -> FewShot:
    """Returns the evaluator that values masks by sub-supernets."""
    recipe = dataclasses.replace(supernet.recipe, epochs=config.few_shot_epochs, learning_rate=config.learning_rate / 5)
    directory = None if config.supernet is None else config.supernet.with_name("few_shot")
    return FewShot(supernet, TreeSplit(config.depth), recipe, directory)


def build(config: Config) -> Experiment:
    """Returns the search experiment."""
    evaluator: Any = one_shot(config)
    if config.values == "few_shot":
        evaluator = few_shot(config, evaluator)
    masks = evaluator.supernet.space
    searcher = SEARCHERS[config.searcher](masks)
    return Experiment("fashion_one_shot", masks, searcher, evaluator, config.budget, config.batch, config.seed)


def final(config: Config, settings: Final, code: np.ndarray) -> FinalTraining:
    """Returns the winner training, from scratch or from extracted weights."""
    network = FinalNASNet(NASNet(space(config, settings.channels, settings.cells)), code, auxiliary=False)
    return FinalTraining(network, functools.partial(load_images, config), settings.recipe, seed=settings.seed)


def rank(config: Config, settings: Rank, directory: Path) -> Ranking:
    """Returns the comparison of supernet values with trainings from scratch of the same networks."""
    if config.supernet is None:
        config = dataclasses.replace(config, supernet=directory / "supernet")
    measured = one_shot(config)
    estimates = supernet_estimates(measured, functools.partial(few_shot, config))
    network = NASNet(measured.supernet.space)
    scratch = TrainConfig(settings.epochs, config.batch_size, settings.learning_rate)
    per_device = per_device_share(config.batch)
    return Ranking(
        estimates, FromScratch(network, search_data(config), scratch, per_device=per_device, strategy="shared")
    )
