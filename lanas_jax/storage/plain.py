"""Conversion of evaluators' numbers and text to plain Python values that the trials file and the searcher can hold.

Evaluators return Python, NumPy or JAX numbers, or one-element arrays. The trials file holds 64-bit numbers; searchers
compute in float32, so a value that float32 cannot hold is a failed trial for both. This module imports neither JAX nor
NumPy.
"""

import math
import numbers
from typing import Any

LARGEST_VALUE = (2 - 2**-23) * 2.0**127  # largest finite float32
LARGEST_COUNT = 2**63 - 1  # largest SQLite integer
SHOWN = 80  # maximum number of characters of a value in a message


def plain_float(name: str, number: object) -> float | None:
    """Converts a real number, or a one-element array, to a Python float, which may be infinite or NaN; None stays None.

    Raises:
      ValueError: it is not a real number; the message names it.
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
    """Converts a count, or a one-element array, to a Python int; None stays None.

    Raises:
      ValueError: it is not a whole number, or the trials file cannot hold it; the message names it.
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
    except Exception:  # a user's class may raise anything
        text = "an object"
    return f"{text if len(text) <= SHOWN else text[: SHOWN - 3] + '...'} of type {type(value).__name__}"


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real)


def _single(value: Any) -> Any:
    """Returns the element of a one-element array as a Python number, and other values unchanged, also a masked one."""
    mask = getattr(value, "mask", False)  # of NumPy; that of pandas is a method
    if getattr(value, "size", None) == 1 and not callable(mask) and bool(mask):
        return value
    if getattr(value, "size", None) == 1 and callable(getattr(value, "item", None)):
        return value.item()
    return value
