"""Comparison of searchers on one table, with equal budgets and equal counting.

For every searcher, a sample is a distinct valid architecture. Searchers of this package run in `simulate`, or with many
asynchronous workers in `simulate_workers`, many seeds in one program. Peers, which are searchers of other packages, run
one seed per process.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from lanas_jax.comparison import peers
from lanas_jax.comparison.simulated_workers import WorkersTrace, simulate_workers
from lanas_jax.comparison.simulation import Progress, Trace, refuse_below_one, refuse_repeated, simulate
from lanas_jax.comparison.statistics import (
    REGRET_AT,
    TOP_SHARE,
    Interval,
    Quartiles,
    Values,
    bootstrap,
    quartiles,
    random_samples,
    regret,
    samples_to,
    times_to,
    top_value,
)
from lanas_jax.runtime.devices import cores
from lanas_jax.searchers.action_mcts import ActionMCTS
from lanas_jax.searchers.bayesian_optimization import BayesianOptimization
from lanas_jax.searchers.evolution import RegularizedEvolution
from lanas_jax.searchers.lanas import LaNAS
from lanas_jax.searchers.local_search import LocalSearch
from lanas_jax.searchers.random_search import RandomSearch
from lanas_jax.tables.base import Table

SEARCHERS: dict[str, Callable[..., Any]] = {
    "lanas": LaNAS,
    "paper": LaNAS.paper,
    "random": RandomSearch,
    "evolution": RegularizedEvolution,
    "local": LocalSearch,
    "bo": BayesianOptimization,
    "mcts": ActionMCTS,
}
NAMES = (*SEARCHERS, *peers.NAMES)


class Traces(NamedTuple):
    """The samples of all searches by one searcher."""

    values: Values
    winners: Int[np.ndarray, "seeds dims"]
    seconds: float  # core seconds per sample
    times: Values | None = None  # completion times, if workers were simulated


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The results of one searcher.

    Attributes:
      name: name of the searcher.
      values: value of each distinct valid architecture tried, NaN after a search ended; float32[seeds, budget].
      winners: best architecture of each search; int32[seeds, dims].
      to_optimum: number of samples to the table's optimum.
      to_top: number of samples to the best `top_share` of the table.
      expected: exact median of `to_optimum` for random search, which exceeds most budgets; None for other searchers.
      regrets: mean regret with its bootstrap interval, after each number of samples in `REGRET_AT` within the budget.
      seconds_per_sample: seconds of one CPU core, or of the accelerator, per sample, without compilation.
      workers: number of asynchronous workers; None for synchronous batches.
      times: completion time of each of `values` with workers, in mean training times; float32[seeds, budget].
      time_to_optimum: time to the table's optimum with workers, in mean training times.
      top_share: share of the table's architectures that count as its top.
    """

    name: str
    values: Values
    winners: Int[np.ndarray, "seeds dims"]
    to_optimum: Quartiles
    to_top: Quartiles
    expected: int | None
    regrets: dict[int, Interval]
    seconds_per_sample: float
    workers: int | None = None
    times: Values | None = None
    time_to_optimum: Quartiles | None = None
    top_share: float = TOP_SHARE


def compare_searchers(
    table: Table,
    names: Sequence[str],
    *,
    budget: int = 400,
    seeds: int = 200,
    batch: int = 1,
    first_seed: int = 0,
    workers: Sequence[int] = (),
    top_share: float = TOP_SHARE,
    note: Callable[[Comparison], object] = lambda done: None,
    progress: Callable[[str, int | None, int], object] = lambda name, workers, searches: None,
) -> list[Comparison]:
    """Runs each searcher `seeds` times on a table. The budget is reduced to the size of the table.

    Args:
      table: benchmark table.
      names: names of searchers and peers, from `NAMES`.
      budget: number of distinct valid architectures per search.
      seeds: number of searches per searcher.
      batch: number of architectures per ask; always one for peers.
      first_seed: seed of all searches.
      workers: numbers of asynchronous workers; each searcher runs with each number. Empty for synchronous batches.
      top_share: share of the table's architectures that count as its top, in (0, 1].
      note: function called with the result of each searcher as soon as it is available.
      progress: function called with the name of a searcher, its number of workers (None for synchronous batches), and
        the number of its finished searches; with 0 when it starts, and possibly from another thread.

    Raises:
      ValueError: a name is unknown or given twice; or budget, seeds, batch or workers is below 1; or `top_share` is not
        in (0, 1]; or workers are combined with batches or peers; or a peer cannot search the table.
      MissingPeerError: the package of a peer is not installed.
    """
    refuse_below_one(budget=budget, seeds=seeds, batch=batch)
    _check_workers(workers, names, batch)
    if not 0 < top_share <= 1:
        raise ValueError(f"top_share must be above 0 and at most 1; got {top_share}")
    unknown = [name for name in names if name not in NAMES]
    refuse_repeated("the searcher", names)
    if unknown:
        raise ValueError(f"there is no searcher {unknown[0]!r}; choose from {', '.join(NAMES)}")
    for name in names:
        if name in peers.NAMES:
            peers.require(name)
            peers.refuse_sample(name, table)
    budget = min(budget, len(table))
    results = []
    for name in names:
        for at_once in workers or (None,):
            advance = functools.partial(progress, name, at_once)
            advance(0)
            if name in peers.NAMES:
                traces = _by_peer(name, table, budget, seeds, first_seed, advance)
            else:
                searcher = SEARCHERS[name](table.space, pool=table.codes)
                traces = _by_program(_simulation(searcher, table, budget, seeds, batch, first_seed, at_once, advance))
            results.append(judge(name, traces, np.asarray(table.values), at_once, top_share))
            note(results[-1])
    return results


def _check_workers(workers: Sequence[int], names: Sequence[str], batch: int) -> None:
    for number in workers:
        refuse_below_one(workers=number)
    refuse_repeated("the number of workers", workers)
    if workers and batch != 1:
        raise ValueError(f"workers ask for one sample at a time, but batch is {batch}: leave out batch or workers")
    alone = [name for name in names if name in peers.NAMES]
    if workers and alone:
        raise ValueError(f"{alone[0]} runs one trial at a time, without workers: leave it out, or leave out workers")


def judge(
    name: str,
    traces: Traces,
    table: Float[np.ndarray, " m"],
    workers: int | None = None,
    top_share: float = TOP_SHARE,
) -> Comparison:
    """Computes the results of one searcher from its traces and all values of the table."""
    values, times = traces.values, traces.times
    best, budget = float(table.max()), values.shape[1]
    shortfall = regret(values, best)
    return Comparison(
        name,
        values,
        traces.winners,
        quartiles(samples_to(values, best)),
        quartiles(samples_to(values, top_value(table, top_share))),
        random_samples(len(table), int((table == table.max()).sum())) if name == "random" else None,
        {n: bootstrap(shortfall[:, n - 1]) for n in REGRET_AT if n <= budget},
        traces.seconds,
        workers,
        times,
        None if times is None else quartiles(times_to(values, times, best)),
        top_share,
    )


def _simulation(
    searcher: Any,
    table: Table,
    budget: int,
    seeds: int,
    batch: int,
    first_seed: int,
    workers: int | None,
    progress: Progress,
) -> Callable[[], Trace | WorkersTrace]:
    how: dict[str, Any] = {"first_seed": first_seed, "progress": progress}
    if workers is None:
        return lambda: simulate(searcher, table, budget, seeds, batch=batch, **how)
    return lambda: simulate_workers(searcher, table, workers, budget, seeds, **how)


def _by_program(simulation: Callable[[], Trace | WorkersTrace]) -> Traces:
    compiling: list[float] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            compiling.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    start = time.perf_counter()
    try:
        trace = jax.block_until_ready(simulation())
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    running = max(time.perf_counter() - start - sum(compiling), 0.0)
    codes, values = np.asarray(trace.codes), np.asarray(trace.values)
    seeds = len(values)
    winners = codes[np.arange(seeds), np.nanargmax(values, axis=1)]
    busy = min(cores(), seeds) if jax.default_backend() == "cpu" else 1
    times = np.asarray(trace.times) if isinstance(trace, WorkersTrace) else None
    return Traces(values, winners, running * busy / values.size, times)


def _by_peer(name: str, table: Table, budget: int, seeds: int, first_seed: int, progress: Progress) -> Traces:
    """Runs one search per process, with as many processes as cores."""
    context = multiprocessing.get_context("spawn")
    answers = peers.Answers.of(table, budget, is_sample=peers.lacks_codes(table))
    searches = []
    with one_thread_each(), concurrent.futures.ProcessPoolExecutor(min(cores(), seeds), context) as pool:
        futures = [pool.submit(peers.search_by_peer, name, answers, first_seed * seeds + i) for i in range(seeds)]
        try:
            for done, future in enumerate(futures, start=1):
                searches.append(future.result())
                progress(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    values, winners, seconds = zip(*searches, strict=True)
    return Traces(np.stack(values), np.array(winners, np.int32), float(np.mean(seconds)))


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Limits processes started inside this context to one thread, so that each uses one core."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
