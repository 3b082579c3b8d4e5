"""The evaluator interface: codes in, outcomes out.

An evaluator turns architectures into values: by training them, by looking them up in a table, by masking a supernet. A
candidate that fails is an outcome with a reason, never an exception and never a zero.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Int, Key

from lanas_jax.spaces.base import SearchSpace


class NotPreparedError(Exception):
    """An evaluator that cannot value anything; says why, and what to do."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one trial gave.

    Attributes:
      value: what is maximised, or None where the trial failed.
      reason: why it failed, or None where it did not.
      multiply_adds: of one forward pass, or None where the space does not say.
      parameters: trainable parameters, or None where the space does not say.
      compile_seconds: this trial's share of the compilation its batch had to wait for.
      train_seconds: this trial's share of the wall-clock time its batch trained.
      steps: training steps taken, or None where there are none.
    """

    value: float | None
    reason: str | None = None
    multiply_adds: int | None = None
    parameters: int | None = None
    compile_seconds: float = 0.0
    train_seconds: float = 0.0
    steps: int | None = None

    @property
    def failed(self) -> bool:
        """Whether there is no value."""
        return self.value is None


@runtime_checkable
class Evaluator(Protocol):
    """Gives each code its value."""

    def evaluate(self, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"]) -> Sequence[Outcome]:
        """One outcome per code, in order.

        A trial's outcome depends on its code and key alone, not on its neighbours in the batch.

        Args:
          codes: ``int32[n, dims]``.
          keys: ``key[n]``, one per trial; consumed.
        """
        ...


@runtime_checkable
class Prepared(Protocol):
    """An evaluator that has work to do before its first evaluation, such as training a supernet."""

    def prepare(self, directory: Path, note: Callable[[str], None]) -> None:
        """Does that work, or the rest of it; later calls do nothing.

        Args:
          directory: of the run, where what is made is kept.
          note: is told how it gets on, a line now and then.

        Raises:
          NotPreparedError: it cannot be done; says why.
        """
        ...


@runtime_checkable
class PreparedInParts(Prepared, Protocol):
    """A `Prepared` evaluator whose work falls into parts that several processes can do at the same time."""

    def begin(self, directory: Path, note: Callable[[str], None]) -> int:
        """Does what all parts need, or reads it, and returns the number of parts.

        Raises:
          NotPreparedError: it cannot be done; says why.
        """
        ...

    def part(self, i: int, directory: Path, note: Callable[[str], None]) -> None:
        """Does part `i`, after `begin`; `prepare` then finds it done.

        Raises:
          NotPreparedError: it cannot be done; says why.
        """


def with_costs(space: SearchSpace, codes: Int[np.ndarray, "n dims"], outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Outcomes with multiply-adds and parameters, where the space knows them."""
    try:
        cost = space.cost(codes)
    except NotImplementedError:
        return list(outcomes)
    return [
        dataclasses.replace(outcome, multiply_adds=int(multiply_adds), parameters=int(parameters))
        for outcome, multiply_adds, parameters in zip(outcomes, *cost, strict=True)
    ]
