"""A search in a small space of NASNet cells whose values follow from the codes, for the tests of fronts."""

import dataclasses

import numpy as np

import lanas_jax as lx
from lanas_jax.evaluators.base import Outcome, with_costs
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.study import Experiment


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings."""

    seed: int = 0
    """Of everything random."""
    budget: int = 4
    """Trials in all."""
    objectives: str = "accuracy"
    """Names with commas."""
    max_multiply_adds: int | None = None
    """Limit."""
    scale: float = 1.0
    """Of values."""


class Evaluator:
    """Values codes by their operations."""

    def __init__(self, space, scale):
        self.space, self.scale = space, scale

    def evaluate(self, codes, keys):
        return with_costs(self.space, codes, [Outcome(float(np.mean(code[:4] % 3) / 2 * self.scale)) for code in codes])


def build(config):
    """Returns the experiment."""
    space = NASNetSpace(2, channels=4, cells=3, image_size=8, max_multiply_adds=config.max_multiply_adds)
    names = tuple(config.objectives.split(",")) if "," in config.objectives else ()
    searcher = lx.RandomSearch(space, objectives=max(len(names), 1))
    return Experiment(
        "small", space, searcher, Evaluator(space, config.scale), config.budget, 4, config.seed, objectives=names
    )
