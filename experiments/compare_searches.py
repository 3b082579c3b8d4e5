"""Comparison of searchers on an experiment that trains its candidates: equal budgets, several seeds.

`lanas compare` repeats searches on a table of results; this script trains every candidate of every search. All searches
share one evaluator, so programs for all candidates are compiled once. Each search is a separate run in the output
folder, readable by `lanas report`, `lanas resume` and `lanas train`. A repeated call reads finished searches from
there::

    python -m lanas_jax.experiments.compare_searches cifar10_small --seeds 3 --out runs/cifar10_small

The experiment must define a `Config` with `searcher` and `seed`, and a dictionary `SEARCHERS`.

It prints the best values so far, the mean of the last quarter of the trials minus that of the first, and the best value
of the first searcher minus those of the others with the same seed. The last two have 95 % bootstrap intervals over the
seeds.
"""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import numpy as np
import tyro
from jaxtyping import Float
from rich.console import Console
from rich.table import Table

from lanas_jax import study
from lanas_jax.commands import help_text
from lanas_jax.comparison.statistics import bootstrap
from lanas_jax.evaluators.base import NotPreparedError, Prepared
from lanas_jax.evaluators.faults import prepare_evaluator
from lanas_jax.report.formatting import ValueFormat
from lanas_jax.runtime.console import terminal
from lanas_jax.runtime.devices import one_device_per_core
from lanas_jax.storage.trial import best
from lanas_jax.study import Experiment, Result, discovery, run_folder
from lanas_jax.study.display import StudyDisplay


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparison.

    Attributes:
      experiment: name of an experiment, or path of its file.
      out: output folder of the runs and of comparison.json.
      seeds: number of searches per searcher.
      searchers: names of the searchers, from the experiment's `SEARCHERS`.
    """

    experiment: Annotated[str, tyro.conf.Positional]
    out: Path
    seeds: int = 3
    searchers: tuple[str, ...] = ("lanas", "random", "evolution")


def run_search(
    module: ModuleType, source: Path, base: Experiment, name: str, seed: int, out: Path, show: StudyDisplay
) -> Result:
    """Runs one search, or resumes it."""
    experiment = dataclasses.replace(base, searcher=module.SEARCHERS[name](base.space), seed=seed, winner=None)
    directory = out / f"{name}-{seed}"
    if not run_folder.run_exists(directory):
        config = dataclasses.replace(module.Config(), searcher=name, seed=seed, **shared_supernet_settings(module, out))
        run_folder.create(directory, experiment, source, config)
    return study.run(experiment, directory, show)


def shared_supernet_settings(module: ModuleType, out: Path) -> dict[str, Path]:
    """Returns the settings that make the runs share a supernet, if the experiment has one."""
    fields = {field.name for field in dataclasses.fields(module.Config)}
    return {"supernet": (out / "supernet").absolute()} if "supernet" in fields else {}


def best_after(result: Result, trials: int) -> float:
    """Returns the highest value among the first `trials` trials of a search."""
    found = best(result.trials[:trials])
    return float("nan") if found is None or found.value is None else found.value


def last_over_first_quarter(result: Result) -> float:
    """Returns the mean value of the last quarter of a search's trials minus that of the first; NaN if all failed."""
    quarter = max(len(result.trials) // 4, 1)
    first, last = (
        [trial.value for trial in part if trial.value is not None]
        for part in (result.trials[:quarter], result.trials[-quarter:])
    )
    return statistics.mean(last) - statistics.mean(first) if first and last else float("nan")


def rows(results: dict[str, list[Result]], budget: int) -> list[dict[str, Any]]:
    """Returns the results of each searcher, with a number per seed.

    They are the best values after a third, two thirds and all of the trials, the gain of the last quarter of the trials
    over the first, and the winners.
    """
    return [
        {
            "searcher": name,
            "best": {
                str(n): [best_after(result, n) for result in found] for n in (budget // 3, 2 * budget // 3, budget)
            },
            "last_over_first_quarter": [last_over_first_quarter(result) for result in found],
            "winners": [list(result.best.code) if result.best else None for result in found],
            "seconds": sum(
                (trial.compile_seconds or 0) + (trial.train_seconds or 0) for r in found for trial in r.trials
            ),
        }
        for name, found in results.items()
    ]


def show_table(table: list[dict[str, Any]], console: Console) -> None:
    """Prints means and ranges over seeds, and intervals of differences."""
    show = ValueFormat.of(value for row in table for values in row["best"].values() for value in values)
    shown = Table(title="best value so far: mean (lowest to highest) over the searches")
    for title in ("searcher", *(f"after {n}" for n in table[0]["best"]), "last over first quarter", "minutes"):
        shown.add_column(title, justify="left" if title == "searcher" else "right")
    for row in table:
        cells = [
            f"{show(statistics.mean(values))} ({show(min(values))} to {show(max(values))})"
            for values in row["best"].values()
        ]
        gain = interval(np.array(row["last_over_first_quarter"]), show)
        shown.add_row(row["searcher"], *cells, gain, f"{row['seconds'] / 60:.1f}")
    console.print(shown)
    first, *others = [(row["searcher"], np.array([*row["best"].values()][-1])) for row in table]
    for name, values in others:
        console.print(f"best value, {first[0]} over {name}, paired by seed: {interval(first[1] - values, show)}")


def interval(differences: Float[np.ndarray, " seeds"], show: ValueFormat) -> str:
    """Formats the mean of differences of values and its bootstrap interval; NaN is left out."""
    if not (found := differences[np.isfinite(differences)]).size:
        return show(None)
    mean, low, high = (show(number, 2) for number in bootstrap(found))
    return f"{mean} ({low} to {high})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs all searches, prints the table and writes comparison.json; defaults to the arguments of this process."""
    config = help_text.parse_documented(Config, __doc__, arguments)
    one_device_per_core()
    console = terminal()
    source = discovery.find_experiment(config.experiment)
    module = discovery.load_experiment(source)
    base = run_folder.build_experiment(
        module, dataclasses.replace(module.Config(), **shared_supernet_settings(module, config.out))
    )
    if isinstance(base.evaluator, Prepared):
        try:
            prepare_evaluator(base.evaluator, config.out, console.print)
        except NotPreparedError as error:
            raise SystemExit(str(error)) from error
    results: dict[str, list[Result]] = {name: [] for name in config.searchers}
    for seed in range(config.seeds):
        for name in config.searchers:
            console.print(f"{name}, seed {seed}")
            with StudyDisplay(console) as display:
                results[name].append(run_search(module, source, base, name, seed, config.out, display))
    table = rows(results, base.budget)
    show_table(table, console)
    (config.out / "comparison.json").write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
