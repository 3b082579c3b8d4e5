"""A table: a value for every code that somebody has trained, so that searches can be repeated at no cost."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lanas_jax.spaces.base import Codes, SearchSpace, Values
from lanas_jax.spaces.index import CodeIndex


@jax.tree_util.register_pytree_node_class
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
        self._index = CodeIndex.of(space, self.codes)
        _refuse("repeat a code that stands above", self._index.repeated)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def best(self) -> float:
        """The highest value."""
        return float(self.values.max())

    def lookup(self, codes: Codes) -> Float[Array, " n"]:
        """The value of each code; NaN for codes that are not in the table. Traceable."""
        rows = self._index.find(self.space, self.space.canonical(codes))
        return jnp.where(rows >= 0, self.values[rows], jnp.nan)

    def tree_flatten(self) -> tuple[tuple[Array, Array, CodeIndex], SearchSpace]:
        """Codes, values and index travel as arrays; the space is static under `jax.jit`."""
        return (self.codes, self.values, self._index), self.space

    @classmethod
    def tree_unflatten(cls, space: SearchSpace, arrays: tuple[Array, Array, CodeIndex]) -> "Table":
        """A table of arrays that were checked before."""
        table = object.__new__(cls)
        table.space = space
        table.codes, table.values, table._index = arrays
        return table


def _refuse(what: str, wrong: np.ndarray) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        shown = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
        raise ValueError(f"{len(rows)} rows of the table {what}: {shown}")
