"""An experiment without any training, for tests of what surrounds a search: the value of a code is the sum of it.

On any machine: lanas search tests/toy_experiment.py
"""

import dataclasses

import lanas_jax as lx
from lanas_jax.study import Experiment

OPTIONS = {"a": (1, 2, 3, 4), "b": "xyz"}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings."""

    seed: int = 0
    budget: int = 4
    batch: int = 2


class Sum:
    """The sum of a code."""

    def evaluate(self, codes, keys):
        """One outcome per code."""
        return [self.outcome(code) for code in codes.tolist()]

    def outcome(self, code):
        """One outcome."""
        return lx.Outcome(float(sum(code)))


def space_of(options):
    """The space of named options."""
    return lx.SearchSpace([lx.Choice(name, some) for name, some in options.items()])


def build(config: Config) -> Experiment:
    """The search."""
    space = space_of(OPTIONS)
    return Experiment("toy", space, lx.RandomSearch(space), Sum(), config.budget, config.batch, config.seed)
