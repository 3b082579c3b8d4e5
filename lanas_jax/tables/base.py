"""A table: a value for every code that somebody has trained, so that searches can be repeated at no cost."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lanas_jax.spaces.base import Codes, SearchSpace, Values


class _Index(NamedTuple):
    """Codes as sorted mixed-radix numbers of one or more int32 digits each, and the rows they came from."""

    digits: Int[Array, "m k"]
    rows: Int[Array, " m"]


class Table:
    """Values of codes, looked up on the device.

    Args:
      space: what the codes mean.
      codes: ``int32[m, dims]``, distinct and valid.
      values: ``float[m]``, what is maximised.

    Raises:
      ValueError: codes outside the space or not valid, a code twice, or a value that is not finite; names the rows.
    """

    def __init__(self, space: SearchSpace, codes: Codes, values: Values):
        checked = space.check(codes)
        array = np.asarray(values)
        if array.shape != (len(checked),):
            raise ValueError(f"{len(checked)} codes need as many values; got shape {array.shape}")
        _refuse("are not valid in the space", ~np.asarray(space.valid(checked)))
        _refuse("hold a value that is not finite", ~np.isfinite(array))
        canonical = np.asarray(space.canonical(checked))
        _, first, inverse = np.unique(canonical, axis=0, return_index=True, return_inverse=True)
        _refuse("repeat a code that stands above", first[inverse.reshape(-1)] != np.arange(len(checked)))
        self.space = space
        self.codes = jnp.asarray(canonical)
        self.values = jnp.asarray(array, jnp.float32)
        self._index = _build_index(space, canonical)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def best(self) -> float:
        """The highest value."""
        return float(self.values.max())

    def lookup(self, codes: Codes) -> Float[Array, " n"]:
        """The value of each code; NaN for codes that are not in the table. Traceable."""
        wanted = _digits(self.space, self.space.canonical(codes))
        low = jnp.zeros(wanted.shape[0], jnp.int32)
        high = jnp.full(wanted.shape[0], len(self), jnp.int32)
        for _ in range(len(self).bit_length()):
            middle = (low + high) // 2
            less = _less(self._index.digits[jnp.minimum(middle, len(self) - 1)], wanted)
            low, high = jnp.where(less & (low < high), middle + 1, low), jnp.where(less, high, middle)
        found = jnp.minimum(low, len(self) - 1)
        hit = jnp.all(self._index.digits[found] == wanted, axis=1)
        return jnp.where(hit, self.values[self._index.rows[found]], jnp.nan)


def _refuse(what: str, wrong: np.ndarray) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        shown = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
        raise ValueError(f"{len(rows)} rows of the table {what}: {shown}")


def _groups(space: SearchSpace) -> list[list[int]]:
    """Choices in runs whose mixed-radix numbers fit in int32."""
    groups: list[list[int]] = [[]]
    size = 1
    for i, options in enumerate(space.cardinalities.tolist()):
        if size * options >= 2**31:
            groups.append([])
            size = 1
        groups[-1].append(i)
        size *= options
    return groups


def _digits(space: SearchSpace, codes: Int[Array, "n dims"]) -> Int[Array, "n k"]:
    columns = []
    for group in _groups(space):
        number = jnp.zeros(codes.shape[0], jnp.int32)
        for i in group:
            number = number * int(space.cardinalities[i]) + codes[:, i]
        columns.append(number)
    return jnp.stack(columns, axis=1)


def _less(a: Int[Array, "n k"], b: Int[Array, "n k"]) -> Array:
    """Lexicographic order."""
    less = jnp.zeros(a.shape[0], bool)
    for column in range(a.shape[1] - 1, -1, -1):
        x, y = a[:, column], b[:, column]
        less = (x < y) | ((x == y) & less)
    return less


def _build_index(space: SearchSpace, codes: np.ndarray) -> _Index:
    digits = np.asarray(_digits(space, jnp.asarray(codes)))
    order = np.lexsort(digits.T[::-1])
    return _Index(jnp.asarray(digits[order]), jnp.asarray(order.astype(np.int32)))
