"""Comparison of searchers for a front on a table with several objectives, with equal budgets and equal counting.

A search is judged by the hypervolume of its trials, as a share of the hypervolume of the whole table, and by the share
of the table's front that it found. Searchers of this package run in `simulate`, many seeds in one program; peers run
one seed per process.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

from lanas_jax.comparison import optuna_searcher, peers
from lanas_jax.comparison.compare import one_thread_each
from lanas_jax.comparison.simulation import refuse_below_one, refuse_repeated, simulate
from lanas_jax.comparison.statistics import REGRET_AT, Interval, bootstrap
from lanas_jax.runtime.devices import cores
from lanas_jax.searchers.dominance import front_rows
from lanas_jax.searchers.hypervolume import reference_below, volumes_after
from lanas_jax.searchers.nsga2 import NSGA2
from lanas_jax.searchers.pareto_lanas import ParetoLaNAS
from lanas_jax.searchers.random_search import RandomSearch
from lanas_jax.tables.base import Table

SEARCHERS = ("pareto", "nsga2", "random")
PEERS = {"optuna-nsga2": optuna_searcher.OptunaNSGA2, "optuna-tpe": optuna_searcher.OptunaTPE}
NAMES = (*SEARCHERS, *PEERS)
LABELS = {
    "pareto": "ParetoLaNAS",
    "nsga2": "NSGA-II",
    "random": "random search",
    "optuna-nsga2": "Optuna NSGA-II",
    "optuna-tpe": "Optuna TPE, several objectives",
}
POINTS = 40  # numbers of samples at which the hypervolume is computed, besides those of REGRET_AT

Shares = Float[np.ndarray, "seeds points"]


class FrontProblem(NamedTuple):
    """A table with several objectives, and how searches on it are judged."""

    table: Table
    objectives: tuple[str, ...]
    reference: tuple[float, ...]  # values of the objectives below which a network is of no use
    front: Bool[np.ndarray, " m"]  # rows of the table on its front
    largest: float  # hypervolume of the table

    @classmethod
    def of(cls, table: Table, objectives: Sequence[str], reference: Sequence[float] | None = None) -> "FrontProblem":
        """Returns the problem of a table.

        Args:
          table: table with a column per objective.
          objectives: names of the objectives.
          reference: values below which a network is of no use; None for the worst values on the table's front minus a
            tenth of the front's range, or of the table's range where the front has a single value.

        Raises:
          ValueError: the reference has another length, or no network of the table is above it.
        """
        values = np.asarray(table.values)
        front = front_rows(values)
        given = tuple(map(float, reference_below(values, front) if reference is None else reference))
        if len(given) != len(objectives):
            raise ValueError(f"the reference needs a value for each of {', '.join(objectives)}; got {len(given)}")
        problem = cls(table, tuple(objectives), given, front, 1.0)
        largest = float(problem.volumes(values[front][None], [int(front.sum())])[0, 0])
        if largest <= 0:
            raise ValueError("the reference is too good: no network of the table is better in every objective")
        return problem._replace(largest=largest)

    def volumes(self, values: Float[np.ndarray, "seeds n k"], points: Sequence[int]) -> Shares:
        """Returns the hypervolume of the first trials of each search, for each number of trials in `points`.

        Objectives are divided by their standard deviations over the table.
        """
        table = np.asarray(self.table.values, np.float64)
        scale = np.maximum(table.std(axis=0), 1e-30)
        above = ((values - np.array(self.reference)) / scale).astype(np.float32)
        above = np.nan_to_num(above, nan=-1.0)
        return volumes_after(above, points)


@dataclasses.dataclass(frozen=True)
class FrontComparison:
    """The results of one searcher.

    Attributes:
      name: name of the searcher.
      values: objectives of each distinct valid architecture tried, NaN after a search ended; float32[seeds, budget, k].
      points: numbers of samples at which the hypervolume is computed.
      shares: hypervolume of each search after these samples, as a share of the table's.
      found: share of the table's front that each search found after these samples.
      left: mean share of the hypervolume left to gain, with its bootstrap interval, after each number in `REGRET_AT`.
      front: mean share of the front found, likewise.
      seconds_per_sample: seconds of one CPU core, or of the accelerator, per sample, compilation included.
    """

    name: str
    values: Float[np.ndarray, "seeds budget k"]
    points: tuple[int, ...]
    shares: Shares
    found: Shares
    left: dict[int, Interval]
    front: dict[int, Interval]
    seconds_per_sample: float


def compare_fronts(
    problem: FrontProblem,
    names: Sequence[str],
    *,
    budget: int = 200,
    seeds: int = 200,
    batch: int = 1,
    first_seed: int = 0,
    inform: bool = False,
    note: Callable[[FrontComparison], object] = lambda done: None,
    progress: Callable[[str, int | None, int], object] = lambda name, workers, searches: None,
) -> list[FrontComparison]:
    """Runs each searcher `seeds` times on a table. The budget is reduced to the size of the table.

    Args:
      problem: table, objectives and reference.
      names: names of searchers and peers, from `NAMES`.
      budget: number of distinct valid architectures per search.
      seeds: number of searches per searcher.
      batch: number of architectures per ask; always one for peers.
      first_seed: seed of all searches.
      inform: True to give ParetoLaNAS the reference of the problem; the other searchers have no use for it.
      note: function called with the result of each searcher as soon as it is available.
      progress: function called with the name of a searcher, None, and the number of its finished searches; with 0 when
        it starts, and possibly from another thread.

    Raises:
      ValueError: a name is unknown or given twice; budget, seeds or batch is below 1; or the table is a sample of its
        space, of which a peer would propose hardly any code.
      MissingPeerError: the package of a peer is not installed.
    """
    refuse_below_one(budget=budget, seeds=seeds, batch=batch)
    unknown = [name for name in names if name not in NAMES]
    refuse_repeated("the searcher", names)
    if unknown:
        raise ValueError(f"there is no searcher {unknown[0]!r} for several objectives; choose from {', '.join(NAMES)}")
    alone = [name for name in names if name in PEERS]
    if alone:
        peers.require("tpe")
    if alone and peers.lacks_codes(problem.table):
        raise ValueError(
            f"{alone[0]} proposes codes of the whole space, but the table has only {len(problem.table):,} of "
            f"{problem.table.space.size:,}: leave {alone[0]} out"
        )
    space, objectives = problem.table.space, problem.objectives
    searchers: dict[str, Callable[[], Any]] = {
        "pareto": lambda: ParetoLaNAS(
            space, objectives, pool=problem.table.codes, reference=problem.reference if inform else None
        ),
        "nsga2": lambda: NSGA2(space, objectives, pool=problem.table.codes),
        "random": lambda: RandomSearch(space, pool=problem.table.codes, objectives=len(objectives)),
    }
    budget = min(budget, len(problem.table))
    results = []
    for name in names:
        progress(name, None, 0)
        start = time.perf_counter()

        def advance(done: int, name: str = name) -> None:
            progress(name, None, done)

        if name in PEERS:
            values = _by_peer(name, problem.table, budget, seeds, first_seed, advance)
        else:
            how: dict[str, Any] = {"batch": batch, "first_seed": first_seed, "progress": advance}
            values = np.asarray(simulate(searchers[name](), problem.table, budget, seeds, **how).values)
        busy = min(cores(), seeds) if jax.default_backend() == "cpu" or name in PEERS else 1
        results.append(judge_front(name, problem, values, (time.perf_counter() - start) * busy / (seeds * budget)))
        note(results[-1])
    return results


def judge_front(
    name: str, problem: FrontProblem, values: Float[np.ndarray, "seeds budget k"], seconds: float
) -> FrontComparison:
    """Computes the results of one searcher from the objectives of its trials."""
    budget = values.shape[1]
    spread = np.linspace(1, budget, min(POINTS, budget)).astype(int)
    points = tuple(sorted({*spread.tolist(), *(n for n in REGRET_AT if n <= budget)}))
    shares = problem.volumes(values, points) / problem.largest
    wanted = np.unique(np.asarray(problem.table.values)[problem.front], axis=0)
    hits = (values[:, :, None] == wanted[None, None]).all(axis=3)
    found = np.stack([hits[:, :n].any(axis=1).mean(axis=1) for n in points], axis=1)
    at = {n: points.index(n) for n in REGRET_AT if n in points}
    return FrontComparison(
        name,
        values,
        points,
        shares,
        found,
        {n: bootstrap(np.maximum(1 - shares[:, i], 0.0)) for n, i in at.items()},
        {n: bootstrap(found[:, i]) for n, i in at.items()},
        seconds,
    )


def _by_peer(
    name: str, table: Table, budget: int, seeds: int, first_seed: int, progress: Callable[[int], object]
) -> Float[np.ndarray, "seeds budget k"]:
    """Runs one search per process, with as many processes as cores."""
    context = multiprocessing.get_context("spawn")
    arrays = table.space, np.asarray(table.codes), np.asarray(table.values)
    with one_thread_each(), concurrent.futures.ProcessPoolExecutor(min(cores(), seeds), context) as pool:
        futures = [
            pool.submit(search_front_by_peer, name, *arrays, budget, first_seed * seeds + i) for i in range(seeds)
        ]
        searches = []
        try:
            for done, future in enumerate(futures, start=1):
                searches.append(future.result())
                progress(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return np.stack(searches)


def search_front_by_peer(
    name: str, space: Any, codes: np.ndarray, values: Float[np.ndarray, "m k"], budget: int, seed: int
) -> Float[np.ndarray, "budget k"]:
    """Runs one search by a peer in this process; NaN once it only repeats earlier codes.

    Args:
      name: name of the peer, one of `PEERS`.
      space: search space.
      codes: codes of the table.
      values: objectives of each code.
      budget: number of distinct architectures.
      seed: random seed of the peer.
    """
    known = dict(zip(map(tuple, codes.tolist()), values, strict=True))
    searcher = PEERS[name](space, values.shape[1])
    state = searcher.init(jax.random.key(seed))
    tried = np.full((budget, values.shape[1]), np.nan, np.float32)
    count = 0
    while count < budget:
        state, asked = searcher.ask(state, 1)
        if int(asked[0, 0]) < 0:
            break
        value = known.get(tuple(np.asarray(asked)[0].tolist()))
        state = searcher.tell(state, asked, np.full((1, values.shape[1]), np.nan) if value is None else value[None])
        if value is not None:  # a valid code that the table lacks is not counted
            tried[count] = value
            count += 1
    return tried
