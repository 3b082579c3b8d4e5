"""Pickles of plain containers and arrays of bytes, read without running any of what a pickle can ask to be run.

Of all classes and functions that a pickle can name, only the three by which NumPy pickles an array are known here, and
each stands for a class below that keeps its bytes: nothing is imported, called or built that is not in this file.
"""

import io
import math
import pickle
from typing import Any

import numpy as np

_ERRORS = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
)


def load_array_pickle(data: bytes) -> Any:
    """What a pickle holds; strings of Python 2 as bytes, arrays of unsigned bytes as `numpy.ndarray`.

    Args:
      data: the pickle; an array in it stands at the top, or is a value of the dictionary at the top.

    Raises:
      ValueError: the pickle is cut off, damaged, or names anything but an array of unsigned bytes.
    """
    try:
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        if isinstance(content, dict):
            return {key: _as_array(value) for key, value in content.items()}
        return _as_array(content)
    except _ERRORS as error:
        raise ValueError(f"not a pickle of lists and arrays of bytes, or a damaged one: {error}") from error


class _Type:
    """Stands for `numpy.dtype`."""

    def __init__(self, kind: bytes | str, *_: object) -> None:
        self.kind = kind

    def __setstate__(self, state: object) -> None:
        """Byte order and the like, which a type of one byte has none of."""


class _Pickled:
    """Stands for an array: what NumPy would be given to fill an empty one with."""

    state: Any = ()

    def __init__(self, *_: object) -> None:
        """As an empty array is asked for."""

    def __setstate__(self, state: object) -> None:
        self.state = state


_KNOWN = {
    ("numpy", "ndarray"): _Pickled,
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "_reconstruct"): _Pickled,
    ("numpy._core.multiarray", "_reconstruct"): _Pickled,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is never imported for a file")
        return _KNOWN[module, name]


def _as_array(value: Any) -> Any:
    if not isinstance(value, _Pickled):
        return value
    _, shape, dtype, columns_first, content = value.state
    if dtype.kind not in (b"u1", "u1") or len(content) != math.prod(shape):
        raise ValueError(f"expected an array of unsigned bytes; found {dtype.kind!r} of shape {shape}")
    return np.frombuffer(content, np.uint8).reshape(shape, order="F" if columns_first else "C")
