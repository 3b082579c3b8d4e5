"""The ask/tell interface that every searcher follows.

A searcher is a frozen dataclass of hyper-parameters. Hyper-parameters that change no array shape are inputs of its
compiled programs rather than constants. Everything the searcher learns is in its state, a pytree of fixed-capacity
arrays::

    state = searcher.init(key)
    state, codes = searcher.ask(state, n)           # int32[n, dims], never asked or told before
    state = searcher.tell(state, codes, values)     # float32[n]; NaN: the trial failed

If fewer than `n` codes are left, `ask` pads its result with rows of -1. The returned codes are pending until `tell`
records their values; `tell` also accepts codes that were never asked for. The state is a function of the searcher, the
key and the ordered asks and tells, so a killed run can be resumed by replay.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

from jaxtyping import Array, Int, PRNGKeyArray

from lanas_jax.runtime.arithmetic import in_32_bits, nan_is_data
from lanas_jax.runtime.pytrees import register_config
from lanas_jax.spaces.base import Codes, SearchSpace, Values

State = TypeVar("State")
Class = TypeVar("Class", bound=type)
METHODS = ("init", "ask", "tell")


def register(*numbers: str) -> Callable[[Class], Class]:
    """Registers a searcher class as a pytree whose pool and `numbers` are inputs of a compiled program.

    Searchers of one class and space that differ only in these numbers share one compiled `ask` and one compiled `tell`.
    Its methods run in 32 bits and treat NaN as data, regardless of JAX's settings.

    Args:
      numbers: names of the hyper-parameters that change no array shape; all others are static under `jax.jit`.
    """

    def decorate(cls: Class) -> Class:
        for name in METHODS:
            setattr(cls, name, in_32_bits(nan_is_data(getattr(cls, name))))
        return register_config(data=("pool", *numbers))(cls)

    return decorate


@runtime_checkable
class Searcher(Protocol[State]):
    """Proposes codes and learns from their values."""

    @property
    def space(self) -> SearchSpace:
        """The search space."""
        ...

    def init(self, key: PRNGKeyArray) -> State:
        """Returns the state before the first trial. Consumes the key."""
        ...

    def ask(self, state: State, n: int) -> tuple[State, Int[Array, "n dims"]]:
        """Returns `n` valid canonical codes that were never asked or told before; rows of -1 when none are left.

        Raises:
          ValueError: if `n` is not a whole number, or is negative.
        """
        ...

    def tell(self, state: State, codes: Codes, values: Values) -> State:
        """Records the results of trials: the value to maximise, or NaN for a failed trial.

        Raises:
          ValueError: if a code is out of range, or the number of values differs from the number of codes.
        """
        ...
