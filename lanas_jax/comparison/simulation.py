"""Simulated searches over a table, many seeds in one program, to count the samples that a searcher needs."""

import concurrent.futures
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from lanas_jax.runtime.arithmetic import in_32_bits, nan_is_data
from lanas_jax.runtime.devices import cores, mesh_of
from lanas_jax.runtime.numbers import whole_number
from lanas_jax.searchers.base import Searcher
from lanas_jax.searchers.sampling import Pool
from lanas_jax.tables.base import Table

Result = TypeVar("Result")
Search = Callable[[Any, Table, Key[Array, ""]], Result]  # one search: searcher, table, key, which is consumed
Progress = Callable[[int], object]

PARTS = 20  # calls of the program per device or core, between which a simulation reports its progress
SHOWN = 100  # maximum number of characters of a choice in an error


class Trace(NamedTuple):
    """The samples of each search in order; codes of -1 and values of NaN once the table is exhausted."""

    codes: Int[Array, "seeds budget dims"]
    values: Float[Array, "seeds budget ..."]


def simulate(
    searcher: Any | Sequence[Any],
    table: Table,
    budget: int = 300,
    seeds: int = 200,
    *,
    batch: int = 1,
    first_seed: int = 0,
    progress: Progress | None = None,
) -> Trace:
    """Runs a searcher on a table once per seed, tree refits included, as one jitted program.

    Seeds run sequentially on each device and in parallel across all devices of the process, or across all cores if the
    process has a single CPU device. A simulation that differs only in the table's values, in `first_seed`, or in the
    searcher's numbers (`cp`, `ridge`, `initial` and others that change no shape) is not compiled again.

    A sweep over such numbers is also one program, whose searches share the devices and cores::

        sweep = [lx.LaNAS(space, cp=cp) for cp in (0.05, 0.1, 0.2)]
        trace = lx.simulate(sweep, table)  # codes of shape [3, seeds, budget, dims]

    Args:
      searcher: searcher of this package; its pool is replaced by the table's codes. Or several searchers that differ
        only in numbers.
      table: benchmark table.
      budget: number of samples per search.
      seeds: number of searches; the key of search i is ``fold_in(key(first_seed), i)``.
      batch: number of codes per ask.
      first_seed: seed of all searches.
      progress: function called with the number of finished searches, from any thread; with it, the program runs for a
        few seeds at a time.

    Returns:
      ``trace.codes`` int32[seeds, budget, dims] and ``trace.values`` float32[seeds, budget], or float32[seeds, budget,
      k] on a table of k objectives; for several searchers, their traces stacked along a leading axis, with the same
      seeds for each.

    Raises:
      ValueError: budget, seeds or batch is below 1; there is no searcher, or one has other choices than the table; or
        the searchers differ in more than numbers.
    """
    refuse_below_one(budget=budget, seeds=seeds, batch=batch)
    return many_searches(_InBatches(budget, batch), searcher, table, budget, seeds, first_seed, progress)


def refuse_below_one(**settings: int) -> None:
    """Checks that all settings are integers and at least 1.

    Raises:
      ValueError: a setting is not an integer or is below 1; the message names it.
    """
    for name, value in settings.items():
        whole_number(name, value, 1)


def _check_space(searcher: Any, table: Table) -> None:
    """Checks that a searcher proposes codes of the table's space. Which choices are scales may differ.

    Raises:
      ValueError: it is not a searcher, or the names or options of its choices differ from those of the table.
    """
    if not isinstance(searcher, Searcher) or isinstance(searcher, type):
        raise ValueError(f"searcher must be a searcher, such as RandomSearch(table.space); got {searcher!r}")
    own, other = (
        [f"{choice.name} ({', '.join(choice.texts)})" for choice in space.choices]
        for space in (searcher.space, table.space)
    )
    for mine, its in itertools.zip_longest(own, other, fillvalue="none"):
        if mine != its:
            raise ValueError(
                f"the searcher has the choice {mine[:SHOWN]}, where the table has {its[:SHOWN]}: build the searcher "
                f"with the space of the table"
            )


def refuse_repeated(what: str, names: Sequence[object]) -> None:
    """Checks that all names are different; `what` describes one of them.

    Raises:
      ValueError: a name occurs twice.
    """
    for i, name in enumerate(names):
        if name in names[:i]:
            raise ValueError(f"{what} {name} is given twice; give each once")


@in_32_bits
@nan_is_data
def many_searches(
    search: Search[Result],
    searcher: Any | Sequence[Any],
    table: Table,
    capacity: int,
    seeds: int,
    first_seed: int,
    progress: Progress | None = None,
) -> Result:
    """Runs one search per seed, as one jitted program on all devices or cores; see `simulate`.

    Args:
      search: traceable function that runs one search. Compares equal for equal settings, so that programs are reused.
      searcher: searcher, whose pool is replaced by the table's codes; or several that differ only in numbers.
      table: benchmark table.
      capacity: maximum number of codes that a search asks for.
      seeds: number of searches.
      first_seed: seed of all searches.
      progress: function called with the number of finished searches, from any thread.
    """
    first_seed = whole_number("first_seed", first_seed, 0, 2**32 - 1)
    several = isinstance(searcher, Sequence)
    given: Sequence[Any] = searcher if several else [searcher]
    for one in given:
        _check_space(one, table)
    pool = Pool.of(table.space, table.codes)
    searchers = [dataclasses.replace(one, pool=pool, capacity=capacity) for one in given]
    structure, arrays, numbers = _apart(searchers)
    total = len(searchers) * seeds
    devices = jax.local_devices()[: min(jax.local_device_count(), total)]
    lanes = min(cores(), total) if _can_run_side_by_side(searchers[0], devices) else 1
    mesh = mesh_of(devices, "search")

    share = -(-total // (lanes * len(devices)))
    if progress is not None:
        share = -(-share // PARTS)
    share *= len(devices)
    parts = -(-total // share)
    each = np.arange(share * parts) % total  # all searches of the first searcher, then all of the next
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(first_seed), i))(jnp.asarray(each % seeds))
    finished = itertools.count(1)

    @in_32_bits  # also in separate threads
    @nan_is_data
    def run(part: int) -> Result:
        here = slice(part * share, (part + 1) * share)
        own = jax.tree.map(lambda number: number[each[here] // seeds], numbers)
        found = _run(arrays, own, table, keys[here], structure=structure, mesh=mesh, search=search)
        if progress is not None:
            jax.block_until_ready(found)
            progress(min(next(finished) * share, total))
        return found

    with concurrent.futures.ThreadPoolExecutor(lanes) as threads:
        first = run(0)  # compiles the program, which the other threads then reuse
        rest = threads.map(lambda part: jax.block_until_ready(run(part)), range(1, parts))
        traces = [first, *rest]
    found = jax.tree.map(lambda *parts: jnp.concatenate(parts)[:total], *traces)
    if not several:
        return found
    return jax.tree.map(lambda leaf: leaf.reshape(len(searchers), seeds, *leaf.shape[1:]), found)


def _apart(searchers: Sequence[Any]) -> tuple[jax.tree_util.PyTreeDef, list[Array | None], list[np.ndarray | None]]:
    """Splits searchers into what they share, the structure and the pool's arrays, and numbers with a row per searcher.

    For every leaf, one of the two lists has None.
    """
    if not searchers:
        raise ValueError("simulate needs at least one searcher; got none")
    flat = [jax.tree.flatten(searcher) for searcher in searchers]
    structures: list[Any] = [structure for _, structure in flat]
    for i, structure in enumerate(structures):
        if structure != structures[0]:
            kinds = [type(searchers[j]).__name__ for j in (0, i)]
            raise ValueError(
                f"searchers of one simulation must differ only in numbers; searcher 0 ({kinds[0]}) and searcher {i} "
                f"({kinds[1]}) differ in more: simulate them separately"
            )
    columns = list(zip(*(leaves for leaves, _ in flat), strict=True))
    common = [np.ndim(column[0]) > 0 and all(leaf is column[0] for leaf in column) for column in columns]
    arrays = [column[0] if shared else None for column, shared in zip(columns, common, strict=True)]
    numbers = [None if shared else np.stack(column) for column, shared in zip(columns, common, strict=True)]
    return structures[0], arrays, numbers


def _can_run_side_by_side(searcher: Any, devices: list[jax.Device]) -> bool:
    """Returns whether programs may run concurrently on one CPU device.

    On the CPU, one LAPACK call over a batch of matrices spreads them over the thread pool that runs the program itself,
    and waits for them. Two such programs at once can fill the pool with waiting threads and deadlock. Searchers of this
    package make no such call; other searchers may.
    """
    ours = type(searcher).__module__.startswith("lanas_jax.")
    return ours and len(devices) == 1 and devices[0].platform == "cpu"


@jax.jit(static_argnames=("structure", "mesh", "search"))
def _run(
    arrays: Any,
    numbers: Any,
    table: Table,
    keys: Key[Array, " k"],
    *,
    structure: jax.tree_util.PyTreeDef,
    mesh: Mesh,
    search: Search[Result],
) -> Result:
    def on_device(arrays: Any, table: Table, numbers: Any, keys: Key[Array, " k"]) -> Result:
        def one(own: tuple[Any, Array]) -> Result:
            leaves = [b if a is None else a for a, b in zip(arrays, own[0], strict=True)]
            return search(jax.tree.unflatten(structure, leaves), table, own[1])

        return jax.lax.map(one, (numbers, keys))

    everywhere, spread = PartitionSpec(), PartitionSpec("search")
    inputs = (everywhere, everywhere, spread, spread)
    program = jax.shard_map(on_device, mesh=mesh, in_specs=inputs, out_specs=spread, check_vma=False)
    return program(arrays, table, numbers, keys)


@dataclasses.dataclass(frozen=True)
class _InBatches:
    """A search that tells all values of a batch before the next ask."""

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
        whole = Trace(jax.lax.collapse(trace.codes, 0, 2), jax.lax.collapse(trace.values, 0, 2))
        if self.budget % self.batch:
            rest = step(state, self.budget % self.batch)[1]
            whole = Trace(jnp.concatenate([whole.codes, rest.codes]), jnp.concatenate([whole.values, rest.values]))
        return whole
