"""Whole searches over a table, many seeds in one program: how many samples does a searcher need?"""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from lanas_jax.hardware import cores
from lanas_jax.sampling import Pool
from lanas_jax.tables.base import Table

Result = TypeVar("Result")
Search = Callable[[Any, Table, Key[Array, ""]], Result]  # one search: searcher, table, key, which is consumed


class Trace(NamedTuple):
    """What each search tried, in order; codes of -1 and values of NaN once the table was exhausted."""

    codes: Int[Array, "seeds budget dims"]
    values: Float[Array, "seeds budget"]


def simulate(
    searcher: Any, table: Table, budget: int = 300, seeds: int = 200, *, batch: int = 1, first_seed: int = 0
) -> Trace:
    """Runs a searcher on a table once per seed, tree refits included, as one jitted program.

    Seeds run one after the other on each device, and side by side on all devices of the process; where that is a
    single CPU device, on all cores. Another simulation that differs only in the table's values or in `first_seed` is
    not compiled again.

    Args:
      searcher: a searcher of this package; its pool is replaced by the table's codes.
      table: values.
      budget: samples per search.
      seeds: number of searches; the key of search i is ``fold_in(key(first_seed), i)``.
      batch: codes asked for at a time.
      first_seed: another number gives other searches.

    Returns:
      ``trace.codes`` int32[seeds, budget, dims] and ``trace.values`` float32[seeds, budget].

    Raises:
      ValueError: a budget, number of seeds or batch below 1.
    """
    refuse_below_one(budget=budget, seeds=seeds, batch=batch)
    return many_searches(_InBatches(budget, batch), searcher, table, budget, seeds, first_seed)


def refuse_below_one(**settings: int) -> None:
    """Checks settings at the door.

    Raises:
      ValueError: one of them is below 1; names it.
    """
    for name, value in settings.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")


def many_searches(
    search: Search[Result], searcher: Any, table: Table, capacity: int, seeds: int, first_seed: int
) -> Result:
    """A search per seed, as one jitted program, on all devices or cores: see `simulate`.

    Args:
      search: traceable; equal to others of the same settings, which then share a program.
      searcher: its pool is replaced by the table's codes.
      table: values.
      capacity: codes that a search may ask for.
      seeds: number of searches.
      first_seed: another number gives other searches.
    """
    searcher = dataclasses.replace(searcher, pool=Pool.of(table.space, table.codes), capacity=capacity)
    devices = jax.local_devices()[: min(jax.local_device_count(), seeds)]
    lanes = min(cores(), seeds) if _can_run_side_by_side(searcher, devices) else 1
    mesh = jax.make_mesh((len(devices),), ("seed",), axis_types=(AxisType.Auto,), devices=devices)
    run = functools.partial(_run, searcher, table, mesh=mesh, search=search)

    share = -(-seeds // (lanes * len(devices))) * len(devices)
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(first_seed), i))(jnp.arange(share * lanes))
    with concurrent.futures.ThreadPoolExecutor(lanes) as pool:
        first = run(keys[:share])  # compiles; the others then find the program
        rest = pool.map(lambda i: jax.block_until_ready(run(keys[i * share : (i + 1) * share])), range(1, lanes))
        traces = [first, *rest]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[:seeds], *traces)


def _can_run_side_by_side(searcher: Any, devices: list[jax.Device]) -> bool:
    """Whether programs may share a CPU.

    There, one LAPACK call over a batch of matrices spreads them over the thread pool that runs the program itself, and
    waits for them: two such programs at once can fill the pool with waiting threads and never end. This package's
    searchers make no such call; of others' it is not known.
    """
    ours = type(searcher).__module__.startswith("lanas_jax.")
    return ours and len(devices) == 1 and devices[0].platform == "cpu"


@jax.jit(static_argnames=("mesh", "search"))
def _run(searcher: Any, table: Table, keys: Key[Array, " k"], *, mesh: Mesh, search: Search[Result]) -> Result:
    def on_device(searcher: Any, table: Table, keys: Key[Array, " k"]) -> Result:
        return jax.lax.map(lambda key: search(searcher, table, key), keys)

    inputs, outputs = (PartitionSpec(), PartitionSpec(), PartitionSpec("seed")), PartitionSpec("seed")
    program = jax.shard_map(on_device, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False)
    return program(searcher, table, keys)


@dataclasses.dataclass(frozen=True)
class _InBatches:
    """A search that is told of a whole batch before it is asked for the next."""

    budget: int
    batch: int

    def __call__(self, searcher: Any, table: Table, key: Key[Array, ""]) -> Trace:
        def step(state: Any, size: int) -> tuple[Any, Trace]:
            state, codes = searcher.ask(state, size)
            values = table.lookup(codes)
            return searcher.tell(state, codes, values), Trace(codes, values)

        def steps(state: Any, _: None) -> tuple[Any, Trace]:
            return step(state, self.batch)

        state, trace = jax.lax.scan(steps, searcher.init(key), None, length=self.budget // self.batch)
        whole = Trace(trace.codes.reshape(-1, table.space.dims), trace.values.reshape(-1))
        if self.budget % self.batch:
            rest = step(state, self.budget % self.batch)[1]
            whole = Trace(jnp.concatenate([whole.codes, rest.codes]), jnp.concatenate([whole.values, rest.values]))
        return whole
