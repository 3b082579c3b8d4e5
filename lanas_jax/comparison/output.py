"""Output of a comparison: a table for the terminal, CSV and NumPy files for other programs, a plot."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from lanas_jax.comparison.compare import Comparison
from lanas_jax.comparison.statistics import Interval, Quartiles, bootstrap, regret, samples_to
from lanas_jax.formats.npz import write_npz

LABELS = {
    "lanas": "LaNAS",
    "paper": "LaNAS as published",
    "random": "random search",
    "evolution": "regularized evolution",
    "local": "local search",
    "bo": "Bayesian optimization",
    "mcts": "MCTS, fixed actions",
    "tpe": "Optuna TPE",
    "smac": "SMAC3",
}


NARROW_AT = 100  # number of samples whose regret a narrow table shows


def label_of(name: str, workers: int | None = None) -> str:
    """Returns the display name of a searcher and its number of workers."""
    return LABELS[name] if workers is None else f"{LABELS[name]}, {workers} worker{'s' * (workers > 1)}"


def medians(results: Sequence[Comparison]) -> str:
    """Returns the median numbers of samples to the optimum in one line; the exact one of random search."""
    words = []
    for result in results:
        median, budget = result.to_optimum.median, result.values.shape[1]
        shown = f"{median:,g}" if math.isfinite(median) else f">{budget}"
        words.append(f"{LABELS[result.name]} {shown if result.expected is None else f'{result.expected:,} (exact)'}")
    return f"samples to the best network, median: {', '.join(words)}"


def table(results: Sequence[Comparison], tests: Sequence[float] | None = None, *, narrow: bool = False) -> Table:
    """Returns a table with one row per searcher.

    Regret is in units of 1e-4; for accuracies, that is hundredths of a percentage point. For losses, which are negated
    values, it is in units of the loss.

    Args:
      results: results of all searchers on one benchmark table.
      tests: mean test accuracy, or negated loss, of the winners of each searcher.
      narrow: True to leave out the time per sample and all regrets but one, so that the table fits 80 columns.
    """
    points = list(results[0].regrets)
    if narrow:
        points = [n for n in points if n == NARROW_AT] or points[:1]
    exact = [result.expected for result in results if result.expected is not None]
    caption = f"Random search needs {exact[0]:,} samples to the optimum (exact median). " if exact else ""
    losses = has_losses(results)
    units = "Regret is in units of the loss." if losses else "Regret is in 1e-4."
    shown = Table(box=SIMPLE, caption=f"{caption}{units}", caption_justify="left")
    shown.add_column("searcher")
    columns = ["samples to the optimum, median (quartiles)", f"samples to the top {100 * results[0].top_share:g} %"]
    columns += [f"regret at {n}, mean (95 %)" if i == 0 else f"at {n}" for i, n in enumerate(points)]
    columns += [winner_label(losses)] * (tests is not None)
    columns += ["ms per sample"] * (not narrow)
    for column in columns:
        shown.add_column(column, justify="right")
    for i, result in enumerate(results):
        budget = result.values.shape[1]
        shown.add_row(
            LABELS[result.name],
            samples(result.to_optimum, budget),
            samples(result.to_top, budget),
            *(_interval(result.regrets[n], losses) for n in points),
            *([] if tests is None else [winner_value(tests[i], losses)]),
            *([] if narrow else [f"{1e3 * result.seconds_per_sample:.3g}"]),
        )
    return shown


def has_losses(results: Sequence[Comparison]) -> bool:
    """Returns whether the values are negated losses instead of accuracies."""
    return any(bool(np.nanmin(result.values) < 0) for result in results)


def winner_label(losses: bool) -> str:
    """Returns the heading of the column of the winners' values."""
    return "winner's loss" if losses else "winner's test accuracy"


def winner_value(test: float, losses: bool) -> str:
    """Formats the mean test accuracy, or negated loss, of winners."""
    return f"{-test:.4g}" if losses else f"{test:.4f}"


def samples(quartiles: Quartiles, budget: int) -> str:
    """Formats a median with its quartiles; a number beyond the budget is shown as ">budget"."""
    lower, median, upper = (f"{n:g}" if math.isfinite(n) else f">{budget}" for n in quartiles)
    return median if lower == upper else f"{median} ({lower}-{upper})"


def _interval(interval: Interval, losses: bool) -> str:
    mean, low, high = (f"{number:.3g}" if losses else f"{1e4 * number:.1f}" for number in interval)
    return f"{mean} ({low}-{high})"


def write_csv(
    path: Path,
    results: Sequence[Comparison],
    tests: Sequence[float] | None = None,
    more: Sequence[dict[str, str]] | None = None,
) -> None:
    """Writes one row per searcher. Numbers of samples beyond the budget and unknown tests are empty.

    Args:
      path: output file.
      results: results of all searchers on one benchmark table.
      tests: mean test accuracy of the winners of each searcher.
      more: additional columns of each result, by name.
    """
    points = sorted({n for result in results for n in result.regrets})
    added = more or [{}] * len(results)
    header = ["searcher", "seeds", "budget"]
    header += [
        f"{what}_{part}" for what in ("optimum", "top") for part in ("lower_quartile", "median", "upper_quartile")
    ]
    header += ["optimum_exact_median"]
    header += [f"regret_{n}{part}" for n in points for part in ("", "_low", "_high")]
    header += ["test_of_best", "seconds_per_sample", *added[0]]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for i, result in enumerate(results):
            samples = [*result.to_optimum, *result.to_top]
            row = [result.name, *result.values.shape, *(n if math.isfinite(n) else "" for n in samples)]
            row += ["" if result.expected is None else result.expected]
            row += [f"{number:.8g}" for n in points for number in result.regrets[n]]
            row += ["" if tests is None else f"{tests[i]:.8g}"]
            writer.writerow([*row, f"{result.seconds_per_sample:.6g}", *added[i].values()])


def write_traces(path: Path, results: Sequence[Comparison]) -> None:
    """Writes every value of every search to an ``.npz`` file, one array ``float32[seeds, budget]`` per searcher.

    With workers, there are two arrays per searcher and number of workers: values, such as ``lanas_64``, and their
    completion times, such as ``lanas_64_times``.
    """
    arrays = {}
    for result in results:
        name = result.name if result.workers is None else f"{result.name}_{result.workers}"
        arrays[name] = result.values
        if result.times is not None:
            arrays[f"{name}_times"] = result.times
    write_npz(path, arrays)


def write_picture(path: Path, results: Sequence[Comparison], optimum: float, title: str) -> None:
    """Plots mean regret with bootstrap intervals, and the share of searches at the optimum, against samples."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.4, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = [("-", 2.4), *[("-", 1.2)] * 9] if results[0].name == "lanas" else [("-", 1.4)] * 10
    for i, (result, (dash, width)) in enumerate(zip(results, styles, strict=False)):
        style: dict[str, Any] = {"color": f"C{i}", "linestyle": dash, "linewidth": width, "label": LABELS[result.name]}
        samples = np.arange(1, result.values.shape[1] + 1)
        shortfall = regret(result.values, optimum)
        intervals = np.array([bootstrap(column) for column in shortfall.T])
        left.plot(samples, intervals[:, 0], **style)
        left.fill_between(samples, intervals[:, 1], intervals[:, 2], color=f"C{i}", alpha=0.15, linewidth=0)
        found = samples_to(result.values, optimum)
        right.plot(samples, [(found <= n).mean() for n in samples], **style)
    lowest = min(float(np.mean(regret(r.values, optimum)[:, min(99, r.values.shape[1] - 1)])) for r in results)
    left.set_yscale("log")
    left.set_ylim(bottom=max(lowest / 3, 1e-7))
    left.set(xlabel="samples", ylabel="mean regret")
    right.set(xlabel="samples", ylabel="share of searches at the optimum", ylim=(0, 1))
    figure.legend(*right.get_legend_handles_labels(), fontsize=8, loc="outside right upper", frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, parse_math=False)  # a name may contain dollar signs
    figure.savefig(path, dpi=130)
