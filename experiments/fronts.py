"""One search for a front against single-objective searches under limits, with the same number of trained candidates.

Whoever wants networks of several sizes may search for the most accurate one under each of several limits on
multiply-adds, or search once for the front of accuracy and multiply-adds. Each pair of such searches trains the same
number of candidates in total::

    python -m lanas_jax.experiments.fronts digits --out runs/digits_fronts
    python -m lanas_jax.experiments.fronts cifar10_small --out runs/cifar10_fronts

The limits are quantiles of the multiply-adds of random networks. Each search is a separate run in the output folder,
readable by `lanas report`, `lanas front`, `lanas resume` and `lanas train`; a repeated call continues where the last
one was stopped. The experiment must have the settings `objectives`, `max_multiply_adds`, `budget` and `seed`.

Printed are, for each limit, the best value within the limit of the trials of the front search, of the search under that
limit, and of all searches under limits; and the hypervolume of all trials, as a share of that of every trial of every
search. docs/objectives.md has the results.
"""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from jaxtyping import Float
from rich.console import Console
from rich.table import Table

from lanas_jax import study
from lanas_jax.comparison.statistics import bootstrap
from lanas_jax.report.formatting import ValueFormat
from lanas_jax.runtime.console import terminal
from lanas_jax.runtime.devices import one_device_per_core
from lanas_jax.searchers.dominance import front_rows
from lanas_jax.searchers.hypervolume import reference_below, volumes_after
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.storage.trials import Trial
from lanas_jax.study import Experiment, discovery, run_folder
from lanas_jax.study.display import StudyDisplay
from lanas_jax.study.objectives import values_to_tell

NAMES = ("accuracy", "multiply_adds")
QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the multiply-adds of random networks: the limits
DRAWN = 4096  # random codes, of which the valid ones are counted
ONE_TRAINING = {"objectives": "accuracy", "repeats": 1}  # settings of experiments that may value candidates otherwise


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparison.

    Attributes:
      experiment: name of an experiment, or path of its file.
      out: output folder of the runs and of fronts.json.
      seeds: number of searches of each kind.
      budget: number of candidates of each search under a limit; default: that of the experiment. The search for the
        front has as many as all of these together.
    """

    experiment: Annotated[str, tyro.conf.Positional]
    out: Path
    seeds: int = 3
    budget: int | None = None


def multiply_add_limits(space: SearchSpace) -> tuple[int, ...]:
    """Returns the quantiles of the multiply-adds of random valid codes, which are the limits; ascending."""
    codes = np.asarray(space.random(jax.random.key(0), DRAWN))
    counted = space.cost(codes[np.asarray(space.valid(codes))]).multiply_adds
    return tuple(int(limit) for limit in np.quantile(counted, QUANTILES, method="nearest"))


def run_search(
    module: ModuleType, source: Path, config: Any, evaluator: Any, directory: Path, show: StudyDisplay
) -> Any:
    """Runs the search of a configuration with a shared evaluator, or resumes it; returns its trials."""
    experiment: Experiment = run_folder.build_experiment(module, config)
    experiment = dataclasses.replace(experiment, evaluator=evaluator, winner=None)
    if not run_folder.run_exists(directory):
        run_folder.create(directory, experiment, source, config)
    return study.run(experiment, directory, show).trials


def best_within(trials: Sequence[Trial], limit: int) -> float:
    """Returns the highest value of the trials within a limit on multiply-adds; NaN without any."""
    within = [trial for trial in trials if trial.multiply_adds is not None and trial.multiply_adds <= limit]
    return max((trial.value for trial in within if trial.value is not None), default=float("nan"))


def compare_best_values(
    fronts: Sequence[Sequence[Trial]], limited: Sequence[Sequence[Sequence[Trial]]], limits: Sequence[int]
) -> Any:
    """Returns the best values within each limit and the hypervolumes, a number per seed each.

    Args:
      fronts: trials of the search for the front of each seed.
      limited: trials of each search under a limit of each seed, in the order of the limits.
      limits: limits on multiply-adds.
    """
    together = [[trial for search in searches for trial in search] for searches in limited]
    rows = [
        {
            "limit": limit,
            "front": [best_within(trials, limit) for trials in fronts],
            "limited": [best_within(searches[i], limit) for searches in limited],
            "all_limited": [best_within(trials, limit) for trials in together],
        }
        for i, limit in enumerate(limits)
    ]
    told = [values_to_tell(trials, NAMES).astype(np.float64) for trials in (*fronts, *together)]
    everything = np.concatenate(told)
    everything = everything[np.isfinite(everything).all(axis=1)]
    reference = reference_below(everything, front_rows(everything))
    extent = everything.max(axis=0) - reference

    def volume(values: Float[np.ndarray, "n 2"]) -> float:
        above = np.nan_to_num((values - reference) / extent, nan=-1.0)
        return float(volumes_after(above[None], [len(above)])[0, 0])

    shares = [volume(values) / volume(everything) for values in told]
    return {"limits": rows, "front": shares[: len(fronts)], "limited": shares[len(fronts) :]}


def show_results(found: Any, console: Console) -> None:
    """Prints means with ranges over seeds, and paired differences with their bootstrap intervals."""
    show = ValueFormat.of(value for row in found["limits"] for value in (*row["front"], *row["limited"]))
    shown = Table(title="best value within each limit on multiply-adds: mean (lowest to highest) over seeds")
    for title in ("multiply-adds", "front search", "search under the limit", "all searches under limits", "difference"):
        shown.add_column(title, justify="right")
    for row in found["limits"]:
        cells = [spread(row[name], show) for name in ("front", "limited", "all_limited")]
        shown.add_row(f"{row['limit']:,}", *cells, difference(row["front"], row["all_limited"], show))
    console.print(shown)
    share = ValueFormat.of([0.5])
    console.print(
        f"share of the hypervolume of all trials: front search {spread(found['front'], share)}, searches under limits "
        f"{spread(found['limited'], share)}; difference {difference(found['front'], found['limited'], share)}",
        soft_wrap=True,
    )


def spread(values: Sequence[float], show: ValueFormat) -> str:
    """Formats the mean of values and their range."""
    return f"{show(statistics.mean(values))} ({show(min(values))} to {show(max(values))})"


def difference(values: Sequence[float], others: Sequence[float], show: ValueFormat) -> str:
    """Formats the mean of paired differences and its bootstrap interval."""
    mean, low, high = (show(number, 2) for number in bootstrap(np.array(values) - np.array(others)))
    return f"{mean} ({low} to {high})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs all searches, prints the results and writes fronts.json; defaults to the arguments of this process."""
    config = tyro.cli(Config, description=__doc__, args=arguments)
    one_device_per_core()
    console = terminal()
    source = discovery.find_experiment(config.experiment)
    module = discovery.load_experiment(source)
    fields = {field.name for field in dataclasses.fields(module.Config)}
    if missing := {"objectives", "max_multiply_adds", "budget", "seed"} - fields:
        raise SystemExit(f"{source} has no setting {min(missing)}; choose an experiment that has, such as digits")
    settings = {name: value for name, value in ONE_TRAINING.items() if name in fields}
    settings["budget"] = config.budget or module.Config().budget
    base = run_folder.build_experiment(module, dataclasses.replace(module.Config(), **settings))
    limits = multiply_add_limits(base.space)
    fronts, limited = [], []
    for seed in range(config.seeds):
        own = dataclasses.replace(module.Config(), **settings, seed=seed)
        kinds = {f"limit-{limit}": {"max_multiply_adds": limit} for limit in limits}
        kinds["front"] = {"objectives": ",".join(NAMES), "budget": len(limits) * settings["budget"]}
        trials = []
        for name, changes in kinds.items():
            console.print(f"{name}, seed {seed}")
            with StudyDisplay(console) as display:
                one = dataclasses.replace(own, **changes)
                trials.append(run_search(module, source, one, base.evaluator, config.out / f"{name}-{seed}", display))
        limited.append(trials[:-1])
        fronts.append(trials[-1])
    found = compare_best_values(fronts, limited, limits)
    show_results(found, console)
    (config.out / "fronts.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
