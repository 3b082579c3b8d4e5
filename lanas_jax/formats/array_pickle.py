"""Safe reading of pickles of plain containers and byte arrays: no code of the pickle is run.

Only the names that NumPy uses to pickle an array are accepted. Each is replaced by a class of this file that stores the
bytes, so nothing outside this file is imported or called.
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
    """Returns the content of a pickle; Python 2 strings as bytes, arrays of unsigned bytes as `numpy.ndarray`.

    Args:
      data: pickle whose top-level object is an array or a dictionary; arrays are values of the dictionary.

    Raises:
      ValueError: if the pickle is cut off, damaged, or names anything except an array of unsigned bytes.
    """
    try:
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        if isinstance(content, dict):
            return {key: _as_array(value) for key, value in content.items()}
        return _as_array(content)
    except _ERRORS as error:
        raise ValueError(f"not a pickle of lists and arrays of bytes, or a damaged one: {error}") from error


class _Type:
    """Replacement for `numpy.dtype`."""

    def __init__(self, kind: bytes | str, *_: object) -> None:
        self.kind = kind

    def __setstate__(self, state: object) -> None:
        """Ignores byte order and other state, which one-byte types do not need."""


class _Pickled:
    """Replacement for an array: the state that NumPy would fill an empty array with."""

    state: Any = ()

    def __init__(self, *_: object) -> None:
        """Ignores the arguments for an empty array."""

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
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not allowed in a data file")
        return _KNOWN[module, name]


def _as_array(value: Any) -> Any:
    if not isinstance(value, _Pickled):
        return value
    _, shape, dtype, columns_first, content = value.state
    if dtype.kind not in (b"u1", "u1") or len(content) != math.prod(shape):
        raise ValueError(f"expected an array of unsigned bytes; found {dtype.kind!r} of shape {shape}")
    return np.frombuffer(content, np.uint8).reshape(shape, order="F" if columns_first else "C")
