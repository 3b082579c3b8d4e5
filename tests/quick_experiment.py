"""A search that takes seconds: random-feature networks that tell two moons apart, for the tests of the command line.

On any machine: lanas search tests/quick_experiment.py

With KILL="evaluate 3" in the environment the process kills itself, as a power cut would, in the middle of the third
evaluation of its life; "ask 2", "tell 2" and "winner 1" are other such moments.
"""

import dataclasses
import functools
import os
import signal
import time

import jax
import numpy as np

import lanas_jax as lx
from lanas_jax.data.splits import Dataset, SearchData, Split
from lanas_jax.study import Experiment
from lanas_jax.study.experiment import WinnerTraining
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import FinalTraining

ACTIVATIONS = {"identity": lambda x: x, "absolute": np.abs, "tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}
SPACE = lx.SearchSpace(
    [
        lx.Choice("width", (2, 4, 8, 16)),
        lx.Choice("depth", (1, 2, 3)),
        lx.Choice("activation", ("identity", "absolute", "tanh", "relu")),
        lx.Choice("ridge", (0.001, 0.1, 10.0)),
    ]
)


SEARCHERS = {"random": lx.RandomSearch, "lanas": functools.partial(lx.LaNAS, initial=8)}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings."""

    seed: int = 0
    """Of everything random."""
    budget: int = 24
    """Trials in all."""
    batch: int = 4
    """Trials at a time."""
    pause: float = 0.0
    """Seconds to wait in each trial, so that there is time to interrupt it."""
    searcher: str = "random"
    """random or lanas."""
    fail_below: int = 0
    """Widths below this number fail."""
    winner_epochs: int = 0
    """Passes of the winner training; 0 for no such training."""


@dataclasses.dataclass
class Killer:
    """Kills the process at the moment that KILL names."""

    moment: str = dataclasses.field(default_factory=lambda: os.environ.get("KILL", ""))
    counts: dict[str, int] = dataclasses.field(default_factory=dict)

    def passing(self, what: str) -> None:
        """Called at each moment."""
        self.counts[what] = self.counts.get(what, 0) + 1
        if self.moment == f"{what} {self.counts[what]}":
            os.kill(os.getpid(), signal.SIGKILL)


@dataclasses.dataclass(frozen=True)
class Watched:
    """A searcher with a killer beside it."""

    searcher: object
    killer: Killer

    @property
    def space(self):
        """What is searched."""
        return self.searcher.space

    def init(self, key):
        """The searcher's."""
        return self.searcher.init(key)

    def ask(self, state, n):
        """After the searcher has answered, before the answer is recorded."""
        answer = self.searcher.ask(state, n)
        self.killer.passing("ask")
        return answer

    def tell(self, state, codes, values):
        """After the values were recorded, before the searcher is told."""
        self.killer.passing("tell")
        return self.searcher.tell(state, codes, values)


@dataclasses.dataclass(frozen=True)
class RandomFeatures:
    """Hidden layers drawn from the trial's key, a readout by ridge regression, accuracy on points held out."""

    config: Config
    killer: Killer

    def evaluate(self, codes, keys):
        """One outcome per code."""
        outcomes = []
        for code, key in zip(codes, keys, strict=True):
            outcomes.append(self._one(code, key))
            self.killer.passing("evaluate")
        return outcomes

    def _one(self, code, key):
        began = time.perf_counter()
        time.sleep(self.config.pause)
        width, depth, activation, ridge = (choice.options[i] for choice, i in zip(SPACE.choices, code, strict=True))
        if int(width) < self.config.fail_below:
            return lx.Outcome(None, f"width {width} is too small")
        hidden, labels = two_moons(400)
        draw = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        for _ in range(int(depth)):
            hidden = ACTIVATIONS[activation](hidden @ draw.normal(size=(hidden.shape[1], int(width))))
        train, held_out = hidden[::2], hidden[1::2]
        readout = np.linalg.solve(train.T @ train + float(ridge) * np.eye(int(width)), train.T @ labels[::2])
        return lx.Outcome(
            float(np.mean(np.sign(held_out @ readout) == labels[1::2])),
            multiply_adds=int(width) * (3 + int(width) * (int(depth) - 1)),
            parameters=int(width),
            train_seconds=time.perf_counter() - began,
        )


def two_moons(n):
    """Points on two interleaved half circles, a constant beside them, and which circle they are on, -1 or 1."""
    angle, upper = np.pi * np.arange(n) / n, np.arange(n) // 2 % 2
    x, y = np.cos(angle) * (2 * upper - 1) + upper, np.sin(angle) * (2 * upper - 1)
    return np.stack([x, y, np.ones(n)], axis=1), 2 * upper - 1


@dataclasses.dataclass(frozen=True)
class Readout:
    """A linear readout of the points themselves."""

    space: lx.SearchSpace = SPACE

    def init(self, key):
        """Random parameters, and no statistics."""
        return {"kernel": jax.random.normal(key, (3, 2))}, {}

    def apply(self, params, batch_stats, images, *, train, key, drop_path):
        """Logits of the two circles."""
        return images.reshape(len(images), 3) @ params["kernel"], None, batch_stats


def dataset(killer):
    """The moons as images of one pixel with three channels."""
    killer.passing("winner")
    points, labels = two_moons(120)
    images, labels = points[:, None, None].astype(np.float32), (labels > 0).astype(np.int32)
    train, validation, test = (Split(images[i::3], labels[i::3]) for i in range(3))
    return Dataset(SearchData(train, validation, 2), test)


def build(config: Config) -> Experiment:
    """The experiment."""
    if config.searcher not in SEARCHERS:
        raise ValueError(f"searcher must be random or lanas; got {config.searcher!r}")

    killer = Killer()

    def winner(config, settings, code):
        recipe = Recipe(
            config.winner_epochs,
            8,
            ema=None,
            drop_path=0.0,
            train_on="train",
            steps_per_dispatch=5,
            checkpoint_seconds=0,
        )
        return FinalTraining(Readout(), lambda: dataset(killer), recipe, seed=int(code.sum()))

    return Experiment(
        name="quick_experiment",
        space=SPACE,
        searcher=Watched(SEARCHERS[config.searcher](SPACE), killer),
        evaluator=RandomFeatures(config, killer),
        budget=config.budget,
        batch=config.batch,
        seed=config.seed,
        winner=WinnerTraining(winner, config) if config.winner_epochs else None,
    )
