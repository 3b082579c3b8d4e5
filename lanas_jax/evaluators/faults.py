"""Errors of evaluators: exceptions and malformed outcomes that fail a trial, and evaluators that fail every trial.

If the evaluator raises for one candidate, that candidate has failed, which is a result. If the evaluator raises for
one candidate after another, the evaluator is broken, and the search stops. The same holds for malformed outcomes:
objects of another type, or numbers that the trials file cannot hold. If the evaluator calls ``sys.exit`` or raises
another exception that is not an `Exception`, the search stops at once, and the trials stay pending.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Array, Int, Key

from lanas_jax.evaluators.base import Evaluator, NotPreparedError, Outcome, Prepared
from lanas_jax.runtime.distributed import DistributedError
from lanas_jax.runtime.errors import STOPS, explain_error, in_brackets, is_coroutine, what_it_did
from lanas_jax.storage.plain import plain_count, plain_float, plain_text, shown

MAX_FAILED_IN_A_ROW = 8  # consecutive trials without a valid outcome after which the evaluator counts as broken
RAISED = "the evaluator raised"
NOT_ASYNC = "define it with def; it may call asyncio.run"


class BrokenEvaluatorError(Exception):
    """An evaluator fails for every candidate, or returns no outcomes for a batch."""


class MalformedOutcomeError(Exception):
    """An evaluator returned something other than an `Outcome`, or an `Outcome` with impossible fields."""


class EvaluatorExitError(Exception):
    """An evaluator called ``sys.exit``, or raised a `BaseException` such as ``GeneratorExit``."""


class RemoteError(Exception):
    """An exception raised by an evaluator in another process, already formatted as text."""


class Failures:
    """Distinguishes a failed candidate, which is a result, from a broken evaluator, which raises every time."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def judged(self, outcomes: Sequence[Outcome | Exception]) -> list[Outcome]:
        """Converts the errors of a batch to failed outcomes.

        Raises:
          BrokenEvaluatorError: the evaluator failed for at least `MAX_FAILED_IN_A_ROW` consecutive trials, including
            the whole batch. The trials of the batch stay pending.
        """
        errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        self._in_a_row = self._in_a_row + len(errors) if len(errors) == len(outcomes) else 0
        if self._in_a_row >= MAX_FAILED_IN_A_ROW:
            did = "returned no outcome" if isinstance(errors[-1], MalformedOutcomeError) else "raised an error"
            raise BrokenEvaluatorError(
                f"the evaluator {did} for each of the last {self._in_a_row} trials: "
                f"{describe_error(errors[-1])}. The last {len(outcomes)} stay pending"
            ) from errors[-1]
        return [_failure(outcome) if isinstance(outcome, Exception) else outcome for outcome in outcomes]


def outcomes_or_errors(
    evaluator: Evaluator, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"]
) -> list[Outcome | Exception]:
    """Returns one outcome or error per code, in order.

    If the batch raises, each code is evaluated alone, so that only the faulty codes fail. The numbers of the outcomes
    are plain Python numbers.

    Raises:
      BrokenEvaluatorError: the evaluator did not return one object per code.
      EvaluatorExitError: the evaluator called ``sys.exit`` or raised an exception that is not an `Exception`.
      DistributedError: the evaluation failed in some of several processes, which ends the search.
    """
    try:
        returned = evaluator.evaluate(codes.copy(), keys)  # which it may change
        found = list(returned) if isinstance(returned, Iterable) else None
    except (DistributedError, KeyboardInterrupt):
        raise
    except Exception as error:
        if len(codes) == 1:
            return [error]
        return [outcomes_or_errors(evaluator, codes[i : i + 1], keys[i : i + 1])[0] for i in range(len(codes))]
    except BaseException as error:
        raise EvaluatorExitError(f"the evaluator {what_it_did(error)}; its trials stay pending") from error
    if is_coroutine(returned):
        raise BrokenEvaluatorError(f"evaluate of {type(evaluator).__name__} is an async function: {NOT_ASYNC}")
    if found is None or len(found) != len(codes):
        number = shown(returned) if found is None else f"{len(found)} outcomes"
        raise BrokenEvaluatorError(f"the evaluator returned {number} for {len(codes)} codes; expected one per code")
    return [_plain(one) for one in found]


def _plain(returned: object) -> Outcome | MalformedOutcomeError:
    """Returns an outcome with plain Python numbers and text, or the error if it is malformed."""
    if not isinstance(returned, Outcome):
        return MalformedOutcomeError(f"the evaluator returned {shown(returned)} for a code; expected an Outcome")
    reason, outcomes = returned.reason, returned.outcomes
    try:
        if not isinstance(outcomes, Mapping):
            raise ValueError(f"outcomes must be a dictionary of numbers; got {shown(outcomes)}")
        return dataclasses.replace(
            returned,
            value=plain_float("value", returned.value),
            reason=describe_error(reason) if isinstance(reason, BaseException) else reason and plain_text(reason),
            multiply_adds=plain_count("multiply_adds", returned.multiply_adds),
            parameters=plain_count("parameters", returned.parameters),
            compile_seconds=plain_float("compile_seconds", returned.compile_seconds) or 0.0,
            train_seconds=plain_float("train_seconds", returned.train_seconds) or 0.0,
            steps=plain_count("steps", returned.steps),
            outcomes={str(name): plain_float(str(name), number) for name, number in outcomes.items()},
        )
    except ValueError as error:
        return MalformedOutcomeError(f"the evaluator returned an impossible Outcome: {error}")


def prepare_evaluator(
    evaluator: Prepared, directory: Path, note: Callable[[str], None], name: str = "the evaluator"
) -> None:
    """Calls the `prepare` of an evaluator, which has the given name in errors.

    Raises:
      NotPreparedError: `prepare` raised an error, for example because its data cannot be read; the message states the
        cause.
    """
    try:
        returned = evaluator.prepare(directory, note)  # type: ignore[func-returns-value]
    except (NotPreparedError, DistributedError):
        raise
    except STOPS as error:
        raise NotPreparedError(f"the preparation of {name} failed: {describe_error(error)}") from error
    if is_coroutine(returned):
        raise NotPreparedError(f"prepare of {name} is an async function: {NOT_ASYNC}")


def describe_error(error: BaseException) -> str:
    """Formats an error in one line, with the file and line that raised it."""
    if isinstance(error, RemoteError | MalformedOutcomeError):
        return str(error)
    return explain_error(error) + in_brackets(error)


def _failure(error: Exception) -> Outcome:
    raised = "" if isinstance(error, MalformedOutcomeError) else f"{RAISED} "
    return Outcome(None, f"{raised}{describe_error(error)}")
