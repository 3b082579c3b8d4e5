"""The evaluator interface: codes in, outcomes out.

An evaluator turns architectures into values: it trains them, looks them up in a table, or masks a supernet. A candidate
that fails is an outcome with a reason, never an exception and never a zero.
"""

import dataclasses
import keyword
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Int, Key

from lanas_jax.runtime.arithmetic import transfers_allowed
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.storage.trial import Trial

RESERVED = {field.name for field in dataclasses.fields(Trial)} | {"accuracy", "checksum"}


class NotPreparedError(Exception):
    """An evaluator cannot value any code; the message states the cause and the remedy."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of one trial.

    Attributes:
      value: quantity to maximise, or None if the trial failed.
      reason: cause of the failure, or None if the trial succeeded.
      multiply_adds: multiply-adds of one forward pass, or None if the space does not know them.
      parameters: number of trainable parameters, or None if the space does not know it.
      compile_seconds: this trial's share of the compilation time of its batch, in seconds.
      train_seconds: this trial's share of the wall-clock training time of its batch, in seconds.
      steps: number of training steps, or None if the evaluator does not train.
      outcomes: other measured numbers by name, such as an energy, which may be objectives; the evaluator declares their
        names (`declared_outcomes`).
    """

    value: float | None
    reason: str | None = None
    multiply_adds: int | None = None
    parameters: int | None = None
    compile_seconds: float = 0.0
    train_seconds: float = 0.0
    steps: int | None = None
    outcomes: Mapping[str, float | None] = dataclasses.field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """True if the trial has no value."""
        return self.value is None


@runtime_checkable
class Evaluator(Protocol):
    """Assigns a value to each code.

    An evaluator that reports `Outcome.outcomes` has an attribute `outcomes`, a tuple of their names.
    """

    def evaluate(self, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"]) -> Sequence[Outcome]:
        """Returns one outcome per code, in order.

        The outcome of a trial depends on its code and key alone, not on the rest of the batch.

        Args:
          codes: architectures, ``int32[n, dims]``.
          keys: PRNG keys, ``key[n]``, one per trial; consumed.
        """
        ...


@runtime_checkable
class NamesValue(Protocol):
    """An evaluator that names its values for displays, such as "negative search-validation loss"."""

    @property
    def value_name(self) -> str:
        """The name of the values."""
        ...


@runtime_checkable
class Prepared(Protocol):
    """An evaluator that needs preparation before its first evaluation, such as training a supernet."""

    def prepare(self, directory: Path, note: Callable[[str], None]) -> None:
        """Runs the preparation or resumes it; later calls do nothing.

        Args:
          directory: folder of the run, where the results of the preparation are saved.
          note: callback that receives progress messages, one line each.

        Raises:
          NotPreparedError: the preparation failed; the message states the cause.
        """
        ...


@runtime_checkable
class PreparedInParts(Prepared, Protocol):
    """A `Prepared` evaluator whose preparation splits into parts that several processes can run concurrently."""

    def begin(self, directory: Path, note: Callable[[str], None]) -> int:
        """Runs the work shared by all parts, or reads its results, and returns the number of parts.

        Raises:
          NotPreparedError: the preparation failed; the message states the cause.
        """
        ...

    def part(self, i: int, directory: Path, note: Callable[[str], None]) -> None:
        """Runs part `i` after `begin`; `prepare` then reads its results.

        Raises:
          NotPreparedError: the preparation failed; the message states the cause.
        """


def declared_outcomes(evaluator: object) -> tuple[str, ...]:
    """Returns the names of the outcomes that an evaluator reports besides its value: its attribute `outcomes`, if any.

    Raises:
      ValueError: the attribute is not a sequence of names, or a name is not an identifier, is given twice, or belongs
        to another number of a trial.
    """
    names = getattr(evaluator, "outcomes", ())
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ValueError(f"the outcomes of an evaluator must be a sequence of names; got {names!r}")
    for i, name in enumerate(names):
        if not isinstance(name, str) or not name.isidentifier() or not name.islower() or keyword.iskeyword(name):
            raise ValueError(f"an outcome must have a lower-case name such as energy or peak_memory; got {name!r}")
        if name in RESERVED:
            raise ValueError(f"an outcome cannot be called {name!r}, since every trial has a field of that name")
        if name in names[:i]:
            raise ValueError(f"the outcome {name!r} is declared twice; declare each once")
    return tuple(names)


@transfers_allowed
def with_costs(space: SearchSpace, codes: Int[np.ndarray, "n dims"], outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Returns the outcomes with multiply-adds and parameters, if the space knows them."""
    try:
        cost = space.cost(codes)
    except NotImplementedError:
        return list(outcomes)
    return [
        dataclasses.replace(outcome, multiply_adds=int(multiply_adds), parameters=int(parameters))
        for outcome, multiply_adds, parameters in zip(outcomes, *cost, strict=True)
    ]
