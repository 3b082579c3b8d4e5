"""What goes wrong in an evaluator: errors that become outcomes, and evaluators that do nothing but raise.

A candidate for which the evaluator raises has failed, which is a result. An evaluator that raises for one candidate
after the other is broken, which is not.
"""

import traceback
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Array, Int, Key

from lanas_jax.evaluators.base import Evaluator, Outcome

HOPELESS = 8  # trials in a row for which the evaluator raised, after which it counts as broken
RAISED = "the evaluator raised"


class BrokenEvaluatorError(Exception):
    """An evaluator that only raises."""


class RemoteError(Exception):
    """What an evaluator raised in another process, in words already."""


class Failures:
    """Tells a bad candidate, which is a result, from an evaluator that only raises: that one is broken."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def judged(self, outcomes: Sequence[Outcome | Exception]) -> list[Outcome]:
        """Outcomes told together, errors as failures.

        Raises:
          BrokenEvaluatorError: an error for each of these and those before, `HOPELESS` of them or more. These stay
            pending.
        """
        errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        self._in_a_row = self._in_a_row + len(errors) if len(errors) == len(outcomes) else 0
        if self._in_a_row >= HOPELESS:
            raise BrokenEvaluatorError(
                f"the evaluator raised an error for each of the last {self._in_a_row} trials: "
                f"{describe_error(errors[-1])}. The last {len(outcomes)} stay pending"
            ) from errors[-1]
        return [_failure(outcome) if isinstance(outcome, Exception) else outcome for outcome in outcomes]


def outcomes_or_errors(
    evaluator: Evaluator, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"]
) -> list[Outcome | Exception]:
    """Outcomes; where the evaluator raises, each code is tried alone, so that an error hits only who causes it."""
    try:
        return list(evaluator.evaluate(codes, keys))
    except Exception as error:
        if len(codes) == 1:
            return [error]
    return [outcomes_or_errors(evaluator, codes[i : i + 1], keys[i : i + 1])[0] for i in range(len(codes))]


def describe_error(error: BaseException) -> str:
    """An error in one line, with the place it came from."""
    if isinstance(error, RemoteError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def _failure(error: Exception) -> Outcome:
    return Outcome(None, f"{RAISED} {describe_error(error)}")
