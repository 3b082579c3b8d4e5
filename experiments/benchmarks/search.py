"""Speed of the search: simulations, one draw from a large pool, very large spaces, and Optuna and SMAC3.

Four parts, each printed as soon as it is measured:

- *simulation*: 200 searches of 300 samples in batches of 5 on NAS-Bench-201, as one call of `lx.simulate`, including
  compilation; then a second call with other keys
- *one draw*: `tell` and `ask` of one trial after 300 trials, over a pool of all 423,624 graphs of NAS-Bench-101:
  refit, route and draw
- *size of the space*: the same over spaces of 1e10 to 1e60 codes, drawn by chains over the lattice, with the share of
  accepted moves
- *peers*: processor seconds per sample of Optuna's TPE and SMAC3 (extra `peers`) on NAS-Bench-201, as multiples of
  ours in the same run

``lanas tables`` lists where NAS-Bench-201 is looked up; without it, the first and the last part are skipped. Run it on
an otherwise idle machine; it takes three minutes on 2 CPU cores::

    python -m lanas_jax.experiments.benchmarks.search [--json PATH]

On 2 cores of an AMD EPYC with jax 0.10.2 the simulation took 15.1 s, and 9.0 s again; one draw from NAS-Bench-101
16 ms; one draw from 1e10, 1e20, 1e30, 1e40 and 1e60 codes 9, 9, 11, 12 and 15 ms. Our time per sample was 0.66 ms;
Optuna's TPE took 2.1 times and SMAC3 204 times as long. On an NVIDIA H100 with jax 0.11.2, where searches run
sequentially, an earlier version of the simulation took 36.1 s, and 26.4 s again; one draw from NAS-Bench-101 15 ms.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import lanas_jax as lx
from lanas_jax.commands import help_text
from lanas_jax.comparison import peers
from lanas_jax.comparison.compare import compare_searchers
from lanas_jax.formats.errors import FileError
from lanas_jax.runtime.console import terminal
from lanas_jax.runtime.devices import cores
from lanas_jax.tables import catalogue

RESULTS = 300  # number of trials before the timed draw
REPEATS = 7  # timed repeats, of which the median is reported


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark.

    Attributes:
      seeds: number of searches in the simulation.
      budget: number of samples per search.
      batch: number of samples per ask.
      peer_seeds: number of searches per peer.
      peer_budget: number of samples per search of a peer.
      json: output file of the figures; default: none.
    """

    seeds: int = 200
    budget: int = 300
    batch: int = 5
    peer_seeds: int = 2
    peer_budget: int = 100
    json: Path | None = None


def main(config: Config) -> dict[str, Any]:
    """Runs all parts, prints and returns the figures (seconds)."""
    console = terminal(width=118)
    figures: dict[str, Any] = {"device": str(jax.devices()[0]), "cores": cores()}
    try:
        table = catalogue.find_benchmark("nasbench201-cifar10").table()
    except FileError as error:
        console.print(f"NAS-Bench-201 is not available, so the parts that need it are skipped: {error}")
        table = None
    if table is not None:
        figures["simulation"] = simulation(config, table)
        console.print("simulation: first call {first:.1f} s, again {again:.1f} s".format(**figures["simulation"]))
    figures["one draw, 423,624 codes"] = draw_from_nasbench101()
    console.print(f"one draw from 423,624 codes: {1e3 * figures['one draw, 423,624 codes']:.1f} ms")
    figures["lattice"] = {}
    for exponent in (10, 20, 30, 40, 60):
        seconds, rate = draw_from_lattice(exponent)
        figures["lattice"][f"1e{exponent}"] = {"seconds": seconds, "accepted": rate}
        console.print(f"one draw from 1e{exponent} codes: {1e3 * seconds:.1f} ms, {rate:.0%} of moves accepted")
    if table is not None:
        figures["peers"] = against_peers(config, table)
        for name, about in figures["peers"].items():
            console.print(f"{name}: {1e3 * about['seconds']:.3g} ms per sample, {about['ratio']:.3g} times ours")
    if config.json is not None:
        config.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return figures


def simulation(config: Config, table: lx.Table) -> dict[str, float]:
    """Returns the seconds of one call of `lx.simulate`, and of a second call."""

    def run(first_seed: int) -> float:
        start = time.perf_counter()
        searcher = lx.LaNAS(table.space)
        trace = lx.simulate(searcher, table, config.budget, config.seeds, batch=config.batch, first_seed=first_seed)
        jax.block_until_ready(trace)
        return time.perf_counter() - start

    return {"first": run(0), "again": run(1)}


def draw_from_nasbench101() -> float:
    """Returns the seconds of a tell and an ask over all graphs of NAS-Bench-101."""
    space = lx.NASBench101Space()
    searcher = lx.LaNAS(space, pool=space.enumerate(), capacity=RESULTS + 100)
    return _draw(searcher, lambda codes: np.asarray(space.features(codes))[:, :20].sum(axis=1))[0]


def draw_from_lattice(exponent: int) -> tuple[float, float]:
    """Returns the seconds of a tell and an ask over choices of ten options each, and the share of accepted moves."""
    space = lx.SearchSpace([lx.Choice(f"choice {i}", "abcdefghij") for i in range(exponent)])
    effects = np.random.default_rng(0).normal(size=(exponent, 10))
    searcher = lx.LaNAS(space, capacity=RESULTS + 100)
    return _draw(searcher, lambda codes: effects[np.arange(exponent), codes].sum(axis=1))


def _draw(searcher: lx.LaNAS, value: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
    """Returns the median seconds of a tell of one trial and the next ask, and the last share of accepted moves."""
    state = searcher.init(jax.random.key(0))
    warming_up = lx.RandomSearch(searcher.space, pool=searcher.pool, capacity=RESULTS)
    _, codes = warming_up.ask(warming_up.init(jax.random.key(1)), RESULTS)
    state = searcher.tell(state, codes, value(np.asarray(codes)).astype(np.float32))
    state, codes = searcher.ask(state, 1)
    seconds = []
    for _ in range(REPEATS + 1):  # the first one compiles
        start = time.perf_counter()
        state = searcher.tell(state, codes, value(np.asarray(codes)).astype(np.float32))
        state, codes = jax.block_until_ready(searcher.ask(state, 1))
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:])), float(state.acceptance)


def against_peers(config: Config, table: lx.Table) -> dict[str, dict[str, float]]:
    """Returns processor seconds per sample of each installed peer, and their ratios to ours."""
    ours = compare_searchers(table, ["lanas"], budget=config.peer_budget, seeds=config.seeds)[0].seconds_per_sample
    figures = {"lanas": {"seconds": ours, "ratio": 1.0}}
    for name in peers.NAMES:
        try:
            result = compare_searchers(table, [name], budget=config.peer_budget, seeds=config.peer_seeds)[0]
        except peers.MissingPeerError:
            continue
        figures[name] = {"seconds": result.seconds_per_sample, "ratio": result.seconds_per_sample / ours}
    return figures


if __name__ == "__main__":
    main(help_text.parse_documented(Config, __doc__))
