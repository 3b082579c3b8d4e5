"""A search of seconds by the supernet of linear layers, with a final training, and a ranking.

On any machine: lanas search tests/supernet/linear_experiment.py
"""

import dataclasses
import functools
from pathlib import Path

import lanas_jax as lx
from lanas_jax.data.streams import StreamedDataset
from lanas_jax.evaluators.few_shot import FewShot
from lanas_jax.evaluators.from_scratch import FromScratch
from lanas_jax.evaluators.one_shot import OneShot
from lanas_jax.export.teachers import read_teacher
from lanas_jax.ranking.base import Ranking
from lanas_jax.study import Experiment
from lanas_jax.supernet.regions import OptionSplit
from lanas_jax.supernet.sandwich import Sandwich
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import FinalTraining
from lanas_jax.training.sgd import TrainConfig
from tests.supernet.linear_supernet import (
    CLASSES,
    RECIPE,
    SCALING,
    SIDE,
    LinearPart,
    LinearSupernet,
    VariedSupernet,
    dataset,
)  # fmt: skip
from tests.trainer.tiny_stream import Evaluation, Training

ENDS = (0, 1), (2, 1)  # of the sandwich


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the search.

    Attributes:
      seed: of the search.
      values: one_shot, few_shot, random, which needs no supernet, or varied: a sandwich of several programs on streamed
        images.
      epochs: of the supernet.
      supernet: its folder; default: in the run's.
    """

    seed: int = 0
    values: str = "one_shot"
    epochs: int = 4
    supernet: Path | None = None


@dataclasses.dataclass(frozen=True)
class Final:
    """Settings of the final training.

    Attributes:
      recipe: how it is trained.
      teacher: folder of an extracted network whose predictions are targets, too.
    """

    recipe: Recipe = dataclasses.field(default=RECIPE)
    teacher: str | None = None


@dataclasses.dataclass(frozen=True)
class Rank:
    """Settings of the ranking."""

    epochs: int = 2


def streamed() -> StreamedDataset:
    """The images of `dataset` as streams."""
    data = dataset()
    splits = Training(data.search.train), Evaluation(data.search.validation), Evaluation(data.test)
    return StreamedDataset(*splits, CLASSES, (SIDE, SIDE, 1), SCALING)


class Anything:
    """Values every code alike."""

    def evaluate(self, codes, keys):
        """One outcome per code."""
        del keys
        return [lx.Outcome(0.5) for _ in codes]


class Whole(LinearSupernet):
    """The supernet as a network whose every code is trained from scratch."""

    def init(self, key, code):
        """All weights; those of the code are trained."""
        del code
        return super().init(key)


def one_shot(config: Config) -> OneShot:
    """The supernet."""
    recipe = dataclasses.replace(RECIPE, epochs=config.epochs, checkpoint_seconds=0.0)
    valuing = {"directory": config.supernet, "recalibration": 48, "batch_size": 16}
    if config.values == "varied":
        return OneShot(VariedSupernet(), streamed, recipe, sandwich=Sandwich(*ENDS), **valuing)
    return OneShot(LinearSupernet(), lambda: dataset().search, recipe, **valuing)


def build(config: Config) -> Experiment:
    """The search."""
    evaluator = Anything() if config.values == "random" else one_shot(config)
    if config.values == "few_shot":
        evaluator = FewShot(evaluator, OptionSplit("second"), RECIPE)
    space = LinearSupernet().space
    return Experiment("linear", space, lx.RandomSearch(space), evaluator, budget=6, batch=3, seed=config.seed)


def final(config: Config, settings: Final, code) -> FinalTraining:
    """The training of one network."""
    images = streamed if config.values == "varied" else dataset
    training = FinalTraining(LinearPart(tuple(int(i) for i in code)), images, settings.recipe)
    return training if settings.teacher is None else training.taught(read_teacher(settings.teacher), 0.5)


def rank(config: Config, settings: Rank, directory: Path) -> Ranking:
    """The supernet's values against trainings from scratch."""
    config = dataclasses.replace(config, supernet=config.supernet or directory / "supernet")
    scratch = TrainConfig(settings.epochs, batch_size=12)
    load = functools.cache(dataset)
    return Ranking({"one-shot": one_shot(config)}, FromScratch(Whole(), load().search, scratch, strategy="shared"))
