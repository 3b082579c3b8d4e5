"""Row lookup of codes by binary search over sorted mixed-radix numbers."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from lanas_jax.runtime.arithmetic import in_32_bits
from lanas_jax.spaces.base import Codes, SearchSpace


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CodeIndex:
    """A sorted index of m canonical codes.

    Attributes:
      digits: codes as numbers of one or more int32 digits each, ascending.
      rows: original row of each sorted code; equal codes are ordered by row.
    """

    digits: Int[Array, "m k"]
    rows: Int[Array, " m"]

    @classmethod
    @in_32_bits
    def of(cls, space: SearchSpace, codes: Codes) -> "CodeIndex":
        """Builds the index of canonical codes."""
        digits = np.asarray(_digits(space, np.asarray(codes)))
        order = np.lexsort(digits.T[::-1])
        return cls(*jax.device_put((digits[order], order.astype(np.int32))))

    @property
    def repeated(self) -> Bool[np.ndarray, " m"]:
        """Mask of the rows whose code also occurs in an earlier row."""
        digits, rows = np.asarray(self.digits), np.asarray(self.rows)
        found = np.zeros(len(rows), bool)
        found[rows[1:]] = (digits[1:] == digits[:-1]).all(axis=1)
        return found

    @in_32_bits
    def find(self, space: SearchSpace, codes: Codes) -> Int[Array, " n"]:
        """Returns the row of each canonical code; -1 for codes that are not in the index. Traceable."""
        return _find(self, space, codes)


@jax.jit(static_argnames="space")
def _find(index: CodeIndex, space: SearchSpace, codes: Codes) -> Int[Array, " n"]:
    wanted = jnp.asarray(_digits(space, jnp.asarray(codes)))
    last = index.rows.shape[0] - 1
    low = jnp.zeros(wanted.shape[0], jnp.int32)
    high = jnp.full(wanted.shape[0], last + 1, jnp.int32)

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) // 2
        less = _less(index.digits[jnp.minimum(middle, last)], wanted)
        return jnp.where(less & (low < high), middle + 1, low), jnp.where(less, high, middle)

    low, _ = jax.lax.fori_loop(0, (last + 1).bit_length(), halve, (low, high))
    found = jnp.minimum(low, last)
    hit = jnp.all(index.digits[found] == wanted, axis=1)
    return jnp.where(hit, index.rows[found], -1)


def _groups(space: SearchSpace) -> list[list[int]]:
    """Groups consecutive choices so that the mixed-radix number of each group fits in int32."""
    groups: list[list[int]] = [[]]
    size = 1
    for i, options in enumerate(space.cardinalities.tolist()):
        if size * options >= 2**31:
            groups.append([])
            size = 1
        groups[-1].append(i)
        size *= options
    return groups


def _digits(space: SearchSpace, codes: Int[Array | np.ndarray, "n dims"]) -> Int[Array | np.ndarray, "n k"]:
    """Converts codes to mixed-radix digits; NumPy codes to a NumPy array, without a program to compile.

    A code out of range could collide with another code, so its digits are -1, which no code has.
    """
    arrays: Any = np if isinstance(codes, np.ndarray) else jnp
    inside = ((codes >= 0) & (codes < space.cardinalities[None])).all(axis=1)
    columns = []
    for group in _groups(space):
        radix = np.cumprod([1, *space.cardinalities[group[:0:-1]].tolist()])[::-1].astype(np.int32)
        number = (codes[:, group[0] : group[-1] + 1] * radix[None]).sum(axis=1, dtype=np.int32)
        columns.append(arrays.where(inside, number, np.int32(-1)))
    return arrays.stack(columns, axis=1)


def _less(a: Int[Array, "n k"], b: Int[Array, "n k"]) -> Bool[Array, " n"]:
    """Returns whether each row of `a` precedes that of `b` in lexicographic order."""
    less = jnp.zeros(a.shape[0], bool)
    for column in range(a.shape[1] - 1, -1, -1):
        x, y = a[:, column], b[:, column]
        less = (x < y) | ((x == y) & less)
    return less
