"""Output of a comparison with asynchronous workers, which cost samples and save time: columns, a table, a plot.

A worker that asks while others are still training has less information than a single worker, so a search by many
workers takes more samples. `ratio` measures by what factor.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from lanas_jax.comparison.compare import Comparison
from lanas_jax.comparison.output import LABELS, has_losses, samples, winner_label, winner_value
from lanas_jax.comparison.statistics import Quartiles

ASIDE = 1.06  # horizontal offset between neighbouring searchers in the plot, as a ratio


def ratio(results: Sequence[Comparison], result: Comparison, target: str = "to_optimum") -> float:
    """Returns the median samples by several workers divided by those of one worker, for the same searcher.

    Args:
      results: all results; may include the same searcher with one worker.
      result: result with several workers.
      target: name of the target, ``to_optimum`` or ``to_top``.

    Returns:
      The ratio; infinite if only one worker reached the target within the budget, NaN if one worker did not reach it
      or is not in `results`.
    """
    alone = [other for other in results if (other.name, other.workers) == (result.name, 1)]
    needed = getattr(alone[0], target).median if alone else math.inf
    return getattr(result, target).median / needed if math.isfinite(needed) else math.nan


def columns(results: Sequence[Comparison], result: Comparison) -> dict[str, str]:
    """Returns the CSV columns about workers; empty if the target was not reached or there is no single worker."""
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
    """Returns a table with one row per searcher and number of workers.

    Args:
      results: results on one benchmark table, with workers.
      tests: mean test accuracy, or negated loss, of the winners of each result.
    """
    losses = has_losses(results)
    caption = "Time is in mean training times. Ratios are medians divided by one worker's median."
    shown = Table(box=SIMPLE, caption=caption, caption_justify="left")
    shown.add_column("searcher")
    for column in (
        "workers",
        "samples to the optimum, median (quartiles)",
        "ratio",
        "time to the optimum",
        f"samples to the top {100 * results[0].top_share:g} %",
        "ratio",
        winner_label(losses),
        "ms per sample",
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
            winner_value(test, losses),
            f"{1e3 * result.seconds_per_sample:.3g}",
        )
    return shown


def _ratio(number: float) -> str:
    return f"{number:.2f}" if math.isfinite(number) else "-"


def _times(quartiles: Quartiles) -> str:
    lower, median, upper = (f"{time:.3g}" if math.isfinite(time) else "-" for time in quartiles)
    return f"{median} ({lower}-{upper})" if median != "-" or lower != "-" else "-"


def write_picture(path: Path, results: Sequence[Comparison], title: str) -> None:
    """Plots samples and time to the optimum against the number of workers: medians, with bars between quartiles.

    Points beyond the budget are drawn at its end: a median as an open triangle, a quartile as the end of its bar.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(11.4, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = list(dict.fromkeys(result.name for result in results))
    for i, name in enumerate(names):
        own = sorted((result for result in results if result.name == name), key=lambda result: result.workers or 0)
        # Offset the searchers so that their bars do not overlap.
        places = [(result.workers or 0) * ASIDE ** (i - (len(names) - 1) / 2) for result in own]
        times = [result.time_to_optimum for result in own if result.time_to_optimum is not None]
        last = [float(np.nanmax(result.times)) for result in own if result.times is not None]
        budget = float(results[0].values.shape[1])
        _draw(left, places, [result.to_optimum for result in own], [budget] * len(own), f"C{i}")
        _draw(right, places, times, last, f"C{i}")
    left.set(ylabel="samples to the optimum")
    right.set(ylabel="time to the optimum, in mean training times")
    for axes in (left, right):
        _style(axes, sorted({result.workers or 0 for result in results}))
    kinds = [Line2D([], [], color=f"C{i}", marker="o", markersize=4, linewidth=1) for i in range(len(names))]
    beyond = Line2D([], [], color="grey", marker="^", markerfacecolor="none", linestyle="none")
    labels = [*(LABELS[name] for name in names), "median beyond the budget"]
    figure.legend([*kinds, beyond], labels, fontsize=8, loc="outside right upper", frameon=False)
    figure.suptitle(title, parse_math=False)  # a name may contain dollar signs
    figure.savefig(path, dpi=130)


def _draw(axes: Any, places: list[float], all_quartiles: list[Quartiles], ends: list[float], colour: str) -> None:
    for place, quartiles, end in zip(places, all_quartiles, ends, strict=True):
        axes.plot([place] * 2, [min(quartiles.lower, end), min(quartiles.upper, end)], color=colour, linewidth=1)
        if math.isinf(quartiles.median):
            axes.plot(place, end, "^", color=colour, markerfacecolor="none")
    medians = [quartiles.median if math.isfinite(quartiles.median) else math.nan for quartiles in all_quartiles]
    axes.plot(places, medians, "o-", color=colour, markersize=4, linewidth=1.4)


def _style(axes: Any, numbers: list[int]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set(xlabel="workers at once", xscale="log", yscale="log")
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
