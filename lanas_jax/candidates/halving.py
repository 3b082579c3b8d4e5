"""Early stopping of poor candidates: successive halving within a batch, without restarts (arXiv 1502.07943).

All candidates of a batch train up to the first rung. The better ones continue to the next rung with their weights, and
so on. All follow the learning-rate schedule of the whole training. The value of a stopped candidate is its accuracy at
its last rung. This is lower than the accuracy of the candidates that continued, which were compared at the same step,
and lower than the accuracy after a whole training. So the value preserves the order within a batch but not the scale,
and trials of different batches are compared at different steps. Halving is off by default.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Int, Key

from lanas_jax.candidates.population import Results


@runtime_checkable
class CandidateTrainer(Protocol):
    """Trains candidates to the end or to a given step."""

    def train(
        self,
        codes: Int[np.ndarray, "n dims"],
        keys: Key[Array, " n"],
        until: int | None = None,
        states: Sequence[Any] | None = None,
    ) -> tuple[Results, Sequence[Any]]:
        """Trains as `lanas_jax.candidates.population.CompiledPopulation.train`; only it reads the states."""
        ...

    def run(self, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"]) -> Results:
        """Trains to the end and returns the results; states need not be copied to the host."""
        ...


@dataclasses.dataclass(frozen=True)
class Halving:
    """Settings of successive halving.

    Args:
      rungs: ascending fractions of the training steps after which candidates are compared.
      keep: fraction of the candidates that continues after each rung; at least one candidate continues.

    Raises:
      ValueError: a fraction is not between 0 and 1, or the rungs do not ascend.
    """

    rungs: tuple[float, ...] = (0.25, 0.5)
    keep: float = 0.5

    def __post_init__(self) -> None:
        if not self.rungs or not all(0 < a < b for a, b in zip(self.rungs, (*self.rungs[1:], 1.0), strict=True)):
            raise ValueError(f"rungs must ascend between 0 and 1; got {self.rungs}")
        if not 0 < self.keep < 1:
            raise ValueError(f"keep must be between 0 and 1; got {self.keep}")


def train_with_halving(
    trainer: CandidateTrainer,
    halving: Halving | None,
    total: int,
    codes: Int[np.ndarray, "n dims"],
    keys: Key[Array, " n"],
) -> Results:
    """Trains and evaluates a batch; with halving, only the best candidates are trained for all `total` steps.

    `Results.steps` holds the number of steps of each candidate.
    """
    if halving is None:
        return trainer.run(codes, keys)
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
    """Returns the indices of the better candidates of a rung, in ascending order; excludes non-finite losses."""
    finite = np.flatnonzero(np.isfinite(results.train_loss) & np.isfinite(results.loss))
    ranked = finite[np.argsort(-results.accuracy[finite], kind="stable")]
    return sorted(ranked[: math.ceil(keep * len(results.accuracy))].tolist())


def _merged(whole: Results, part: Results, rows: np.ndarray) -> Results:
    """Replaces some rows of the results by later ones; seconds are added."""

    def column(name: str, add: bool = False) -> np.ndarray:
        values, later = getattr(whole, name).copy(), getattr(part, name)
        values[rows] = values[rows] + later if add else later
        return values

    kept = {name: column(name) for name in ("accuracy", "loss", "steps", "train_loss")}
    return Results(**kept, compile_seconds=column("compile_seconds", add=True), seconds=whole.seconds + part.seconds)
