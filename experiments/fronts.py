"""One search for a front against single-objective searches under limits, with the same number of trained candidates.

To get networks of several sizes, one can search for the most accurate network under each of several limits on
multiply-adds, or search once for the front of accuracy and multiply-adds. Each pair of such searches trains the same
number of candidates in total::

    python -m lanas_jax.experiments.fronts digits --out runs/digits_fronts
    python -m lanas_jax.experiments.fronts cifar10_small --out runs/cifar10_fronts
    python -m lanas_jax.experiments.fronts convnet-digits --seeds 50 --budget 40 --out runs/convnet_fronts    # a table

The limits are quantiles of the multiply-adds of random networks. Each search on an experiment is a separate run in the
output folder, readable by `lanas report`, `lanas front`, `lanas resume` and `lanas train`; a repeated call continues
where the last one was stopped. The experiment must have the settings `objectives`, `max_multiply_adds`, `budget` and
`seed`. Other arguments are settings of the experiment, such as ``--epochs 1``. On a table of `lanas tables`, searches
look up the accuracies of networks that were all trained before.

For each limit, the program prints the best value within the limit of the trials of the front search, of the search
under that limit, and of all searches under limits. It also prints the hypervolume of all trials, as a share of that of
every trial of every search, or of the table. docs/objectives.md has the results.
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
from jaxtyping import Float, Int
from rich.console import Console
from rich.table import Table

import lanas_jax as lx
from lanas_jax import study
from lanas_jax.commands import help_text
from lanas_jax.comparison.statistics import bootstrap
from lanas_jax.report.formatting import ValueFormat
from lanas_jax.runtime.console import terminal
from lanas_jax.runtime.devices import one_device_per_core
from lanas_jax.searchers.dominance import front_rows
from lanas_jax.searchers.hypervolume import reference_below, volumes_after
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.storage.folder import RunError
from lanas_jax.storage.trial import Trial
from lanas_jax.study import Experiment, discovery, run_folder
from lanas_jax.study.display import StudyDisplay
from lanas_jax.study.objectives import values_to_tell
from lanas_jax.study.replay import StudyError
from lanas_jax.tables import catalogue
from lanas_jax.tables.objectives import objective_values

NAMES = ("accuracy", "multiply_adds")
QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the multiply-adds of random networks: the limits
DRAWN = 4096  # random codes, of which the valid ones are counted
ONE_TRAINING = {"objectives": "accuracy", "repeats": 1}  # settings of experiments that may value candidates otherwise

Values = Float[np.ndarray, "_ 2"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparison.

    Attributes:
      name: name of an experiment, path of its file, or name of a table.
      out: output folder of the runs and of fronts.json.
      seeds: number of searches of each kind.
      budget: number of candidates of each search under a limit; default: that of the experiment, or 64 on a table. The
        search for the front has as many as all of these together.
    """

    name: Annotated[str, tyro.conf.Positional]
    out: Path
    seeds: int = 3
    budget: int | None = None


def multiply_add_limits(space: SearchSpace) -> tuple[int, ...]:
    """Returns the quantiles of the multiply-adds of random valid codes, which are the limits; ascending."""
    codes = np.asarray(space.random(jax.random.key(0), DRAWN))
    counted = space.cost(codes[np.asarray(space.valid(codes))]).multiply_adds
    return quantiles_of(counted)


def quantiles_of(multiply_adds: Int[np.ndarray, " n"]) -> tuple[int, ...]:
    """Returns the limits, ascending: `QUANTILES` of the multiply-adds of networks."""
    return tuple(sorted({int(limit) for limit in np.quantile(multiply_adds, QUANTILES, method="nearest")}))


def run_search(
    module: ModuleType, source: Path, config: Any, evaluator: Any, directory: Path, show: StudyDisplay
) -> Any:
    """Runs the search of a configuration with a shared evaluator, or resumes it; returns its trials."""
    experiment: Experiment = run_folder.build_experiment(module, config)
    experiment = dataclasses.replace(experiment, evaluator=evaluator, winner=None)
    if not run_folder.run_exists(directory):
        run_folder.create(directory, experiment, source, config)
    return study.run(experiment, directory, show).trials


def compare_best_values(
    fronts: Sequence[Values], limited: Sequence[Sequence[Values]], limits: Sequence[int], whole: Values
) -> Any:
    """Returns the best values within each limit and the hypervolumes, a number per seed each.

    Args:
      fronts: value and negative multiply-adds of each trial of the search for the front, for each seed.
      limited: objectives, likewise, of each search under a limit, in the order of the limits, for each seed.
      limits: limits on multiply-adds.
      whole: objectives, likewise, of the networks whose hypervolume is 1.
    """
    together = [np.concatenate(searches) for searches in limited]
    rows = [
        {
            "limit": limit,
            "front": [_best_within(trials, limit) for trials in fronts],
            "limited": [_best_within(searches[i], limit) for searches in limited],
            "all_limited": [_best_within(trials, limit) for trials in together],
        }
        for i, limit in enumerate(limits)
    ]
    reference = reference_below(whole, front_rows(whole))
    extent = whole.max(axis=0) - reference

    def volume(values: Values) -> float:
        above = np.nan_to_num((values - reference) / extent, nan=-1.0)
        return float(volumes_after(above[None], [len(above)])[0, 0])

    shares = [volume(values) / volume(whole) for values in (*fronts, *together)]
    return {"limits": rows, "front": shares[: len(fronts)], "limited": shares[len(fronts) :]}


def _best_within(trials: Values, limit: int) -> float:
    """Returns the highest value of the trials within a limit on multiply-adds; NaN without any."""
    return float(max(trials[-trials[:, 1] <= limit, 0], default=np.nan))


def show_results(found: Any, console: Console) -> None:
    """Prints means with ranges over seeds, and paired differences with their bootstrap intervals."""
    values = [value for row in found["limits"] for value in (*row["front"], *row["limited"])]
    show = ValueFormat.of(filter(np.isfinite, values))
    shown = Table(title="best value within each limit on multiply-adds: mean (lowest to highest) over seeds")
    for title in ("multiply-adds", "front search", "search under the limit", "all searches under limits", "difference"):
        shown.add_column(title, justify="right")
    for row in found["limits"]:
        cells = [spread(row[name], show) for name in ("front", "limited", "all_limited")]
        shown.add_row(f"{row['limit']:,}", *cells, difference(row["front"], row["all_limited"], show))
    console.print(shown)
    share = ValueFormat.of([0.5])
    console.print(
        f"share of the hypervolume of all {found['whole']}: front search {spread(found['front'], share)}, searches "
        f"under limits {spread(found['limited'], share)}; difference "
        f"{difference(found['front'], found['limited'], share)}",
        soft_wrap=True,
    )


def spread(values: Sequence[float], show: ValueFormat) -> str:
    """Formats the mean of values and their range."""
    return f"{show(statistics.mean(values))} ({show(min(values))} to {show(max(values))})"


def difference(values: Sequence[float], others: Sequence[float], show: ValueFormat) -> str:
    """Formats the mean of paired differences and its bootstrap interval."""
    mean, low, high = (show(number, 2) for number in bootstrap(np.array(values) - np.array(others)))
    return f"{mean} ({low} to {high})"


def train_candidates(config: Config, others: Sequence[str], console: Console) -> Any:
    """Runs the searches on an experiment with other settings from the command line, and returns their results."""
    source = discovery.find_experiment(config.name)
    module = discovery.load_experiment(source)
    fields = {field.name for field in dataclasses.fields(module.Config)}
    if missing := {"objectives", "max_multiply_adds", "budget", "seed"} - fields:
        raise SystemExit(f"{source} has no setting {min(missing)}; choose an experiment that has, such as digits")
    settings = {name: value for name, value in ONE_TRAINING.items() if name in fields}
    asked = tyro.cli(module.Config, prog=f"fronts {config.name}", args=others)
    settings["budget"] = config.budget or asked.budget
    base = run_folder.build_experiment(module, dataclasses.replace(asked, **settings))
    limits = multiply_add_limits(base.space)
    fronts, limited = [], []
    for seed in range(config.seeds):
        own = dataclasses.replace(asked, **settings, seed=seed)
        kinds = {f"limit-{limit}": {"max_multiply_adds": limit} for limit in limits}
        kinds["front"] = {"objectives": ",".join(NAMES), "budget": len(limits) * settings["budget"]}
        trials = []
        for name, changes in kinds.items():
            console.print(f"{name}, seed {seed}")
            with StudyDisplay(console) as display:
                one = dataclasses.replace(own, **changes)
                trials.append(run_search(module, source, one, base.evaluator, config.out / f"{name}-{seed}", display))
        limited.append([finite_rows(trials) for trials in trials[:-1]])
        fronts.append(finite_rows(trials[-1]))
    whole = np.concatenate([*fronts, *(values for searches in limited for values in searches)])
    return compare_best_values(fronts, limited, limits, whole) | {"whole": "trials"}


def finite_rows(trials: Sequence[Trial]) -> Values:
    """Returns the value and the negative multiply-adds of the trials that have them."""
    values = values_to_tell(trials, NAMES).astype(np.float64)
    return values[np.isfinite(values).all(axis=1)]


def simulate_searches(config: Config) -> Any:
    """Runs the searches on a benchmark table, and returns their results."""
    benchmark = catalogue.find_benchmark(config.name)
    values = objective_values(benchmark, NAMES)
    limits = quantiles_of(benchmark.space.cost(benchmark.codes).multiply_adds)
    budget = config.budget or 64
    table = lx.Table(benchmark.space, benchmark.codes, values)
    searcher = lx.ParetoLaNAS(table.space, NAMES, pool=table.codes)
    fronts = list(np.asarray(lx.simulate(searcher, table, len(limits) * budget, config.seeds).values, np.float64))
    limited = []
    for limit in limits:
        some = values[:, 1] >= -limit
        table = lx.Table(benchmark.space, benchmark.codes[some], values[some, 0])
        trace = lx.simulate(lx.LaNAS(table.space, pool=table.codes), table, budget, config.seeds)
        codes = np.asarray(trace.codes)
        costs = benchmark.space.cost(codes.reshape(-1, codes.shape[2])).multiply_adds.reshape(codes.shape[:2])
        limited.append(np.stack([np.asarray(trace.values, np.float64), -costs], axis=2))
    by_seed = [list(searches) for searches in np.stack(limited, axis=1)]
    return compare_best_values(fronts, by_seed, limits, values.astype(np.float64)) | {"whole": "networks of the table"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs all searches, prints the results and writes fronts.json; defaults to the arguments of this process."""
    config, others = help_text.parse_documented(Config, __doc__, arguments, return_unknown_args=True)
    console = terminal()
    if config.seeds < 1:
        raise SystemExit(f"--seeds must be at least 1; got {config.seeds}")
    try:
        if config.name in {entry.name for entry in catalogue.ENTRIES}:
            if others:
                raise SystemExit(f"a table has no settings, but got {' '.join(others)}")
            found = simulate_searches(config)
        else:
            one_device_per_core()
            found = train_candidates(config, others, console)
    except (ValueError, RunError, StudyError) as error:
        raise SystemExit(str(error)) from error
    show_results(found, console)
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "fronts.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
