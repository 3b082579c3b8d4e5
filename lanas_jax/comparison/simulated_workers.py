"""Whole searches over a table by many workers at once, none of which waits for another.

Each worker takes one trial at a time. Whichever is done first is told, and asks for the next at once: `workers` trials
are pending whenever the searcher is asked, but for the first ones. Tables hold no training times, so a trial takes a
random one, uniform between 0.5 and 1.5: of mean 1, and mixed enough that trials end in another order than they began.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from lanas_jax.comparison.simulation import many_searches, refuse_below_one
from lanas_jax.searchers.history import NOTHING
from lanas_jax.tables.base import Table

SHORTEST, LONGEST = 0.5, 1.5  # training times
TIMES = 0x7153  # folded into a search's key for its training times; no searcher splits its key into as many


class WorkersTrace(NamedTuple):
    """What each search tried, in order of completion; codes of -1, else NaN, once the table was exhausted."""

    codes: Int[Array, "seeds budget dims"]
    values: Float[Array, "seeds budget"]
    times: Float[Array, "seeds budget"]  # when the trial was done, in mean training times


def simulate_workers(
    searcher: Any | Sequence[Any],
    table: Table,
    workers: int,
    budget: int = 300,
    seeds: int = 200,
    *,
    first_seed: int = 0,
) -> WorkersTrace:
    """Runs a searcher on a table once per seed, with `workers` trials under way at all times, as one jitted program.

    The i-th trial of a search takes the same time whatever the searcher and the number of workers. With one worker, the
    codes are those of `lanas_jax.comparison.simulation.simulate` in batches of one.

    Args:
      searcher: a searcher of this package; its pool is replaced by the table's codes. Or several, which differ in
        numbers alone: their traces follow one another along a leading axis, as in `simulate`.
      table: values.
      workers: trials under way at a time.
      budget: trials done per search.
      seeds: number of searches; the key of search i is ``fold_in(key(first_seed), i)``.
      first_seed: another number gives other searches.

    Raises:
      ValueError: a number of workers, a budget or a number of seeds below 1, or searchers that differ in more.
    """
    refuse_below_one(workers=workers, budget=budget, seeds=seeds)
    search = _ByWorkers(budget, workers)
    return many_searches(search, searcher, table, search.asks, seeds, first_seed)


class _Workers(NamedTuple):
    """Who is doing what: the trial of each worker, and when it will be done; never, for one without a trial."""

    codes: Int[Array, "workers dims"]
    done_at: Float[Array, " workers"]
    idle: Int[Array, ""]  # the worker that asks next
    now: Float[Array, ""]

    def take(self, code: Int[Array, " dims"], time: Float[Array, ""]) -> "_Workers":
        """The idle worker takes a trial, unless there is none left."""
        done_at = jnp.where(code[0] >= 0, self.now + time, jnp.inf)
        return self._replace(codes=self.codes.at[self.idle].set(code), done_at=self.done_at.at[self.idle].set(done_at))

    def finish(self) -> tuple["_Workers", Int[Array, " dims"], Float[Array, ""]]:
        """The worker that is done first becomes idle: its trial and the time, or -1 and NaN where none is at work."""
        idle = jnp.argmin(self.done_at).astype(jnp.int32)
        at = self.done_at[idle]
        real = jnp.isfinite(at)
        after = self._replace(done_at=self.done_at.at[idle].set(jnp.inf), idle=idle, now=jnp.where(real, at, self.now))
        return after, jnp.where(real, self.codes[idle], NOTHING), jnp.where(real, at, jnp.nan)


@dataclasses.dataclass(frozen=True)
class _ByWorkers:
    """A search that is told of each trial as soon as it is done."""

    budget: int
    workers: int

    @property
    def asks(self) -> int:
        """Codes asked for until the budget is done."""
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
