"""Values that a Python function returns, called with the options of a code by name.

The function is called as ``objective(width=32, depth=2)``, with the names of the choices as keywords. So it has an
ordinary signature, can be called in the same way without a search, and a name that it does not take is found before
the first trial. Inactive choices are left out, so that the function's defaults apply. A function for choices whose
names are not identifiers takes ``**options``.
"""

import dataclasses
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Int, Key

from lanas_jax.evaluators.base import NotPreparedError, Outcome, declared_outcomes, with_costs
from lanas_jax.evaluators.faults import NOT_ASYNC
from lanas_jax.runtime.errors import is_coroutine
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.storage.plain import plain_count, plain_float

COSTS = ("multiply_adds", "parameters", "steps")  # what a dictionary may have besides the value


@dataclasses.dataclass(frozen=True, eq=False)
class FromFunction:
    """Calls a function with the options of each code.

    Args:
      space: search space of the codes.
      objective: function called with the options of a code as keywords. It returns the value to maximize, a number; NaN
        marks a failure. Or it returns a dictionary with `value`, any of `multiply_adds`, `parameters` and `steps`, and
        the numbers named in `outcomes`, each under its own key.
      outcomes: names of other numbers that the dictionary has, such as ``energy``; objectives of a search may be among
        them.

    Raises:
      ValueError: the objective is not callable, or cannot be called with the options of every code; or a name of an
        outcome cannot be used.
    """

    space: SearchSpace
    objective: Callable[..., Any]
    outcomes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        declared_outcomes(self)
        if not callable(self.objective):
            raise ValueError(f"the objective must be a function; got {self.objective!r}")
        try:
            signature = inspect.signature(self.objective)
        except (TypeError, ValueError):  # a function written in C may not have one
            return
        names = [choice.name for choice in self.space.choices]
        always = [choice.name for choice in self.space.choices if not choice.when]
        for some, which in ((names, "the options"), (always, "only the options that every code has,")):
            try:
                signature.bind(**dict.fromkeys(some))
            except TypeError as error:
                raise ValueError(
                    f"the objective cannot be called with {which} {', '.join(some)}: {error}. Give it an argument per "
                    f"choice of the space, with a default if the choice has conditions, or **options"
                ) from error

    def evaluate(self, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"]) -> Sequence[Outcome]:
        """Returns one outcome per code, from one call of the function each.

        Raises:
          NotPreparedError: the function returned a dictionary without a value or with other numbers.
          Exception: any exception of the function; ValueError if it returned no number, or lacks one of `outcomes`.
        """
        return [self._outcome(code) for code in codes]

    def _outcome(self, code: Int[np.ndarray, " dims"]) -> Outcome:
        began = time.perf_counter()
        returned = self.objective(**self.space.options(code))
        if is_coroutine(returned):
            raise NotPreparedError(f"the objective is an async function: {NOT_ASYNC}")
        results = self._results(returned) if isinstance(returned, Mapping) else {"value": returned}
        if results["value"] is None:
            raise ValueError("the objective returned None; expected a number")
        if missing := [name for name in self.outcomes if name not in results and name not in self.space.cost_names]:
            raise ValueError(f"the objective returned no {missing[0]!r}: return a dictionary with it")
        for name, number in results.items():  # waits for arrays on a device
            plain = plain_count if name in COSTS else plain_float
            results[name] = plain(f"the objective's {name}", number)
        seconds = time.perf_counter() - began
        (outcome,) = with_costs(self.space, code[None], [Outcome(None, train_seconds=seconds)])
        measured = {name: results.pop(name) for name in self.outcomes if name in results}
        return dataclasses.replace(outcome, **results, outcomes=measured)

    def _results(self, returned: Mapping[str, Any]) -> dict[str, Any]:
        """Checks a dictionary that the objective returned."""
        allowed = (*COSTS, *self.outcomes)
        others = [name for name in returned if name not in ("value", *allowed)]
        if "value" not in returned or others:
            what = f"the key {others[0]!r}" if others else "no key 'value'"
            raise NotPreparedError(
                f"the objective returned a dictionary with {what}; expected 'value', the number to maximize, and any "
                f"of {', '.join(allowed)}. A search for several objectives needs their names: objectives=(...)"
            )
        return dict(returned)
