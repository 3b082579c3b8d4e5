"""A ranking of a second: the value of a code is the number that its digits write, and estimates are off by some noise.

On any machine: lanas search tests/ranking/tiny_experiment.py, then lanas rank RUN

Each evaluator writes the codes that it evaluates into a file of the run directory, one a line, which tells what was
trained how often. With KILL=3 in the environment the process kills itself, as a power cut would, during its third
training from scratch.
"""

import dataclasses
import os
import signal
import time
from pathlib import Path

import numpy as np

import lanas_jax as lx
from lanas_jax.ranking import Ranking
from lanas_jax.spaces.base import Cost
from lanas_jax.study import Experiment

CHOICES = [lx.Choice(f"digit{i}", "0123") for i in range(4)]


class CostedSpace(lx.SearchSpace):
    """A space whose parameters rank exactly as the values, and whose multiply-adds do not."""

    def cost(self, codes):
        """Returns the number that the digits write, and their sum."""
        codes = np.asarray(codes, np.int64)
        return Cost(codes.sum(axis=1), codes @ 4 ** np.arange(3, -1, -1))


SPACE = CostedSpace(CHOICES)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the search."""

    seed: int = 0
    budget: int = 4


@dataclasses.dataclass(frozen=True)
class Rank:
    """Settings of the ranking."""

    noise: float = 0.1
    """Of the one-shot estimate."""
    fail_from: int = 4
    """Codes of a first digit of at least this cannot be trained."""
    pause: float = 0.0
    """Seconds that a training takes."""
    broken: str = ""
    """Of the parts: rank, prepare or truth."""


def number(code):
    """What a code is worth, in [0, 1): all codes differ."""
    return float(np.polyval(np.asarray(code, float), 4)) / 256


@dataclasses.dataclass(frozen=True)
class Supernet:
    """Is trained before its first evaluation; its estimates are noisy, the same for the same code."""

    settings: Rank
    weights: Path

    def prepare(self, directory, note):
        """Writes the weights."""
        if self.settings.broken == "prepare":
            raise ZeroDivisionError("no images")
        note("training a supernet")
        assert self.weights.parent == directory
        self.weights.write_text(self.weights.read_text() + "trained\n" if self.weights.exists() else "trained\n")

    def evaluate(self, codes, keys):
        """One outcome per code."""
        del keys
        assert self.weights.exists()
        return [lx.Outcome(number(code) + self.settings.noise * _normal(code)) for code in codes]


class Reverse:
    """Ranks exactly the wrong way round."""

    def evaluate(self, codes, keys):
        """One outcome per code."""
        del keys
        return [lx.Outcome(1.0 - number(code) ** 2) for code in codes]


@dataclasses.dataclass
class Trained:
    """Takes a while, and fails now and then."""

    settings: Rank
    log: Path
    count: int = 0

    def evaluate(self, codes, keys):
        """One outcome per code."""
        del keys
        return [self._one(code) for code in codes]

    def _one(self, code):
        self.count += 1
        if self.settings.broken == "truth":
            raise ZeroDivisionError("no steps")
        if os.environ.get("KILL") == str(self.count):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.settings.pause)
        with self.log.open("a") as file:
            file.write(",".join(map(str, code.tolist())) + "\n")
        if code[0] >= self.settings.fail_from:
            return lx.Outcome(None, "too large")
        return lx.Outcome(number(code), compile_seconds=0.25, train_seconds=0.5)


def _normal(code):
    return float(np.random.default_rng([int(digit) for digit in code]).normal())


def build(config: Config) -> Experiment:
    """The search."""
    return Experiment("tiny", SPACE, lx.RandomSearch(SPACE), Reverse(), config.budget, 4, config.seed)


def rank(config: Config, settings: Rank, directory: Path) -> Ranking:
    """The ranking."""
    del config
    if settings.broken == "rank":
        raise ZeroDivisionError("no supernet")
    supernet = Supernet(settings, directory / "supernet.txt")
    return Ranking({"one-shot": supernet, "the reverse": Reverse()}, Trained(settings, directory / "trained.txt"))
