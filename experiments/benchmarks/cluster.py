"""Cluster benchmark: driver time per trial, utilisation of the workers, and time to resume a long run.

    python -m lanas_jax.experiments.benchmarks.cluster
    python -m lanas_jax.experiments.benchmarks.cluster --trials 400 --seconds 2 --resumed 1000

It needs the extra `ray`, and NAS-Bench-201's table in the folder LANAS_DATA. Ray runs on this machine only. Each worker
runs many trials at a time in threads, which look up the value and wait, as if as many devices trained them. Searching,
the store, Ray's messages and the processes are real; training is simulated.

Utilisation (busy) is the share of the time that slots for trials spend evaluating, from the time when all slots are
used until the last trial is started. The time of a trial is uniform between 0.5 and 1.5 times the mean.

On 2 cores of an AMD EPYC with jax 0.10.2 and Ray 2.60 (26 November 2026)::

    2,000 trials of 10 s, 200 at a time, took 122 s
    driver: 16.3 ms a trial (ask, tell, store, messages); workers busy 99.4% of the time
    a store of 10,000 trials, 2.2 MiB (19.6 ms each), resumes in 1.15 s

(The last line was measured on a busy machine.)
"""

import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np

import lanas_jax as lx
from lanas_jax import study
from lanas_jax.cluster import connection
from lanas_jax.cluster.cluster import Cluster
from lanas_jax.cluster.settings import ClusterSettings
from lanas_jax.commands import help_text
from lanas_jax.evaluators.base import Outcome
from lanas_jax.evaluators.from_table import FromTable
from lanas_jax.storage.checkpoints import Checkpoints
from lanas_jax.storage.trial import Trial
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study import Experiment, run_folder
from lanas_jax.study.experiment import Silence
from lanas_jax.study.replay import SearchLog
from lanas_jax.tables import catalogue


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark.

    Args:
      table: name of the benchmark table.
      trials: number of trials of the search on the cluster.
      seconds: mean duration of a trial, in seconds.
      workers: number of worker processes.
      calls: number of concurrent trials per worker.
      resumed: number of trials of the resumed run; 0 skips it.
      seed: random seed.
    """

    table: str = "nasbench201-cifar10"
    trials: int = 2000
    seconds: float = 10.0
    workers: int = 8
    calls: int = 25
    resumed: int = 10_000
    seed: int = 0


def build(config: Config) -> Experiment:
    """Returns an experiment of LaNAS on a table; workers call it too."""
    table = catalogue.find_benchmark(config.table).table()
    searcher = lx.LaNAS(table.space, pool=table.codes, capacity=config.trials)
    return Experiment(
        "cluster_benchmark", table.space, searcher, FromTable(table, config.seconds), config.trials, 1, config.seed
    )


def busy(trials: list[Trial], places: int) -> float:
    """Returns the share of the time that slots spend evaluating, while there are enough trials."""
    begun = np.sort([trial.started or 0.0 for trial in trials])
    first, last = float(begun[places - 1]), float(begun[-1])
    spans = [(trial.started or 0.0, (trial.started or 0.0) + (trial.train_seconds or 0.0)) for trial in trials]
    inside = sum(max(min(end, last) - max(start, first), 0.0) for start, end in spans)
    return inside / (places * (last - first))


def on_cluster(config: Config, folder: Path) -> None:
    """Runs a search that uses all slots, and prints the measurements."""
    settings = ClusterSettings(workers=config.workers, cores=0.1, calls=config.calls)
    with connection.connected("ray") as ray:
        experiment = build(config)
        run = run_folder.create(folder / "run", experiment, Path(__file__), config)
        began = time.perf_counter()
        with Cluster(ray, experiment, run, settings, Silence()) as cluster:
            result = study.run(experiment, run.directory, workers=cluster)
            wall = time.perf_counter() - began
            driver = 1e3 * cluster.driver_seconds / len(result.trials)
    places = config.workers * config.calls
    assert len({trial.code for trial in result.trials}) == len(result.trials)
    share = busy(list(result.trials), places)
    print(f"{len(result.trials):,} trials of {config.seconds:g} s, {places} at a time, took {wall:.0f} s")
    print(f"driver: {driver:.1f} ms a trial (ask, tell, store, messages); workers busy {share:.1%} of the time")


def resumed(config: Config, folder: Path) -> None:
    """Fills a store with the trials of a search, one by one, and measures the time to reopen it."""
    experiment = build(dataclasses.replace(config, trials=config.resumed))
    run, table = run_folder.create(folder / "long", experiment), catalogue.find_benchmark(config.table).table()
    began = time.perf_counter()
    with TrialStore.open(run.trials) as store, Checkpoints(run.states) as checkpoints:
        search_log = SearchLog(experiment, store, checkpoints)
        with search_log.grouped():
            while trials := search_log.ask(1):
                value = float(table.lookup(np.array([trials[0].code]))[0])
                search_log.tell(trials, [Outcome(value)], started=0.0)
    filled = 1e3 * (time.perf_counter() - began) / config.resumed
    began = time.perf_counter()
    with TrialStore.open(run.trials) as store, Checkpoints(run.states) as checkpoints:
        search_log = SearchLog(experiment, store, checkpoints)
        opened = time.perf_counter() - began
    size = run.trials.stat().st_size / 2**20
    print(f"a store of {search_log.asked:,} trials, {size:.1f} MiB ({filled:.1f} ms each), resumes in {opened:.2f} s")


def main(config: Config) -> None:
    """Runs the measurements and prints their results."""
    with tempfile.TemporaryDirectory() as folder:
        on_cluster(config, Path(folder))
        if config.resumed:
            resumed(config, Path(folder))


if __name__ == "__main__":
    main(help_text.parse_documented(Config, __doc__))
