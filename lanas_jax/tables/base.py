"""A table of values of trained codes, on which searches can be repeated without training."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lanas_jax.runtime.arithmetic import in_32_bits, nan_is_data
from lanas_jax.spaces.base import Codes, SearchSpace, Values, valid_and_canonical
from lanas_jax.spaces.index import CodeIndex


@jax.tree_util.register_pytree_node_class
class Table:
    """Values of codes, looked up on the device.

    Args:
      space: search space of the codes.
      codes: distinct valid codes, ``int32[m, dims]``.
      values: values to maximise, ``float[m]``, or several objectives, all to maximise, ``float[m, k]``.

    Raises:
      ValueError: if there is no code, a code is outside the space, not valid or repeated, or a value is not finite;
        names the rows.
    """

    @in_32_bits
    def __init__(self, space: SearchSpace, codes: Codes, values: Values | Float[Array | np.ndarray, "m k"]):
        checked = space.check(codes)
        if not len(checked):
            raise ValueError("a table needs at least one code; got none")
        array = np.asarray(values)
        if array.ndim not in (1, 2) or len(array) != len(checked) or array.shape[1:] == (0,):
            m = len(checked)
            raise ValueError(
                f"values has shape {array.shape}; {m} codes need shape ({m},), or ({m}, k) for k objectives"
            )
        valid, canonical = valid_and_canonical(space, checked)
        _refuse("are not valid in the space", ~np.asarray(valid))
        with np.errstate(over="ignore"):
            finite = np.isfinite(array.astype(np.float32)).reshape(len(array), -1)
            _refuse("hold a value that is not finite in float32", np.asarray((~finite).any(axis=1)))
        self.space = space
        self.codes = canonical
        self.values = jax.device_put(array.astype(np.float32))
        self._index = CodeIndex.of(space, self.codes)
        _refuse("repeat the code of an earlier row", self._index.repeated)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def best(self) -> float:
        """The highest value.

        Raises:
          ValueError: the table has several objectives.
        """
        if self.values.ndim > 1:
            raise ValueError(f"a table of {self.values.shape[1]} objectives has a front, not one highest value")
        return float(self.values.max())

    @in_32_bits
    @nan_is_data
    def lookup(self, codes: Codes) -> Float[Array, "n ..."]:
        """Returns the value or the objectives of each code; NaN for codes that are not in the table. Traceable."""
        rows = self._index.find(self.space, self.space.canonical(codes))
        found = (rows >= 0).reshape(-1, *[1] * (self.values.ndim - 1))
        return jnp.where(found, self.values[rows], jnp.nan)

    def tree_flatten(self) -> tuple[tuple[Array, Array, CodeIndex], SearchSpace]:
        """Returns codes, values and index as pytree leaves; the space is static under `jax.jit`."""
        return (self.codes, self.values, self._index), self.space

    @classmethod
    def tree_unflatten(cls, space: SearchSpace, arrays: tuple[Array, Array, CodeIndex]) -> "Table":
        """Builds a table from arrays that are already checked."""
        table = object.__new__(cls)
        table.space = space
        table.codes, table.values, table._index = arrays
        return table


def _refuse(what: str, wrong: np.ndarray) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        shown = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
        raise ValueError(f"{len(rows)} rows of the table {what}: {shown}")
