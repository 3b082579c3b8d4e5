"""Early stopping of hopeless candidates: successive halving within a batch, weights kept (arXiv 1502.07943).

All candidates of a batch train up to the first rung, the better ones go on from there to the next, and so on; all
follow the schedule of the whole training. A candidate that was stopped keeps the accuracy it had: a lower one than that
of the candidates that went on, as all were compared at the same step, and a lower one than it would have reached. So
its value tells order, not height, and trials of different batches are compared at different steps. It is off unless
asked for.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Int, Key

from lanas_jax.candidates.population import Results
from lanas_jax.candidates.step import TrainState


@runtime_checkable
class Trainer(Protocol):
    """Trains candidates, all the way or a part of it."""

    def train(
        self,
        codes: Int[np.ndarray, "n dims"],
        keys: Key[Array, " n"],
        until: int | None = None,
        states: Sequence[TrainState] | None = None,
    ) -> tuple[Results, Sequence[TrainState]]:
        """As `lanas_jax.candidates.population.CompiledPopulation.train`."""
        ...


@dataclasses.dataclass(frozen=True)
class Halving:
    """When candidates are stopped, and how many.

    Args:
      rungs: shares of the training, ascending, after which candidates are compared.
      keep: share of the candidates that goes on at each rung, at least one.

    Raises:
      ValueError: shares that are not between 0 and 1, or do not ascend.
    """

    rungs: tuple[float, ...] = (0.25, 0.5)
    keep: float = 0.5

    def __post_init__(self) -> None:
        if not self.rungs or not all(0 < a < b for a, b in zip(self.rungs, (*self.rungs[1:], 1.0), strict=True)):
            raise ValueError(f"rungs must ascend between 0 and 1; got {self.rungs}")
        if not 0 < self.keep < 1:
            raise ValueError(f"keep must be between 0 and 1; got {self.keep}")


def train(
    trainer: Trainer,
    halving: Halving | None,
    total: int,
    codes: Int[np.ndarray, "n dims"],
    keys: Key[Array, " n"],
) -> Results:
    """Trains and evaluates a batch, `total` steps each; with halving, only the best are trained so far.

    `Results.steps` tells how far each got.
    """
    if halving is None:
        return trainer.train(codes, keys)[0]
    rungs = [math.ceil(share * total) for share in halving.rungs]
    going = np.arange(len(codes))
    whole, states = trainer.train(codes, keys, rungs[0])
    latest = whole
    for until in (*rungs[1:], total):
        better = _better(latest, halving.keep)
        if not better:
            break
        going, states = going[better], [states[i] for i in better]
        latest, states = trainer.train(codes[going], keys[going], until, states)
        whole = _merged(whole, latest, going)
    return whole


def _better(results: Results, keep: float) -> list[int]:
    """The better share of a rung, in their order; never one whose loss is not finite."""
    sound = np.flatnonzero(np.isfinite(results.train_loss) & np.isfinite(results.loss))
    ranked = sound[np.argsort(-results.accuracy[sound], kind="stable")]
    return sorted(ranked[: math.ceil(keep * len(results.accuracy))].tolist())


def _merged(whole: Results, part: Results, rows: np.ndarray) -> Results:
    """All results, those of some rows replaced by later ones; seconds add up."""

    def column(name: str, add: bool = False) -> np.ndarray:
        values, later = getattr(whole, name).copy(), getattr(part, name)
        values[rows] = values[rows] + later if add else later
        return values

    kept = {name: column(name) for name in ("accuracy", "loss", "steps", "train_loss")}
    return Results(**kept, compile_seconds=column("compile_seconds", add=True), seconds=whole.seconds + part.seconds)
