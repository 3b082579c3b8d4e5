"""Output of a comparison on several objectives: a table for the terminal, CSV and NumPy files, a plot."""

import csv
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from lanas_jax.comparison.fronts import LABELS, FrontComparison, FrontProblem
from lanas_jax.comparison.statistics import Interval, bootstrap
from lanas_jax.formats.npz import write_npz


def describe_problem(problem: FrontProblem, costs: Collection[str]) -> str:
    """Returns the objectives, the reference and the size of the front in one sentence.

    Args:
      problem: table, objectives and reference.
      costs: names of the objectives that are costs, which are negative in the problem.
    """
    pairs = zip(problem.objectives, problem.reference, strict=True)
    reference = ", ".join(f"{name} {-value if name in costs else value:.6g}" for name, value in pairs)
    return f"The table's front has {int(problem.front.sum())} networks; the reference is {reference}."


def front_table(results: Sequence[FrontComparison]) -> Table:
    """Returns a table with one row per searcher: shares in percent, means with their 95 % intervals."""
    shown = Table(box=SIMPLE, caption="Means over searches (95 % intervals), in percent.", caption_justify="left")
    shown.add_column("searcher")
    points = list(results[0].left)
    for i, n in enumerate(points):
        shown.add_column(f"hypervolume left to gain at {n}" if i == 0 else f"at {n}", justify="right")
    for i, n in enumerate(points):
        shown.add_column(f"front found at {n}" if i == 0 else f"at {n}", justify="right")
    for result in results:
        cells = [_interval(result.left[n]) for n in points] + [_interval(result.front[n], 1) for n in points]
        shown.add_row(LABELS[result.name], *cells)
    return shown


def _interval(interval: Interval, digits: int = 2) -> str:
    mean, low, high = (f"{100 * number:.{digits}f}" for number in interval)
    return f"{mean} ({low}-{high})"


def write_front_csv(path: Path, results: Sequence[FrontComparison]) -> None:
    """Writes one row per searcher: shares in [0, 1] with their 95 % intervals."""
    points = list(results[0].left)
    header = ["searcher", "seeds", "budget"]
    for what in ("hypervolume_left", "front_found"):
        header += [f"{what}_{n}{part}" for n in points for part in ("", "_low", "_high")]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*header, "seconds_per_sample"])
        for result in results:
            numbers = [number for intervals in (result.left, result.front) for n in points for number in intervals[n]]
            row = [result.name, *result.values.shape[:2], *(f"{number:.8g}" for number in numbers)]
            writer.writerow([*row, f"{result.seconds_per_sample:.6g}"])


def write_front_traces(path: Path, results: Sequence[FrontComparison]) -> None:
    """Writes the objectives of all trials to an ``.npz`` file: an array ``float32[seeds, budget, k]`` per searcher."""
    write_npz(path, {result.name: result.values for result in results})


def write_front_picture(path: Path, results: Sequence[FrontComparison], problem: FrontProblem, title: str) -> None:
    """Plots the hypervolume left to gain and the share of the front found against samples, with 95 % intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.4, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, result in enumerate(results):
        style: dict[str, Any] = {"color": f"C{i}", "linewidth": 2.4 if result.name == "pareto" else 1.4}
        for axes, numbers in ((left, np.maximum(1 - result.shares, 1e-6)), (right, result.found)):
            intervals = np.array([bootstrap(column) for column in numbers.T])
            axes.plot(result.points, intervals[:, 0], label=LABELS[result.name], **style)
            axes.fill_between(result.points, *intervals[:, 1:].T, color=f"C{i}", alpha=0.15, linewidth=0)
    left.set_yscale("log")
    left.set(xlabel="samples", ylabel="share of the hypervolume left to gain")
    right.set(xlabel="samples", ylabel="share of the front found", ylim=(0, 1))
    figure.legend(*right.get_legend_handles_labels(), fontsize=8, loc="outside right upper", frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{title}: {', '.join(problem.objectives)}", parse_math=False)
    figure.savefig(path, dpi=130)
