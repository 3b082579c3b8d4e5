"""Simulated searches over a table by asynchronous workers.

Each worker runs one trial at a time. When a trial finishes, its value is told and its worker asks for the next trial at
once. After the first asks, `workers` trials are thus always pending. Tables contain no training times, so a trial takes
a random time, uniform between 0.5 and 1.5: the mean is 1, and trials finish in another order than they start.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from lanas_jax.comparison.simulation import Progress, many_searches, refuse_below_one
from lanas_jax.searchers.history import NOTHING
from lanas_jax.tables.base import Table

SHORTEST, LONGEST = 0.5, 1.5  # training times
TIMES = 0x7153  # folded into a search's key for its training times; beyond the subkeys that any searcher uses


class WorkersTrace(NamedTuple):
    """The trials of each search in order of completion; codes of -1 and NaN once the table is exhausted."""

    codes: Int[Array, "seeds budget dims"]
    values: Float[Array, "seeds budget"]
    times: Float[Array, "seeds budget"]  # completion times, in mean training times


def simulate_workers(
    searcher: Any | Sequence[Any],
    table: Table,
    workers: int,
    budget: int = 300,
    seeds: int = 200,
    *,
    first_seed: int = 0,
    progress: Progress | None = None,
) -> WorkersTrace:
    """Runs a searcher on a table once per seed, with `workers` concurrent trials, as one jitted program.

    The i-th trial of a search takes the same time for every searcher and number of workers. With one worker, the codes
    equal those of `lanas_jax.comparison.simulation.simulate` with batches of one.

    Args:
      searcher: searcher of this package; its pool is replaced by the table's codes. Or several searchers that differ
        only in numbers; their traces are stacked along a leading axis, as in `simulate`.
      table: benchmark table.
      workers: number of concurrent trials.
      budget: number of finished trials per search.
      seeds: number of searches; the key of search i is ``fold_in(key(first_seed), i)``.
      first_seed: seed of all searches.
      progress: function called with the number of finished searches, as in `simulate`.

    Raises:
      ValueError: workers, budget or seeds is below 1, or the searchers differ in more than numbers.
    """
    refuse_below_one(workers=workers, budget=budget, seeds=seeds)
    search = _ByWorkers(budget, workers)
    return many_searches(search, searcher, table, search.asks, seeds, first_seed, progress)


class _Workers(NamedTuple):
    """The trial of each worker and its completion time; infinite for a worker without a trial."""

    codes: Int[Array, "workers dims"]
    done_at: Float[Array, " workers"]
    idle: Int[Array, ""]  # the worker that asks next
    now: Float[Array, ""]

    def take(self, code: Int[Array, " dims"], time: Float[Array, ""]) -> "_Workers":
        """Gives a trial to the idle worker, unless none is left."""
        done_at = jnp.where(code[0] >= 0, self.now + time, jnp.inf)
        return self._replace(codes=self.codes.at[self.idle].set(code), done_at=self.done_at.at[self.idle].set(done_at))

    def finish(self) -> tuple["_Workers", Int[Array, " dims"], Float[Array, ""]]:
        """Makes the first worker to finish idle; returns its trial and the time, or -1 and NaN if none is running."""
        idle = jnp.argmin(self.done_at).astype(jnp.int32)
        at = self.done_at[idle]
        real = jnp.isfinite(at)
        after = self._replace(done_at=self.done_at.at[idle].set(jnp.inf), idle=idle, now=jnp.where(real, at, self.now))
        return after, jnp.where(real, self.codes[idle], NOTHING), jnp.where(real, at, jnp.nan)


@dataclasses.dataclass(frozen=True)
class _ByWorkers:
    """A search in which each trial is told as soon as it finishes."""

    budget: int
    workers: int

    @property
    def asks(self) -> int:
        """Number of codes asked for until the budget is finished."""
        return self.budget + self.workers - 1

    def __call__(self, searcher: Any, table: Table, key: Key[Array, ""]) -> WorkersTrace:
        time_key = jax.random.fold_in(key, TIMES)
        times = jax.random.uniform(time_key, (self.asks,), minval=SHORTEST, maxval=LONGEST)
        first, later = times[: self.workers - 1], times[self.workers - 1 :]

        def ask(state: Any, workers: _Workers, time: Array) -> tuple[Any, _Workers]:
            state, codes = searcher.ask(state, 1)
            return state, workers.take(codes[0], time)

        def begin(carry: tuple[Any, _Workers], time: Array) -> tuple[tuple[Any, _Workers], None]:
            state, workers = ask(*carry, time)
            return (state, workers._replace(idle=workers.idle + 1)), None

        def step(carry: tuple[Any, _Workers], time: Array) -> tuple[tuple[Any, _Workers], WorkersTrace]:
            state, workers = ask(*carry, time)
            workers, code, at = workers.finish()
            value = table.lookup(code[None])
            return (searcher.tell(state, code[None], value), workers), WorkersTrace(code, value[0], at)

        nobody = _Workers(
            codes=jnp.full((self.workers, table.space.dims), NOTHING, jnp.int32),
            done_at=jnp.full(self.workers, jnp.inf),
            idle=jnp.int32(0),
            now=jnp.float32(0.0),
        )
        begun, _ = jax.lax.scan(begin, (searcher.init(key), nobody), first)
        return jax.lax.scan(step, begun, later)[1]
