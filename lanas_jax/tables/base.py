"""A table: a value for every code that somebody has trained, so that searches can be repeated at no cost."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

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
        self.space = space
        self.codes = space.canonical(checked)
        self.values = jnp.asarray(array, jnp.float32)
        self._index = _build_index(space, self.codes)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def best(self) -> float:
        """The highest value."""
        return float(self.values.max())

    def lookup(self, codes: Codes) -> Float[Array, " n"]:
        """The value of each code; NaN for codes that are not in the table. Traceable."""
        found, hit = _find(self._index.digits, _digits(self.space, self.space.canonical(codes)))
        return jnp.where(hit, self.values[self._index.rows[found]], jnp.nan)


@jax.jit
def _find(digits: Int[Array, "m k"], wanted: Int[Array, "n k"]) -> tuple[Int[Array, " n"], Bool[Array, " n"]]:
    """Binary search: where in the sorted rows each wanted one stands, and whether it is there."""
    m = digits.shape[0]

    def halve(_: Int[Array, ""] | int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) // 2
        less = _less(digits[jnp.minimum(middle, m - 1)], wanted)
        return jnp.where(less & (low < high), middle + 1, low), jnp.where(less, high, middle)

    bounds = jnp.zeros_like(wanted[:, 0]), jnp.full_like(wanted[:, 0], m)
    low, _ = jax.lax.fori_loop(0, m.bit_length(), halve, bounds)
    found = jnp.minimum(low, m - 1)
    return found, jnp.all(digits[found] == wanted, axis=1)


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
        radix = np.cumprod([1, *space.cardinalities[group[:0:-1]].tolist()])[::-1].astype(np.int32)
        columns.append((codes[:, group[0] : group[-1] + 1] * radix[None]).sum(axis=1))
    return jnp.stack(columns, axis=1)


def _less(a: Int[Array, "n k"], b: Int[Array, "n k"]) -> Array:
    """Lexicographic order."""
    less = jnp.zeros(a.shape[0], bool)
    for column in range(a.shape[1] - 1, -1, -1):
        x, y = a[:, column], b[:, column]
        less = (x < y) | ((x == y) & less)
    return less


def _build_index(space: SearchSpace, codes: Int[Array, "m dims"]) -> _Index:
    """Refuses rows whose code stands above already."""
    digits = np.asarray(_digits(space, codes))
    order = np.lexsort(digits.T[::-1])  # stable: of equal codes the first row comes first
    digits = digits[order]
    repeated = np.zeros(len(order), bool)
    repeated[order[1:]] = (digits[1:] == digits[:-1]).all(axis=1)
    _refuse("repeat a code that stands above", repeated)
    return _Index(jnp.asarray(digits), jnp.asarray(order.astype(np.int32)))
