"""How fast searching is: simulations, one draw from a large pool, spaces too large to list, and Optuna and SMAC3.

Four parts, each printed as soon as it is there:

- *simulation*: 200 searches of 300 samples in batches of 5 on NAS-Bench-201, as one call of `lx.simulate`, compilation
  included; then the same again with other keys
- *one draw*: `tell` and `ask` of one trial with 300 told before, over a pool of all 423,624 graphs of NAS-Bench-101:
  refit, route and draw
- *size of the space*: the same over spaces of 1e10 to 1e60 codes, drawn by chains over the lattice; and the share of
  the chains' moves that were accepted
- *peers*: seconds of a processor per sample of Optuna's TPE and SMAC3 (extra `peers`) on NAS-Bench-201, as multiples of
  ours in the same run

NAS-Bench-201 is looked up as ``lanas tables`` says; without it, the first part and the last are left out. Run it on an
otherwise idle machine; it takes three minutes on 2 CPU cores::

    python -m experiments.benchmarks.search [--json PATH]

On 2 cores of an AMD EPYC with jax 0.10.2 the simulation took 15.5 s, and 9.9 s again; one draw from NAS-Bench-101
21 ms; one draw from 1e10, 1e20, 1e30, 1e40 and 1e60 codes 14, 19, 20, 21 and 26 ms. A sample took Optuna's TPE 2.3
times and SMAC3 207 times as long as ours, 0.96 ms. On an NVIDIA H100 with jax 0.11.2, where searches follow one
another, an earlier state of the simulation took 36.1 s, and 26.4 s again; one draw from NAS-Bench-101 15 ms.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from rich.console import Console

import lanas_jax as lx
from lanas_jax.comparison import peers
from lanas_jax.comparison.compare import compare_searchers
from lanas_jax.formats.errors import FileError
from lanas_jax.runtime.devices import cores
from lanas_jax.tables import catalogue

TOLD = 300  # trials before a draw is timed
REPEATS = 7  # of which the median is reported


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark.

    Attributes:
      seeds: searches in the simulation.
      budget: samples of each.
      batch: samples asked for at a time.
      peer_seeds: searches by each peer.
      peer_budget: samples of each of those.
      json: where to write the figures, in addition to printing them.
    """

    seeds: int = 200
    budget: int = 300
    batch: int = 5
    peer_seeds: int = 2
    peer_budget: int = 100
    json: Path | None = None


def main(config: Config) -> dict[str, Any]:
    """Runs all parts, prints and returns the figures (seconds)."""
    console = Console(width=118, highlight=False)
    figures: dict[str, Any] = {"device": str(jax.devices()[0]), "cores": cores()}
    try:
        table = catalogue.find_benchmark("nasbench201-cifar10").table()
    except FileError as error:
        console.print(f"without NAS-Bench-201: {error}")
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
    """Seconds of one call of `lx.simulate`, and of one more."""

    def run(first_seed: int) -> float:
        start = time.perf_counter()
        searcher = lx.LaNAS(table.space)
        trace = lx.simulate(searcher, table, config.budget, config.seeds, batch=config.batch, first_seed=first_seed)
        jax.block_until_ready(trace)
        return time.perf_counter() - start

    return {"first": run(0), "again": run(1)}


def draw_from_nasbench101() -> float:
    """Seconds of a tell and an ask over all graphs of NAS-Bench-101."""
    space = lx.NASBench101Space()
    searcher = lx.LaNAS(space, pool=space.enumerate(), capacity=TOLD + 100)
    return _draw(searcher, lambda codes: np.asarray(space.features(codes))[:, :20].sum(axis=1))[0]


def draw_from_lattice(exponent: int) -> tuple[float, float]:
    """Seconds of a tell and an ask over a product of choices of ten options, and the share of moves accepted."""
    space = lx.SearchSpace([lx.Choice(f"choice {i}", "abcdefghij") for i in range(exponent)])
    effects = np.random.default_rng(0).normal(size=(exponent, 10))
    searcher = lx.LaNAS(space, capacity=TOLD + 100)
    return _draw(searcher, lambda codes: effects[np.arange(exponent), codes].sum(axis=1))


def _draw(searcher: lx.LaNAS, value: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
    """Median seconds of a tell of one trial and the ask that follows, and the last share of moves accepted."""
    state = searcher.init(jax.random.key(0))
    warming_up = lx.RandomSearch(searcher.space, pool=searcher.pool, capacity=TOLD)
    _, codes = warming_up.ask(warming_up.init(jax.random.key(1)), TOLD)
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
    """Seconds of a processor per sample, and how many times ours that is; of the peers that are installed."""
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
    main(tyro.cli(Config))
