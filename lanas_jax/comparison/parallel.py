"""What many workers at once cost in samples and save in time, for people: columns, a table for the terminal, a picture.

A worker that asks while others are still training knows less than one that works alone, so a search by many takes more
samples. `ratio` says how many times as many.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from lanas_jax.comparison.compare import Comparison
from lanas_jax.comparison.output import LABELS, samples
from lanas_jax.comparison.statistics import Quartiles


def ratio(results: Sequence[Comparison], result: Comparison, target: str = "to_optimum") -> float:
    """Median samples by several workers over those by one worker, same searcher.

    Args:
      results: among them, it may be, the same searcher with one worker.
      result: with several.
      target: to_optimum or to_top.

    Returns:
      Infinite where only one worker got there within the budget, NaN where one worker did not or is not among them.
    """
    alone = [other for other in results if (other.name, other.workers) == (result.name, 1)]
    needed = getattr(alone[0], target).median if alone else math.inf
    return getattr(result, target).median / needed if math.isfinite(needed) else math.nan


def columns(results: Sequence[Comparison], result: Comparison) -> dict[str, str]:
    """What a CSV file says of workers; empty where a search did not get there, or one worker is not known."""
    assert result.time_to_optimum is not None
    numbers = {
        "optimum_ratio_to_one_worker": ratio(results, result),
        "top_ratio_to_one_worker": ratio(results, result, "to_top"),
        "optimum_time_lower_quartile": result.time_to_optimum.lower,
        "optimum_time_median": result.time_to_optimum.median,
        "optimum_time_upper_quartile": result.time_to_optimum.upper,
    }
    shown = {name: f"{number:.6g}" if math.isfinite(number) else "" for name, number in numbers.items()}
    return {"workers": str(result.workers), **shown}


def table(results: Sequence[Comparison], tests: Sequence[float]) -> Table:
    """One row per searcher and number of workers.

    Args:
      results: of one table, with workers.
      tests: for each, the mean test accuracy of the networks that won its searches.
    """
    caption = "Time is in mean training times. Ratios are those of medians to one worker's."
    shown = Table(box=SIMPLE, caption=caption, caption_justify="left")
    shown.add_column("searcher")
    for column in (
        "workers",
        "samples to the optimum, median (quartiles)",
        "ratio",
        "time to the optimum",
        "samples to the top 0.1 %",
        "ratio",
        "test of the best",
        "ms a sample",
    ):
        shown.add_column(column, justify="right")
    for result, test in zip(results, tests, strict=True):
        assert result.time_to_optimum is not None
        budget = result.values.shape[1]
        shown.add_row(
            LABELS[result.name],
            str(result.workers),
            samples(result.to_optimum, budget),
            _ratio(ratio(results, result)),
            _times(result.time_to_optimum),
            samples(result.to_top, budget),
            _ratio(ratio(results, result, "to_top")),
            f"{test:.4f}",
            f"{1e3 * result.seconds_per_sample:.3g}",
        )
    return shown


def _ratio(number: float) -> str:
    return f"{number:.2f}" if math.isfinite(number) else "-"


def _times(quartiles: Quartiles) -> str:
    lower, median, upper = (f"{time:.3g}" if math.isfinite(time) else "-" for time in quartiles)
    return f"{median} ({lower}-{upper})" if median != "-" or lower != "-" else "-"


def write_picture(path: Path, results: Sequence[Comparison], title: str) -> None:
    """Samples and time to the optimum against the number of workers: medians, bars from quartile to quartile.

    A median beyond the budget is an open triangle at the budget, on the left alone.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.4, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = list(dict.fromkeys(result.name for result in results))
    numbers = sorted({result.workers or 0 for result in results})
    for i, name in enumerate(names):
        own = sorted((result for result in results if result.name == name), key=lambda result: result.workers or 0)
        # Side by side, so that bars of different searchers stay apart.
        places = [(result.workers or 0) * 1.06 ** (i - (len(names) - 1) / 2) for result in own]
        times = [result.time_to_optimum for result in own if result.time_to_optimum is not None]
        for axes, quartiles in ((left, [result.to_optimum for result in own]), (right, times)):
            _draw(axes, places, quartiles, f"C{i}", LABELS[name])
        beyond = [place for place, result in zip(places, own, strict=True) if math.isinf(result.to_optimum.median)]
        left.plot(beyond, [results[0].values.shape[1]] * len(beyond), "^", color=f"C{i}", markerfacecolor="none")
    left.set(ylabel="samples to the optimum")
    right.set(ylabel="time to the optimum, in mean training times")
    for axes in (left, right):
        axes.set(xlabel="workers at once", xscale="log", yscale="log")
        axes.set_xticks(numbers, [str(number) for number in numbers], minor=False)
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), fontsize=8, loc="outside right upper", frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=130)


def _draw(axes: Any, places: list[float], quartiles: list[Quartiles], colour: str, label: str) -> None:
    there = [(place, q) for place, q in zip(places, quartiles, strict=True) if math.isfinite(q.median)]
    at, medians = [place for place, _ in there], [q.median for _, q in there]
    axes.plot(at, medians, "o-", color=colour, markersize=4, linewidth=1.4, label=label)
    for place, q in there:
        axes.plot([place] * 2, [q.lower, min(q.upper, axes.get_ylim()[1])], color=colour, linewidth=1)
