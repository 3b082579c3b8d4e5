"""A search of milliseconds whose code does something odd at a moment: MOMENT="evaluate 2", ODDLY="sys.exit(3)".

Moments: build, prepare, ask, tell, evaluate, winner (a check before the search, then the winner training); the number
counts from 1 within a process.
"""

import collections
import dataclasses
import os
import signal
import sys

import lanas_jax as lx
from lanas_jax.study import Experiment
from lanas_jax.study.experiment import WinnerTraining
from lanas_jax.trainer.task import FinalTraining
from tests.quick_experiment import Watched
from tests.study.linear_winner import NETWORK, RECIPE
from tests.trainer import tiny_experiment as tiny

SPACE = lx.SearchSpace([lx.Choice(f"op{i}", "abcd") for i in range(3)])
ODD = {"os": os, "sys": sys, "signal": signal}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings."""

    seed: int = 0


class Moments(collections.Counter):
    """Counts moments, and does what the environment says at the one that it names."""

    def passing(self, name):
        self[name] += 1
        if os.environ.get("MOMENT") == f"{name} {self[name]}":
            exec(os.environ["ODDLY"], ODD)


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """The mean of a code's integers, and moments."""

    moments: Moments

    def prepare(self, directory, note):
        self.moments.passing("prepare")
        (directory / "prepared").write_text("")

    def evaluate(self, codes, keys):
        self.moments.passing("evaluate")
        return [lx.Outcome(float(code.mean())) for code in codes]


def build(config: Config) -> Experiment:
    """The search."""
    moments = Moments()
    moments.passing("build")

    def dataset():
        moments.passing("winner")
        return tiny.dataset(tiny.Config())

    def final(config, settings, code):
        return FinalTraining(NETWORK, dataset, RECIPE, seed=int(code.sum()))

    winner = WinnerTraining(final, config)
    return Experiment(
        "left", SPACE, Watched(lx.RandomSearch(SPACE), moments), Evaluator(moments), 6, 2, config.seed, winner
    )
