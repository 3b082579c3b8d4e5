"""Finding codes among many: rows by binary search over codes as sorted mixed-radix numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from lanas_jax.spaces.base import Codes, SearchSpace


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CodeIndex:
    """Where each of m distinct canonical codes stands.

    Attributes:
      digits: the codes as numbers of one or more int32 digits each, ascending.
      rows: the row each came from.
    """

    digits: Int[Array, "m k"]
    rows: Int[Array, " m"]

    @classmethod
    def of(cls, space: SearchSpace, codes: Codes) -> "CodeIndex":
        """The index of distinct canonical codes."""
        digits = np.asarray(_digits(space, jnp.asarray(codes)))
        order = np.lexsort(digits.T[::-1])
        return cls(jnp.asarray(digits[order]), jnp.asarray(order.astype(np.int32)))

    def find(self, space: SearchSpace, codes: Codes) -> Int[Array, " n"]:
        """The row of each canonical code; -1 where it has none. Traceable."""
        wanted = _digits(space, jnp.asarray(codes))
        last = self.rows.shape[0] - 1
        low = jnp.zeros(wanted.shape[0], jnp.int32)
        high = jnp.full(wanted.shape[0], last + 1, jnp.int32)

        def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bounds
            middle = (low + high) // 2
            less = _less(self.digits[jnp.minimum(middle, last)], wanted)
            return jnp.where(less & (low < high), middle + 1, low), jnp.where(less, high, middle)

        low, _ = jax.lax.fori_loop(0, (last + 1).bit_length(), halve, (low, high))
        found = jnp.minimum(low, last)
        hit = jnp.all(self.digits[found] == wanted, axis=1)
        return jnp.where(hit, self.rows[found], -1)


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
    """A code out of range may collide with another one in a single digit, so it gets a number that no code has."""
    inside = jnp.all((codes >= 0) & (codes < space.cardinalities[None]), axis=1)
    columns = []
    for group in _groups(space):
        number = jnp.zeros(codes.shape[0], jnp.int32)
        for i in group:
            number = number * int(space.cardinalities[i]) + codes[:, i]
        columns.append(jnp.where(inside, number, -1))
    return jnp.stack(columns, axis=1)


def _less(a: Int[Array, "n k"], b: Int[Array, "n k"]) -> Bool[Array, " n"]:
    """Lexicographic order."""
    less = jnp.zeros(a.shape[0], bool)
    for column in range(a.shape[1] - 1, -1, -1):
        x, y = a[:, column], b[:, column]
        less = (x < y) | ((x == y) & less)
    return less
