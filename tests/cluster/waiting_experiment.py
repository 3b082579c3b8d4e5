"""Trials that wait, and some that go wrong, for the tests of clusters.

A value is made of the code and the key alone; what else happens is written down in files of a folder.
"""

import dataclasses
import os
import time
from pathlib import Path

import jax
import numpy as np

import lanas_jax as lx
from lanas_jax.study import Experiment
from lanas_jax.study.experiment import WinnerTraining
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import FinalTraining
from tests.trainer import tiny_experiment
from tests.trainer.linear_network import LinearNetwork
from tests.trainer.tiny_experiment import dataset

SPACE = lx.SearchSpace([lx.Choice(f"op{i}", "abcd") for i in range(4)])


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings."""

    seed: int = 0
    """Of everything random."""
    budget: int = 12
    """Trials in all."""
    pause: float = 0.1
    """Seconds that a trial takes."""
    log: Path = Path("log")
    """A folder: one file for each evaluation begun."""
    deadly: int = -1
    """Trials whose first choice is this one kill their worker."""
    slow: int = -1
    """Trials whose first choice is this one take a minute."""
    wrong: bool = False
    """Whether outcomes are none."""
    raising: bool = False
    """Whether each evaluation raises an error."""
    needs: Path | None = None
    """A file without which the experiment does not build in a worker."""


@dataclasses.dataclass(frozen=True)
class Waiting:
    """Waits, then gives each code its value."""

    config: Config

    def evaluate(self, codes, keys):
        """One outcome per code."""
        return [self._one(code.tolist(), key) for code, key in zip(codes, keys, strict=True)]

    def _one(self, code, key):
        words = np.asarray(jax.random.key_data(key)).tolist()
        (self.config.log / f"{'-'.join(map(str, code))} {os.getpid()} {time.time_ns()}").touch()
        if code[0] == self.config.deadly:
            os._exit(1)
        time.sleep(60 if code[0] == self.config.slow else self.config.pause)
        if self.config.raising:
            raise ArithmeticError("no such luck")
        if self.config.wrong:
            return "high"
        return lx.Outcome(value(code, words), train_seconds=self.config.pause)


def value(code, words):
    """Of a code and the raw words of its key."""
    return -float(np.abs(np.array(code) - 1).sum()) + words[-1] % 1000 / 10_000


def final(config, settings, code) -> FinalTraining:
    """A linear network for patches."""
    recipe = Recipe(1, 12, ema=None, drop_path=0.0, train_on="train")
    network = LinearNetwork(auxiliary=False)
    return FinalTraining(network, lambda: dataset(tiny_experiment.Config()), recipe, seed=int(code.sum()))


def build(config: Config) -> Experiment:
    """The experiment."""
    if config.needs is not None and not config.needs.exists() and "default_worker" in " ".join(os.sys.argv):
        raise FileNotFoundError(f"there is no {config.needs}")

    searcher = lx.LaNAS(SPACE, initial=5)
    winner = WinnerTraining(final, config)
    return Experiment("waiting", SPACE, searcher, Waiting(config), config.budget, 4, config.seed, winner)
