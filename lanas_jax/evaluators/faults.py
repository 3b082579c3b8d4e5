"""Errors of evaluators: exceptions that become outcomes, and evaluators that raise for every candidate.

If the evaluator raises for one candidate, that candidate has failed, which is a result. If the evaluator raises for
one candidate after another, the evaluator is broken, and the search stops. If the evaluator calls ``sys.exit``, the
search stops at once, and the trials stay pending.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Int, Key

from lanas_jax.evaluators.base import Evaluator, Outcome
from lanas_jax.runtime.errors import explain_error, place_of

HOPELESS = 8  # consecutive trials with an exception after which the evaluator counts as broken
RAISED = "the evaluator raised"


class BrokenEvaluatorError(Exception):
    """An evaluator raises for every candidate."""


class EvaluatorExitError(Exception):
    """An evaluator called ``sys.exit``, which would end the search without a word."""


class RemoteError(Exception):
    """An exception raised by an evaluator in another process, already formatted as text."""


class Failures:
    """Distinguishes a failed candidate, which is a result, from a broken evaluator, which raises every time."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def judged(self, outcomes: Sequence[Outcome | Exception]) -> list[Outcome]:
        """Converts the errors of a batch to failed outcomes.

        Raises:
          BrokenEvaluatorError: the evaluator raised for at least `HOPELESS` consecutive trials, including the whole
            batch. The trials of the batch stay pending.
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
    """Returns outcomes; if the batch raises, evaluates each code alone, so that only the faulty codes fail.

    Raises:
      EvaluatorExitError: the evaluator called ``sys.exit``.
    """
    try:
        return list(evaluator.evaluate(codes, keys))
    except SystemExit as error:
        raise EvaluatorExitError(f"the evaluator called {describe_error(error)}; its trials stay pending") from error
    except Exception as error:
        if len(codes) == 1:
            return [error]
    return [outcomes_or_errors(evaluator, codes[i : i + 1], keys[i : i + 1])[0] for i in range(len(codes))]


def describe_error(error: BaseException) -> str:
    """Formats an error in one line, with the file and line that raised it."""
    if isinstance(error, RemoteError):
        return str(error)
    place = place_of(error)
    return explain_error(error) + (f" ({place})" if place else "")


def _failure(error: Exception) -> Outcome:
    return Outcome(None, f"{RAISED} {describe_error(error)}")
