"""Trial history of a searcher: a struct of fixed-capacity arrays, one row per trial, in the order of asks.

Every searcher's state contains one. It holds all codes that were asked for or told, so no architecture is proposed
twice and pending trials count. Rows are canonical codes; a row of -1 is empty.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lanas_jax.runtime.numbers import whole_number
from lanas_jax.searchers.sampling import Pool
from lanas_jax.spaces.base import Codes, SearchSpace, Values

EMPTY, PENDING, DONE, FAILED, PAST = 0, 1, 2, 3, 4
NOTHING = -1  # padding in the rows of an answer if no code is left

Objectives = Float[Array | np.ndarray, "values k"]  # several values per code, all of which are maximised


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class History:
    """Trials from all asks and tells.

    Attributes:
      codes: canonical codes, -1 in empty rows.
      values: values of the trials, with a column per objective if there are several; 0 for a trial without a value.
      status: status per row: EMPTY, PENDING, DONE, FAILED, or PAST for a result of an earlier round from which the
        current round does not learn (`lanas.LaNAS.patience`).
      count: number of rows in use.
      seen: mask of the pool codes that are in the history; length 0 without a pool.
    """

    codes: Int[Array, "capacity dims"]
    values: Float[Array, "capacity ..."]
    status: Int[Array, " capacity"]
    count: Int[Array, ""]
    seen: Bool[Array, " m"]

    @property
    def capacity(self) -> int:
        """Number of trials the history can hold."""
        return self.codes.shape[0]

    @property
    def done(self) -> Bool[Array, " capacity"]:
        """Rows that hold a value from which the searcher learns."""
        return self.status == DONE

    @property
    def used(self) -> Bool[Array, " capacity"]:
        """Rows that hold a trial, regardless of its status."""
        return self.status != EMPTY


def empty(space: SearchSpace, pool: Pool | Codes | None, capacity: int, objectives: int = 1) -> History:
    """Returns a history without trials."""
    codes, values, status, count, seen = jax.device_put(  # compiles nothing, unlike `jnp.full` and `jnp.zeros`
        (
            np.full((capacity, space.dims), NOTHING, np.int32),
            np.zeros(capacity if objectives == 1 else (capacity, objectives), np.float32),
            np.full(capacity, EMPTY, np.int32),
            np.zeros((), np.int32),
            np.zeros(pool.codes.shape[0] if isinstance(pool, Pool) else 0, bool),
        )
    )
    return History(codes, values, status, count, seen)


def no_codes(space: SearchSpace) -> Int[Array, "0 dims"]:
    """Returns an array of no codes."""
    return jnp.zeros((0, space.dims), jnp.int32)


def reserve(history: History, n: int) -> History:
    """Returns a history with room for `n` more trials; doubles a capacity that is too small. No effect when traced.

    Raises:
      ValueError: `n` is not an integer, or is negative.
    """
    n = whole_number("n", n, 0)
    if isinstance(history.count, jax.core.Tracer) or int(history.count) + n <= history.capacity:
        return history
    more = max(history.capacity, int(history.count) + n - history.capacity)
    return dataclasses.replace(
        history,
        codes=jnp.pad(history.codes, ((0, more), (0, 0)), constant_values=NOTHING),
        values=jnp.pad(history.values, ((0, more), (0, 0))[: history.values.ndim]),
        status=jnp.pad(history.status, (0, more), constant_values=EMPTY),
    )


def receive(
    history: History, space: SearchSpace, codes: Codes, values: Values | Objectives
) -> tuple[History, Int[Array, "n dims"], Float[Array, "n ..."]]:
    """Returns the codes and values of a `tell` as arrays, and a history with room for them. Checks codes unless traced.

    Rows of -1 are accepted.

    Raises:
      ValueError: if codes are outside the space, or the number of values differs from the number of codes.
    """
    if not isinstance(codes, jax.core.Tracer):
        array = np.asarray(codes)
        if array.shape == (0,):  # a list of no codes
            codes = array = np.asarray(no_codes(space))
        space.check(array[array[:, 0] != NOTHING] if array.ndim == 2 else array)
    codes, values = jnp.asarray(codes, jnp.int32), jnp.asarray(values, jnp.float32)
    expected = (codes.shape[0], *history.values.shape[1:])
    if values.shape != expected:
        raise ValueError(f"values has shape {values.shape}; {codes.shape[0]} codes need shape {expected}")
    if not isinstance(history.count, jax.core.Tracer) and int(history.count) + len(codes) > history.capacity:
        new = ~contains(history, space.canonical(codes)) & (codes[:, 0] != NOTHING)
        history = reserve(history, int(new.sum()))
    return history, codes, values


def set_aside(history: History, when: Bool[Array, ""]) -> History:
    """Marks all results PAST if `when` holds; if some are PAST already, marks these DONE again instead."""
    past = history.status == PAST
    alternatives = jnp.where(past, DONE, history.status), jnp.where(history.done, PAST, history.status)
    turned = jnp.where(jnp.any(past), *alternatives)
    return dataclasses.replace(history, status=jnp.where(when, turned, history.status))


def find_row(history: History, code: Int[Array, " dims"]) -> Int[Array, ""]:
    """Returns the row of a canonical code; `capacity` if the code is not in the history."""
    hit = jnp.all(history.codes == code[None], axis=1) & history.used
    return jnp.where(jnp.any(hit), jnp.argmax(hit), history.capacity).astype(jnp.int32)


def contains(history: History, codes: Codes) -> Bool[Array, " n"]:
    """Returns which canonical codes are in the history."""
    return jnp.any(jnp.all(history.codes[None] == codes[:, None], axis=2) & history.used[None], axis=1)


def add_pending(history: History, codes: Int[Array, "n dims"]) -> History:
    """Appends new codes as pending, in order; skips rows of -1."""
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
    """Marks canonical codes as seen in the pool; codes outside the pool, and rows of -1, are skipped."""
    if not isinstance(pool, Pool):
        return history
    return dataclasses.replace(history, seen=with_rows(history.seen, pool.find(space, codes)))


def with_rows(seen: Bool[Array, " m"], rows: Int[Array, " n"]) -> Bool[Array, " m"]:
    """Returns the mask of seen pool codes with more rows marked; rows of -1 are skipped."""
    return seen.at[jnp.where(rows >= 0, rows, seen.shape[0])].set(True, mode="drop")


def record(
    history: History, space: SearchSpace, pool: Pool | Codes | None, codes: Codes, values: Values | Objectives
) -> tuple[History, Int[Array, " n"]]:
    """Records trial results: a finite value is a result, any other value a failure. Appends codes never asked for.

    With several objectives, a trial that lacks one is a failure. Rows of -1 are skipped. If a code is told twice, the
    last value is used.

    Returns:
      The history, and the row of each code; `capacity` for skipped rows.
    """
    codes = space.canonical(codes)

    def one(history: History, told: tuple[Array, Array]) -> tuple[History, Array]:
        code, value = told
        row = find_row(history, code)
        new = row == history.capacity
        row = jnp.where(code[0] < 0, history.capacity, jnp.where(new, history.count, row))
        good = jnp.all(jnp.isfinite(value))
        return dataclasses.replace(
            history,
            codes=history.codes.at[row].set(code, mode="drop"),
            values=history.values.at[row].set(jnp.where(good, value, 0.0), mode="drop"),
            status=history.status.at[row].set(jnp.where(good, DONE, FAILED), mode="drop"),
            count=history.count + jnp.where(new & (code[0] >= 0), 1, 0),
        ), row

    history, rows = jax.lax.scan(one, history, (codes, jnp.asarray(values, jnp.float32)))
    return mark(history, space, pool, codes), rows
