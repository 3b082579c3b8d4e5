"""Checks of whole numbers that users give, such as budgets, seeds and sizes."""

import operator
from typing import Any

import jax
import numpy as np


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Returns an integer, possibly of NumPy, as a Python integer. A traced number is returned unchanged.

    Args:
      name: name of the setting, for the error.
      value: number that a user gave.
      least: smallest allowed number.
      most: largest allowed number, if any.

    Raises:
      ValueError: the value is not an integer (Booleans and floats are refused), or it is too small or too large.
    """
    if isinstance(value, jax.core.Tracer):
        return value  # type: ignore[return-value]
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise ValueError(f"{name} must be an integer; got {value!r}")
    if number < least:
        raise ValueError(f"{name} must be at least {least}; got {number}")
    if most is not None and number > most:
        raise ValueError(f"{name} must be at most {most:,}; got {number}")
    return number


def set_whole_numbers(config: Any, **least: int) -> None:
    """Converts fields of a frozen dataclass to Python integers; called in its ``__post_init__``.

    Args:
      config: instance to change.
      **least: smallest allowed number, by the field's name.

    Raises:
      ValueError: as in `whole_number`.
    """
    for name, smallest in least.items():
        object.__setattr__(config, name, whole_number(name, getattr(config, name), smallest))
