"""The comparisons of the LaNAS paper on benchmark tables: searches, a figure for each table, and its numbers.

    python -m lanas_jax.experiments.paper_figures

It runs eight searchers on every table of ``--tables``; TPE needs the extra ``peers``. The searches of each are saved to
``comparisons/paper/TABLE`` when they are done, so an interrupted command continues. It writes to docs/images:

- ``paper-light.svg`` and ``paper-dark.svg``: for each table, the mean regret against the number of trained networks,
  with 95 % bootstrap intervals, and the regret of every search after ``--final`` networks

It also prints a Markdown table for each benchmark table: samples to the best network, and how many times fewer LaNAS
needs.
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lanas_jax.commands import help_text
from lanas_jax.comparison.compare import Comparison, compare_searchers
from lanas_jax.comparison.output import LABELS, samples
from lanas_jax.comparison.statistics import (
    RESAMPLES,
    Values,
    bootstrap,
    quartiles,
    random_samples,
    regret,
    samples_to,
)
from lanas_jax.experiments.pictures import SCHEMES, colours, page_svg
from lanas_jax.formats.npz import read_npz, write_npz
from lanas_jax.report import plots
from lanas_jax.tables import catalogue
from lanas_jax.tables.base import Table

SEARCHERS = ("lanas", "local", "bo", "tpe", "evolution", "mcts", "paper", "random")
COLOURS = dict(zip(SEARCHERS, ("--best", *(f"--op{i}" for i in (5, 2, 0, 3, 4, 6, 7))), strict=True))
DOTS = 0.3  # half the height of a row of dots, in rows
FINE, COARSE = 40, 10  # curves have every sample up to the first, then every so many: smaller files


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the comparisons and of their figure.

    Attributes:
      tables: names of the benchmark tables.
      searchers: names of the searchers; the first one is the one that the others are compared with.
      seeds: number of searches per searcher and table.
      slow: names of the searchers whose proposals take longest, which run fewer searches.
      slow_seeds: number of searches of each of these.
      budget: number of distinct networks per search.
      final: number of networks after which the regrets of all searches are shown.
      comparisons: folder of the finished searches.
      out: folder of the pictures.
    """

    tables: tuple[str, ...] = ("convnet-digits", "recurrent-text", "nasbench201-cifar10")
    searchers: tuple[str, ...] = SEARCHERS
    seeds: int = 50
    slow: tuple[str, ...] = ("bo", "tpe")
    slow_seeds: int = 20
    budget: int = 400
    final: int = 100
    comparisons: Path = Path("comparisons/paper")
    out: Path = Path("docs/images")


class TableSearches(NamedTuple):
    """All searches on one table.

    Attributes:
      table: name of the table.
      optimum: the value of its best network.
      size: number of its networks.
      ties: number of networks with the best value.
      traces: value of each network that a search tried, by the name of the searcher.
    """

    table: str
    optimum: float
    size: int
    ties: int
    traces: dict[str, Values]

    @property
    def has_losses(self) -> bool:
        """Whether values are negated losses instead of accuracies."""
        return self.optimum < 0

    @property
    def scale(self) -> float:
        """The factor from values to shown regrets: percentage points for accuracies."""
        return 1.0 if self.has_losses else 100.0

    @property
    def unit(self) -> str:
        """The unit of shown regrets."""
        return "units of the loss" if self.has_losses else "points of accuracy"

    @property
    def searches(self) -> str:
        """The numbers of searches of its searchers, such as ``20-50``."""
        numbers = sorted({len(values) for values in self.traces.values()})
        return "-".join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1])))

    def regrets(self, name: str) -> Values:
        """Returns the regrets of all searches of a searcher in the shown unit."""
        return self.scale * regret(self.traces[name], self.optimum)


class Ratio(NamedTuple):
    """How many times more samples one searcher needs than another; bounds may be infinite.

    Attributes:
      ratio: ratio of the medians; a lower bound if `is_bound`.
      low: lower end of its 95 % bootstrap interval over the searches.
      high: upper end.
      is_bound: True if the searcher's median exceeds the budget.
    """

    ratio: float
    low: float
    high: float
    is_bound: bool


def searches(table: Table, name: str, config: Config, path: Path) -> Values:
    """Returns the traces of one searcher, from a file if it has enough searches of the same budget.

    Returns:
      float32[seeds, budget], NaN after a search ended; the budget is at most the size of the table.
    """
    budget = min(config.budget, len(table))
    seeds = config.slow_seeds if name in config.slow else config.seeds
    if path.is_file():
        values: Values = read_npz(path, ("values",))["values"]
        if len(values) >= seeds and values.shape[1] >= budget:
            return values[:seeds, :budget]
    done: list[Comparison] = []
    compare_searchers(table, [name], budget=config.budget, seeds=seeds, note=done.append)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_npz(path, {"values": done[0].values})
    return done[0].values


def panel_of(name: str, config: Config, note: Callable[[str], object]) -> TableSearches:
    """Runs all searchers on a table, or reads their finished searches."""
    table = catalogue.find_benchmark(name).table()
    traces = {}
    for searcher in config.searchers:
        note(f"{name}: {LABELS[searcher]}")
        traces[searcher] = searches(table, searcher, config, config.comparisons / name / f"{searcher}.npz")
    values = np.asarray(table.values)
    return TableSearches(name, table.best, len(table), int((values == values.max()).sum()), traces)


def ratio_of(numbers: Float[np.ndarray, " n"], reference: Float[np.ndarray, " m"], budget: int) -> Ratio:
    """Compares the median number of samples of two searchers.

    Args:
      numbers: samples until each search of the one found the best network; infinite if it did not.
      reference: samples until each search of the other found it; the first median is divided by this one.
      budget: the number of samples after which searches end, which bounds an infinite median from below.
    """
    rng = np.random.default_rng(0)

    def drawn(found: Float[np.ndarray, " n"]) -> Float[np.ndarray, " resamples"]:
        return _medians(found[rng.integers(len(found), size=(RESAMPLES, len(found)))])

    over, under = quartiles(numbers).median, quartiles(reference).median
    above, below = drawn(numbers), drawn(reference)
    ratios = np.where(np.isfinite(above), above, budget) / np.where(np.isfinite(below), below, math.inf)
    low = float(np.quantile(ratios, 0.025))
    # an infinite median of a resample makes the upper end unknown
    high = float(np.quantile(np.where(np.isfinite(above), ratios, math.inf), 0.975, method="higher"))
    return Ratio((over if math.isfinite(over) else budget) / under, low, high, not math.isfinite(over))


def _medians(drawn: Float[np.ndarray, "resamples n"]) -> Float[np.ndarray, " resamples"]:
    """Returns the median of each row; of two middle numbers of which one is infinite, that is infinite."""
    ordered = np.sort(drawn, axis=1)
    n = ordered.shape[1]
    return (ordered[:, (n - 1) // 2] + ordered[:, n // 2]) / 2


def markdown(panel: TableSearches, final: int) -> str:
    """Returns the Markdown table of one benchmark table, one row per searcher."""
    first = next(iter(panel.traces))
    points = sorted({min(final, panel.traces[first].shape[1]), panel.traces[first].shape[1]})
    header = ["searcher", "samples to the best, median (quartiles)", "never found"]
    header += [f"regret after {n}, {panel.unit} (95 %)" for n in points]
    header += [f"times the samples of {LABELS[first]} (95 %)"]
    rows = [header, ["---", *["--:"] * (len(header) - 1)]]
    reference = samples_to(panel.traces[first], panel.optimum)
    for name, values in panel.traces.items():
        found, budget = samples_to(values, panel.optimum), values.shape[1]
        regrets = [bootstrap(panel.regrets(name)[:, n - 1]) for n in points]
        ratio = ratio_of(found, reference, budget)
        exact = random_samples(panel.size, panel.ties) if name == "random" else None
        needed = samples(quartiles(found), budget) if exact is None else f"{exact:,} (exact median)"
        row = [LABELS[name], needed, f"{100 * np.isinf(found).mean():.0f} %"]
        row += [f"{each.mean:.3g} ({each.low:.3g}-{each.high:.3g})" for each in regrets]
        row += ["1" if name == first else _times(ratio, exact, quartiles(reference).median)]
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _times(ratio: Ratio, exact: int | None, under: float) -> str:
    if not math.isfinite(under):
        return "-"
    if exact is not None:
        return f"{exact / under:.0f}"
    shown = f"{'>' * ratio.is_bound}{ratio.ratio:.1f}"
    high = f"{ratio.high:.1f}" if math.isfinite(ratio.high) else "?"
    return f"{shown} ({ratio.low:.1f}-{high})"


def draw(panels: Sequence[TableSearches], final: int, scheme: str) -> str:
    """Draws one row of plots per table: mean regret against samples, and all regrets after some number of samples.

    Args:
      panels: the searches on each table, all by the same searchers.
      final: number of samples after which the regret of every search is shown.
      scheme: ``"light"`` or ``"dark"``.

    Returns:
      The text of an SVG file.
    """
    palette = {name: colours(scheme)[variable] for name, variable in COLOURS.items()}
    with matplotlib.rc_context(plots.STYLE | {"svg.hashsalt": "paper"}):
        figure = Figure(figsize=(9.2, 3.0 * len(panels) + 0.6), layout="constrained")
        rows = figure.subplots(len(panels), 2, squeeze=False, width_ratios=(3, 2))
        for (left, right), panel in zip(rows, panels, strict=True):
            _curves(left, panel, palette)
            _dots(right, panel, final, palette)
        rows[-1][0].set_xlabel("trained networks")
        figure.legend(*rows[0][0].get_legend_handles_labels(), loc="outside upper left", ncols=4, fontsize=9)
        return page_svg(figure, scheme)


def _curves(axes: Axes, panel: TableSearches, palette: dict[str, str]) -> None:
    lowest = math.inf
    first = next(iter(panel.traces))
    budget = panel.traces[first].shape[1]
    points = np.unique([*range(1, min(FINE, budget) + 1), *range(FINE, budget, COARSE), budget])
    for name in panel.traces:
        intervals = np.array([bootstrap(column) for column in panel.regrets(name).T[points - 1]])
        width, order = (2.6, 3) if name == first else (1.5, 2)
        axes.fill_between(points, intervals[:, 1], intervals[:, 2], color=palette[name], alpha=0.15, linewidth=0)
        axes.plot(points, intervals[:, 0], color=palette[name], linewidth=width, zorder=order, label=LABELS[name])
        positive = intervals[intervals[:, 0] > 0, 0]
        lowest = min(lowest, positive.min(initial=math.inf))
    axes.set(yscale="log", xlim=(1, budget))
    axes.set_ylim(bottom=lowest / 2)
    axes.set_ylabel(f"mean regret, {panel.unit}")
    axes.set_title(f"{panel.table}, {panel.searches} searches", loc="left", fontsize=10)
    axes.yaxis.set_major_formatter(lambda number, _: f"{number:g}")


def _dots(axes: Axes, panel: TableSearches, final: int, palette: dict[str, str]) -> None:
    """Plots the regret of every search after `final` samples as a dot, and the mean of each searcher as a line."""
    rng = np.random.default_rng(0)
    names = list(panel.traces)
    for row, name in enumerate(reversed(names)):
        regrets = panel.regrets(name)[:, :final][:, -1]
        heights = row + rng.uniform(-DOTS, DOTS, len(regrets))
        axes.scatter(regrets, heights, s=7, color=palette[name], alpha=0.5, linewidths=0, clip_on=False)
        axes.plot([regrets.mean()] * 2, [row - 0.45, row + 0.45], color=palette[name], linewidth=2.2)
    axes.set_yticks(range(len(names)), [LABELS[name] for name in reversed(names)], fontsize=8)
    axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")
    axes.set_title(f"regret after {final} networks, {panel.unit}", loc="left", fontsize=9)


def main(config: Config) -> None:
    """Runs the searches that are missing, writes the pictures and prints the tables."""
    unknown = set(config.searchers) - set(SEARCHERS)
    if unknown:
        raise SystemExit(f"there is no searcher {min(unknown)!r} here; choose from {', '.join(SEARCHERS)}")
    panels = [panel_of(name, config, lambda text: print(text, file=sys.stderr)) for name in config.tables]
    config.out.mkdir(parents=True, exist_ok=True)
    for scheme in SCHEMES:
        path = config.out / f"paper-{scheme}.svg"
        path.write_text(f"{draw(panels, config.final, scheme).rstrip()}\n", encoding="utf-8")
        print(path)
    for panel in panels:
        print(f"\n{panel.table}: {panel.size:,} networks, {panel.searches} searches\n\n{markdown(panel, config.final)}")


if __name__ == "__main__":
    main(help_text.parse_documented(Config, __doc__))
