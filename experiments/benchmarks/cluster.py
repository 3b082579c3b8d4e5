"""What a cluster's driver takes for a trial, how busy its workers are, and how long a long run takes to resume.

    python -m experiments.benchmarks.cluster
    python -m experiments.benchmarks.cluster --trials 400 --seconds 2 --resumed 1000

Needs the extra `ray`, and NAS-Bench-201's table where LANAS_DATA points. Ray runs on this machine alone; its workers
look trials up and wait, each many at a time in threads, as if as many devices trained them: searching, the store, Ray's
messages and the processes are real, training is not.

Busy is the share of the time that places for trials spend evaluating, from when all are taken to when the last trial
has been given out. A trial's time is uniform between half and one and a half times the mean.

On 2 cores of an AMD EPYC with jax 0.10.2 and Ray 2.60 (26 November 2026)::

    2,000 trials of 10 s, 200 at a time, took 122 s
    driver: 16.3 ms a trial (ask, tell, store, messages); workers busy 99.4% of the time
    a store of 10,000 trials, 2.2 MiB (19.6 ms each), resumes in 1.15 s

(the last line beside other work).
"""

import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np
import tyro

import lanas_jax as lx
from lanas_jax import study
from lanas_jax.cluster import connection
from lanas_jax.cluster.cluster import Cluster
from lanas_jax.cluster.settings import ClusterSettings
from lanas_jax.evaluators.base import Outcome
from lanas_jax.evaluators.from_table import FromTable
from lanas_jax.storage.checkpoints import Checkpoints
from lanas_jax.storage.trials import Trial, TrialStore
from lanas_jax.study import Experiment, run_folder
from lanas_jax.study.experiment import Silence
from lanas_jax.study.replay import SearchLog
from lanas_jax.tables import catalogue


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings.

    Args:
      table: whose values are looked up.
      trials: of the search on the cluster.
      seconds: that a trial takes, on average.
      workers: processes.
      calls: trials that each has under way at a time.
      resumed: trials of the run that is resumed; 0: none is.
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
    """LaNAS on a table, for workers too."""
    table = catalogue.find_benchmark(config.table).table()
    searcher = lx.LaNAS(table.space, pool=table.codes, capacity=config.trials)
    return Experiment(
        "cluster_benchmark", table.space, searcher, FromTable(table, config.seconds), config.trials, 1, config.seed
    )


def busy(trials: list[Trial], places: int) -> float:
    """The share of the time that places evaluate, while there are trials enough."""
    begun = np.sort([trial.started or 0.0 for trial in trials])
    first, last = float(begun[places - 1]), float(begun[-1])
    spans = [(trial.started or 0.0, (trial.started or 0.0) + (trial.train_seconds or 0.0)) for trial in trials]
    inside = sum(max(min(end, last) - max(start, first), 0.0) for start, end in spans)
    return inside / (places * (last - first))


def on_cluster(config: Config, folder: Path) -> None:
    """Searches with all places taken, and prints what that took."""
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
    """Fills a store with the trials of a search, one by one, and opens it again."""
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
    """Measures, and prints as it goes."""
    with tempfile.TemporaryDirectory() as folder:
        on_cluster(config, Path(folder))
        if config.resumed:
            resumed(config, Path(folder))


if __name__ == "__main__":
    main(tyro.cli(Config))
