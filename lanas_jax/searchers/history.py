"""What a searcher remembers of its trials: a struct of fixed-capacity arrays, one row per trial, in the order asked.

Every searcher keeps one. It is what makes "no architecture twice" (asked, pending and told codes are all in it) and
"pending trials count" possible. Rows are canonical codes; a row of -1 is empty.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lanas_jax.searchers.sampling import Pool
from lanas_jax.spaces.base import Codes, SearchSpace, Values

EMPTY, PENDING, DONE, FAILED = 0, 1, 2, 3
NOTHING = -1  # fills the rows of an answer for which no code was left


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class History:
    """Asked and told trials.

    Attributes:
      codes: canonical codes, -1 in empty rows.
      values: what trials gave; 0 where there is no value.
      status: EMPTY, PENDING, DONE or FAILED.
      count: number of rows in use.
      seen: which codes of the searcher's pool stand in a row; of length 0 without a pool.
    """

    codes: Int[Array, "capacity dims"]
    values: Float[Array, " capacity"]
    status: Int[Array, " capacity"]
    count: Int[Array, ""]
    seen: Bool[Array, " m"]

    @property
    def capacity(self) -> int:
        """Number of trials for which there is room."""
        return self.codes.shape[0]

    @property
    def done(self) -> Bool[Array, " capacity"]:
        """Rows that hold a value."""
        return self.status == DONE

    @property
    def used(self) -> Bool[Array, " capacity"]:
        """Rows that hold a trial, whatever its status."""
        return self.status != EMPTY


def empty(space: SearchSpace, pool: Pool | Codes | None, capacity: int) -> History:
    """A history without trials."""
    return History(
        codes=jnp.full((capacity, space.dims), NOTHING, jnp.int32),
        values=jnp.zeros(capacity),
        status=jnp.full(capacity, EMPTY, jnp.int32),
        count=jnp.zeros((), jnp.int32),
        seen=jnp.zeros(pool.codes.shape[0] if isinstance(pool, Pool) else 0, bool),
    )


def reserve(history: History, n: int) -> History:
    """A history with room for `n` more trials; doubles the capacity when short. Leaves traced histories as they are."""
    if isinstance(history.count, jax.core.Tracer) or int(history.count) + n <= history.capacity:
        return history
    more = max(history.capacity, int(history.count) + n - history.capacity)
    return dataclasses.replace(
        history,
        codes=jnp.pad(history.codes, ((0, more), (0, 0)), constant_values=NOTHING),
        values=jnp.pad(history.values, (0, more)),
        status=jnp.pad(history.status, (0, more), constant_values=EMPTY),
    )


def receive(
    history: History, space: SearchSpace, codes: Codes, values: Values
) -> tuple[History, Int[Array, "n dims"], Float[Array, " n"]]:
    """What is told, as arrays, and a history with room for it; checked unless it is traced. Rows of -1 pass.

    Raises:
      ValueError: codes outside the space, or not one value per code.
    """
    if not isinstance(codes, jax.core.Tracer):
        array = np.asarray(codes)
        space.check(array[array[:, 0] != NOTHING] if array.ndim == 2 else array)
    codes, values = jnp.asarray(codes, jnp.int32), jnp.asarray(values, jnp.float32)
    if values.shape != codes.shape[:1]:
        raise ValueError(f"{codes.shape[0]} codes need as many values; got shape {values.shape}")
    if not isinstance(history.count, jax.core.Tracer) and int(history.count) + len(codes) > history.capacity:
        new = ~contains(history, space.canonical(codes)) & (codes[:, 0] != NOTHING)
        history = reserve(history, int(new.sum()))
    return history, codes, values


def find(history: History, code: Int[Array, " dims"]) -> Int[Array, ""]:
    """The row of a canonical code, or `capacity` where it has none."""
    hit = jnp.all(history.codes == code[None], axis=1) & history.used
    return jnp.where(jnp.any(hit), jnp.argmax(hit), history.capacity).astype(jnp.int32)


def contains(history: History, codes: Codes) -> Bool[Array, " n"]:
    """Whether each canonical code stands in the history."""
    return jnp.any(jnp.all(history.codes[None] == codes[:, None], axis=2) & history.used[None], axis=1)


def add_pending(history: History, codes: Int[Array, "n dims"]) -> History:
    """Appends new codes as pending, in order; rows of -1 are passed over."""
    real = codes[:, 0] >= 0
    rows = jnp.where(real, history.count + jnp.cumsum(real) - 1, history.capacity).astype(jnp.int32)
    return dataclasses.replace(
        history,
        codes=history.codes.at[rows].set(codes, mode="drop"),
        status=history.status.at[rows].set(PENDING, mode="drop"),
        count=history.count + jnp.sum(real, dtype=jnp.int32),
    )


def add_code(history: History, space: SearchSpace, pool: Pool | Codes | None, code: Int[Array, " dims"]) -> History:
    """Appends one new canonical code as pending, and marks it in the pool."""
    return add_pending(mark(history, space, pool, code[None]), code[None])


def mark(history: History, space: SearchSpace, pool: Pool | Codes | None, codes: Int[Array, "n dims"]) -> History:
    """Notes that canonical codes of the pool stand in rows; others, and rows of -1, are passed over."""
    if not isinstance(pool, Pool):
        return history
    return dataclasses.replace(history, seen=with_rows(history.seen, pool.find(space, codes)))


def with_rows(seen: Bool[Array, " m"], rows: Int[Array, " n"]) -> Bool[Array, " m"]:
    """The marks of a pool with those of more rows; -1 is passed over."""
    return seen.at[jnp.where(rows >= 0, rows, seen.shape[0])].set(True, mode="drop")


def record(
    history: History, space: SearchSpace, pool: Pool | Codes | None, codes: Codes, values: Values
) -> tuple[History, Int[Array, " n"]]:
    """Closes trials: a finite value is a result, anything else a failure; codes never asked for are appended.

    Rows of -1 are passed over. Of a code told twice, the last value stands.

    Returns:
      The history, and the row of each code; `capacity` for those passed over.
    """
    codes = space.canonical(codes)

    def one(history: History, told: tuple[Array, Array]) -> tuple[History, Array]:
        code, value = told
        row = find(history, code)
        new = row == history.capacity
        row = jnp.where(code[0] < 0, history.capacity, jnp.where(new, history.count, row))
        good = jnp.isfinite(value)
        return dataclasses.replace(
            history,
            codes=history.codes.at[row].set(code, mode="drop"),
            values=history.values.at[row].set(jnp.where(good, value, 0.0), mode="drop"),
            status=history.status.at[row].set(jnp.where(good, DONE, FAILED), mode="drop"),
            count=history.count + jnp.where(new & (code[0] >= 0), 1, 0),
        ), row

    history, rows = jax.lax.scan(one, history, (codes, jnp.asarray(values, jnp.float32)))
    return mark(history, space, pool, codes), rows
