"""Benchmark of a search on several hosts: the time of process 0 per batch, besides evaluation.

    python -m lanas_jax.experiments.benchmarks.hosts
    python -m lanas_jax.experiments.benchmarks.hosts --processes 4 --batch 256 --batches 20

The processes run on this machine. The evaluator does nothing, so a batch costs what the driver adds: the searcher's
`ask` and `tell`, the trial store and, with several processes, the order with all codes and keys and the answers of the
other processes. The same search by one process shows the share of the searcher and the store.

On one core of a busy AMD EPYC with jax 0.10.2 (28 November 2026), random search, codes of 32 integers::

    1 process: 1147.7 ms per batch of 256 trials, at most 7700.0
    2 processes: 1041.4 ms per batch of 256 trials, at most 6291.5
    orders and answers: 20.4 ms per batch of 256 trials, at most 33.9

An earlier run on a less busy core took 304.6 ms by one process and 299.0 ms by two. A later one, beside some 15 other
computing processes on two cores (29 November 2026), took 2,450.8 and 2,228.3 ms; orders and answers took 38.3 ms, at
most 90.9.
"""

import dataclasses
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import lanas_jax as lx
from lanas_jax import study
from lanas_jax.commands import help_text
from lanas_jax.evaluators.base import Outcome
from lanas_jax.runtime import distributed
from lanas_jax.runtime.joining import Hosts, join_hosts
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.study import Experiment, run_folder
from lanas_jax.study.all_hosts import AllHosts, Lead, Stop, follow, studying
from lanas_jax.study.experiment import Silence


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark.

    Attributes:
      processes: number of processes.
      batch: number of trials per batch.
      batches: number of timed batches; one more comes before, which compiles the searcher.
      seed: random seed.
      hosts: settings of a process that the benchmark started; not for the command line.
    """

    processes: int = 2
    batch: int = 256
    batches: int = 10
    seed: int = 0
    hosts: Hosts = dataclasses.field(default_factory=Hosts)


class Nothing:
    """An evaluator that does nothing."""

    def evaluate(self, codes, keys) -> list[Outcome]:
        """Returns the value 0 for every code."""
        del keys
        return [Outcome(0.0) for _ in codes]


class TimedLead:
    """Sends orders as `Lead` does, and records the seconds that they take besides the calls that they order."""

    def __init__(self) -> None:
        self._lead = Lead()
        self.seconds: list[float] = []

    def call(self, name, arguments, do):
        """Orders a call."""
        inside = [0.0, 0.0]

        def timed():
            inside[0] = time.perf_counter()
            found = do()
            inside[1] = time.perf_counter()
            return found

        began = time.perf_counter()
        found = self._lead.call(name, arguments, timed)
        self.seconds.append(time.perf_counter() - began - (inside[1] - inside[0]))
        return found

    def stop(self, stop: Stop) -> None:
        """Ends the orders."""
        self._lead.stop(stop)


class Clock(Silence):
    """Records when batches are finished."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def finished(self, batch) -> None:
        """Called when a batch is finished."""
        self.ends.append(time.perf_counter())


def build(config: Config) -> Experiment:
    """Returns the search."""
    space = NASNetSpace(4, two_cells=True, channels=8, cells=3, image_size=8, image_channels=1, classes=10)
    budget = config.batch * (config.batches + 1)
    return Experiment("hosts", space, lx.RandomSearch(space), Nothing(), budget, config.batch, config.seed)


def milliseconds_per_batch(config: Config, folder: Path, workers=None) -> np.ndarray:
    """Runs the search and returns the milliseconds of each batch but the first."""
    clock = Clock()
    study.run(build(config), folder, clock, workers=workers)
    return 1e3 * np.diff(clock.ends)


def one_of_several(config: Config, folder: Path) -> None:
    """Runs the search as one of several processes; process 0 prints."""
    join_hosts(config.hosts, sys.exit)
    experiment = build(config)
    if not distributed.is_first_process():
        follow(studying(experiment, run_folder.Run(folder, {})))
        return
    lead = TimedLead()
    taken = milliseconds_per_batch(config, folder, AllHosts(experiment, lead))
    lead.stop(Stop())
    show(f"{config.processes} processes", config, taken)
    show("orders and answers", config, 1e3 * np.array(lead.seconds[1:]))


def show(name: str, config: Config, taken: np.ndarray) -> None:
    """Prints the median and the largest time of a batch."""
    print(
        f"{name}: {np.median(taken):.1f} ms per batch of {config.batch} trials, at most {taken.max():.1f}", flush=True
    )


def main(config: Config) -> None:
    """Runs the search by one process and by several, and prints the results."""
    with tempfile.TemporaryDirectory() as folder:
        show("1 process", config, milliseconds_per_batch(config, Path(folder) / "one"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        words = [f"--{name}={getattr(config, name)}" for name in ("processes", "batch", "batches", "seed")]
        command = [sys.executable, "-m", "lanas_jax.experiments.benchmarks.hosts", *words]
        hosts = [f"--hosts.coordinator={coordinator}", f"--hosts.count={config.processes}"]
        processes = [
            subprocess.Popen([*command, *hosts, f"--hosts.index={i}"], cwd=folder) for i in range(config.processes)
        ]
        assert [process.wait() for process in processes] == [0] * config.processes


if __name__ == "__main__":
    given = help_text.parse_documented(Config, __doc__)
    if given.hosts.alone:
        main(given)
    else:
        one_of_several(given, Path("several").absolute())
