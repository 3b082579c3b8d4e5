"""The ask/tell interface that every searcher follows.

A searcher is a frozen dataclass of hyper-parameters, of which those that change no shape are inputs of its compiled
programs rather than constants in them; everything it learns is in a state, a pytree of fixed-capacity
arrays::

    state = searcher.init(key)
    state, codes = searcher.ask(state, n)           # int32[n, dims], never asked or told before
    state = searcher.tell(state, codes, values)     # float32[n]; NaN: the trial failed

Where fewer than `n` codes are left, `ask` fills up with rows of -1. Its codes are pending until `tell` closes
them; `tell` also takes in results from elsewhere. The state is a function of the searcher, the key and the ordered asks
and tells, which is what makes a killed run resumable.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

from jaxtyping import Array, Int, PRNGKeyArray

from lanas_jax.runtime.pytrees import register_config
from lanas_jax.spaces.base import Codes, SearchSpace, Values

State = TypeVar("State")
Class = TypeVar("Class", bound=type)


def register(*numbers: str) -> Callable[[Class], Class]:
    """Registers a searcher as a pytree, whose pool and numbers are inputs of a compiled program.

    Searchers of one kind and space that differ in these numbers alone share one compiled `ask` and one compiled `tell`.

    Args:
      numbers: names of the hyper-parameters that change no shape; all others are static under `jax.jit`.
    """
    return register_config(data=("pool", *numbers))


@runtime_checkable
class Searcher(Protocol[State]):
    """Proposes codes and learns from their values."""

    @property
    def space(self) -> SearchSpace:
        """The space that is searched."""
        ...

    def init(self, key: PRNGKeyArray) -> State:
        """The state before the first trial. The key is consumed."""
        ...

    def ask(self, state: State, n: int) -> tuple[State, Int[Array, "n dims"]]:
        """`n` valid canonical codes to try next, none of them asked or told before; rows of -1 when none are left."""
        ...

    def tell(self, state: State, codes: Codes, values: Values) -> State:
        """Takes in what trials gave: the value to maximise, or NaN for a failed trial."""
        ...
