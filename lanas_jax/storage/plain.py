"""Numbers and texts of evaluators as plain Python values that the trials file and the searcher can hold.

Evaluators return Python, NumPy or JAX numbers, or arrays of one. The trials file holds 64-bit numbers; searchers
compute in float32, so a value that float32 cannot hold is a failed trial for both. This module imports neither JAX nor
NumPy.
"""

import math
import numbers
from typing import Any

LARGEST_VALUE = (2 - 2**-23) * 2.0**127  # of float32
LARGEST_COUNT = 2**63 - 1  # of SQLite's integers
SHOWN = 80  # characters of a value in a message


def plain_float(name: str, number: object) -> float | None:
    """Converts a real number, or an array of one, to a Python float, which may be infinite or NaN; None stays None.

    Raises:
      ValueError: it is something else; the message names it.
    """
    single = _single(number)
    if single is None:
        return None
    if not _is_real(single):
        raise ValueError(f"{name} must be a number or None; got {shown(number)}")
    try:
        return float(single)
    except OverflowError:  # an integer beyond float64
        return math.inf if single > 0 else -math.inf


def plain_count(name: str, number: object) -> int | None:
    """Converts a count, or an array of one, to a Python int; None stays None.

    Raises:
      ValueError: it is no whole number, or one that the trials file cannot hold; the message names it.
    """
    single = _single(number)
    if single is None:
        return None
    if not _is_real(single) or not math.isfinite(single) or single != int(single):
        raise ValueError(f"{name} must be a whole number or None; got {shown(number)}")
    if not 0 <= single <= LARGEST_COUNT:
        raise ValueError(f"{name} must be 0 to 2**63 - 1; got {shown(number)}")
    return int(single)


def plain_text(text: object) -> str:
    """Converts an object to text that can be encoded; undecodable bytes of a path become escape sequences."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def shown(value: object) -> str:
    """Formats a value and its type for an error message, shortened."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # of a class of one's own
        text = "an object"
    return f"{text if len(text) <= SHOWN else text[: SHOWN - 3] + '...'} of type {type(value).__name__}"


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real)


def _single(value: Any) -> Any:
    """Returns the element of an array of one as a Python number; other values as they are."""
    if getattr(value, "size", None) == 1 and callable(getattr(value, "item", None)):
        return value.item()
    return value
