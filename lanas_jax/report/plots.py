"""The plots of a report, drawn with matplotlib as SVG that takes its colours from the page.

Figures are made without `pyplot`, so there is no backend to choose and no global state. Colours are placeholders that
are replaced by CSS variables in the output, so that a plot is readable on a light and on a dark page.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from xml.etree import ElementTree

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from lanas_jax.report import curves
from lanas_jax.report.elements import Element, element
from lanas_jax.report.formatting import ValueFormat
from lanas_jax.searchers.objectives import is_cost, quantity
from lanas_jax.storage.trial import Status, Trial
from lanas_jax.study.objectives import VALUES, reported

SERIES = ("#2f6fb5", "#b3541e", "#2c7d55", "#8a3f9e", "#a88a00", "#0f7f8c", "#b0306a", "#5a5f66")  # of searchers
DOT, BEST, FAILED, INK, FAINT = "#3b7dc4", "#d9730d", "#c0392f", "#202124", "#c9ccd1"
VARIABLES = {DOT: "var(--dot)", BEST: "var(--best)", FAILED: "var(--failed)", INK: "var(--ink)", FAINT: "var(--faint)"}
VARIABLES |= {colour: f"var(--op{i})" for i, colour in enumerate(SERIES)}
LONG_LEGEND = 50  # letters of a legend's labels that need two lines
MOST_VECTORS = 2000  # more dots are rasterized, or the page would take megabytes
STYLE: dict[Any, Any] = {
    "font.size": 10.0,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "svg.fonttype": "none",
}
SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"


def svg_document(plot: Element) -> str:
    """Returns a plot of this module as the text of an SVG file, in the colours of a light page."""
    text = ElementTree.tostring(element("svg", *plot, **plot.attrib, xmlns=SVG.strip("{}")), encoding="unicode")
    for colour, variable in VARIABLES.items():
        text = text.replace(variable, colour)
    return text


def best_against_trials(trials: Sequence[Trial], show: ValueFormat, draws: int = 0) -> Element:
    """Plots each trial's value and the best so far against the trial number.

    Args:
      trials: all trials.
      show: format of the values.
      draws: number of first trials with a value that are drawn without regard to values; their mean is drawn as a line.
    """
    places = {trial.id: float(trial.id) for trial in trials if trial.status != Status.PENDING}
    return _progress(trials, places, show, name="trials", label="trial", draws=draws)


def best_against_seconds(trials: Sequence[Trial], show: ValueFormat) -> Element:
    """Plots each trial's value and the best so far against the time spent on candidates, compilation included."""
    places = curves.seconds_after(trials)
    scale, label = _time_axis(max(places.values(), default=0.0))
    scaled = {trial: seconds / scale for trial, seconds in places.items()}
    return _progress(trials, scaled, show, name="seconds", label=label)


def bands(
    searchers: Mapping[str, curves.Band],
    show: ValueFormat,
    name: Literal["trials", "seconds"],
    value: str | None = None,
) -> Element:
    """Plots the best value so far of several searchers, each as a line in a band.

    Args:
      searchers: band of each searcher, against trials or seconds.
      show: format of the values.
      name: quantity on the horizontal axis.
      value: name of the values; None for the value of trials.
    """
    longest = max((float(band.x[-1]) for band in searchers.values() if len(band.x)), default=0.0)
    scale, label = (1.0, "trials") if name == "trials" else _time_axis(longest)
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(label, show)
        if value is not None:
            axes.set_ylabel(value)
        for i, (searcher, band) in enumerate(searchers.items()):
            colour, dash = SERIES[i % len(SERIES)], ("-", "--", ":", "-.")[i // len(SERIES) % 4]
            x = band.x / scale
            axes.fill_between(x, band.low, band.high, step="post", color=colour, alpha=0.16, linewidth=0)
            # A single place has no line.
            mark = "o" if len(x) == 1 else ""
            axes.step(x, band.mean, dash + mark, where="post", color=colour, linewidth=1.8, label=searcher)
        lows = [low for band in searchers.values() for low in band.low]
        if lows:
            highs = [high for band in searchers.values() for high in band.high]
            floor, top = curves.axis_floor(lows), max(highs)
            axes.set_ylim(bottom=floor - 0.04 * (top - floor) if top > floor else None)
        if name == "trials":
            _count_axis(axes)
        _legend(axes)
        return _svg(figure, name)


def accuracy_against_epochs(found: curves.EpochCurves) -> Element:
    """Plots the accuracies of a supernet's subnetworks against the epochs of its training."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes("epoch of the supernet's training", ValueFormat(percent=True))
        mark = "o" if len(found.epochs) == 1 else ""
        for i, (name, accuracies) in enumerate(found.accuracies.items()):
            colour = SERIES[i % len(SERIES)]
            axes.plot(found.epochs, accuracies, f"-{mark}", color=colour, linewidth=1.6, label=name)
        _count_axis(axes)
        _legend(axes)
        return _svg(figure, "supernet")


def front(
    trials: Sequence[Trial],
    members: Sequence[Trial],
    knee: Trial | None,
    names: tuple[str, str],
    show: ValueFormat,
    *,
    whole: bool = True,
) -> Element:
    """Plots trials by two objectives, those on the front large, all others pale.

    Args:
      trials: trials with a value and both objectives.
      members: trials on the front.
      knee: trial on the front to mark as the winner; None for none.
      names: names of the objectives on the upright axis and on the other one.
      show: format of the values.
      whole: True if these two objectives define the front, which is then drawn as a line too.
    """
    upright, across = names
    labels = [quantity(name).replace("_", "-") for name in names]
    x, y = (np.array([reported(trial, name) for trial in trials], float) for name in (across, upright))
    on_front = np.isin([trial.id for trial in trials], [trial.id for trial in members])
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(labels[1], show)
        if across in VALUES:
            _value_axis(axes.xaxis, show)
        if upright not in VALUES:
            axes.set_ylabel(labels[0])
            _cost_axis(axes.yaxis, y)
        floor = min(map(curves.axis_floor, (y, y[on_front]))) if upright in VALUES and len(y) else -np.inf
        _scatter(axes, x, y, floor=floor, pale=~on_front)
        order = np.flatnonzero(on_front)[np.argsort(x[on_front], kind="stable")]
        order = order[y[order] >= floor]
        if whole:
            worse = "steps-post" if is_cost(across) else "steps-pre"  # the line encloses what the front dominates
            axes.plot(x[order], y[order], color=BEST, drawstyle=worse, linewidth=1.6, zorder=3)
        axes.plot(x[order], y[order], "o", color=BEST, markersize=5, zorder=4, label="Pareto front")
        if below := (on_front & (y < floor)).sum():
            _on_edge(axes, x[on_front & (y < floor)], "v", color=BEST, label=f"{below} of it below the axis")
        if knee is not None:
            at = [trial is knee for trial in trials].index(True)
            style: dict[str, Any] = {"color": BEST, "markersize": 9, "markeredgecolor": INK, "markeredgewidth": 1.2}
            axes.plot(x[[at]], np.maximum(y[[at]], floor), "D", zorder=5, label="knee", **style)
        if across not in VALUES:
            _cost_axis(axes.xaxis, x)
        _legend(axes)
        return _svg(figure, f"front-{quantity(upright)}-{quantity(across)}")


def hypervolume_against(
    x: Sequence[float], shares: Float[np.ndarray, " n"], name: Literal["trials", "seconds"]
) -> Element:
    """Plots the hypervolume of a search, a share of a box, against trials or seconds.

    Args:
      x: trial numbers or seconds, ascending.
      shares: hypervolume up to each.
      name: quantity on the horizontal axis.
    """
    scale, label = (1.0, "trial") if name == "trials" else _time_axis(max(x, default=0.0))
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(label, ValueFormat(percent=True))
        axes.set_ylabel("hypervolume")
        steps = np.append(np.diff(shares[:-1], prepend=-1.0) > 0, True)  # trials that add nothing are left out
        mark = "o" if len(x) == 1 else ""
        axes.step(np.array(x)[steps] / scale, shares[steps], f"-{mark}", where="post", color=BEST, linewidth=1.8)
        axes.set_ylim(bottom=0.0)
        if name == "trials":
            _count_axis(axes)
        return _svg(figure, f"hypervolume-{name}")


def value_against_limit(
    costs: Int[np.ndarray, " n"], values: Float[np.ndarray, " n"], limit: int, name: str, show: ValueFormat
) -> Element:
    """Plots values against a cost with a hard limit, which is drawn as a line.

    Args:
      costs: costs of the trials with a value.
      values: values of the same trials.
      limit: upper limit of the cost.
      name: name of the cost, unique among the plots of the page.
      show: format of the values.
    """
    x = np.asarray(costs, float)
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(name, show)
        _scatter(axes, x, values)
        axes.axvline(limit, color=FAILED, linewidth=1.6, linestyle=(0, (5, 3)), label=f"limit, {_short(float(limit))}")
        _cost_axis(axes.xaxis, np.append(x, limit))
        _legend(axes)
        return _svg(figure, f"limit-{name}")


def truth_against_estimate(
    estimate: Float[np.ndarray, " n"], truth: Float[np.ndarray, " n"], name: str, place: str, reference: str
) -> Element:
    """Plots reference values of networks, such as those after training from scratch, against an estimate of them.

    Args:
      estimate: estimated values, one per network; networks with NaN are left out.
      truth: reference values, one per network; networks with NaN are left out.
      name: name of the estimate.
      place: id of the plot, unique within the page.
      reference: name of the reference, which labels its axis.
    """
    known = ~(np.isnan(estimate) | np.isnan(truth))
    x, values = estimate[known], truth[known]
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(f"value by {name}", ValueFormat.of(values.tolist()))
        axes.xaxis.label.set_parse_math(False)
        axes.set_ylabel(reference, parse_math=False)
        _scatter(axes, x, values, "network")
        if len(x):
            axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
        if ValueFormat.of(x.tolist()).percent:
            axes.xaxis.set_major_formatter(_percent())
        _legend(axes)
        return _svg(figure, place)


def _progress(
    trials: Sequence[Trial], places: dict[int, float], show: ValueFormat, *, name: str, label: str, draws: int = 0
) -> Element:
    shown = curves.done(trials)
    x = np.array([places[trial.id] for trial in shown], float)
    values = np.array([trial.value for trial in shown], float)
    failed = np.array([places[trial.id] for trial in trials if trial.status == Status.FAILED], float)
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(label, show)
        floor = _scatter(axes, x, values)
        if 0 < draws < len(shown):
            mean = float(np.maximum(values[:draws].mean(), floor))
            axes.axhline(mean, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), label=f"mean of the first {draws}")
        if len(shown):
            end = max(places.values())
            steps = np.maximum(np.append(curves.running_best(values.tolist()), values.max()), floor)
            axes.step(np.append(x, end), steps, where="post", color=BEST, linewidth=1.8, zorder=3, label="best so far")
        if len(failed):
            _on_edge(axes, failed, "x", color=FAILED, rasterized=len(failed) > MOST_VECTORS, label="failed")
        if name == "trials":
            last = max(places.values(), default=0.0)
            axes.set_xlim(-0.5 - 0.02 * last, last + 0.5 + 0.02 * last)
            _count_axis(axes)
        _legend(axes)
        return _svg(figure, name)


def _axes(label: str, show: ValueFormat) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.4, 3.5), layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0.0)
    axes.set_xlabel(label)
    _value_axis(axes.yaxis, show)
    return figure, axes


def _value_axis(axis: Axis, show: ValueFormat) -> None:
    """Labels an axis of values, and formats them."""
    axis.set_label_text(show.label)
    axis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    if show.percent:
        axis.set_major_formatter(_percent())


def _count_axis(axes: Axes) -> None:
    """Formats the horizontal axis of trial numbers as whole numbers."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=7))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.0f}"))


def _time_axis(longest: float) -> tuple[float, str]:
    """Returns the seconds in a unit of an axis up to `longest` seconds, and the axis's label."""
    scale, unit = (1.0, "seconds") if longest < 180 else (60.0, "minutes") if longest < 3 * 3600 else (3600.0, "hours")
    return scale, f"{unit} spent on candidates, compilation included"


def _cost_axis(axis: Axis, costs: np.ndarray) -> None:
    """Formats an axis of costs with short numbers; logarithmic if the costs span more than a factor of 8."""
    if len(costs) and costs.min() > 0 and costs.max() > 8 * costs.min():
        (axis.axes.set_xscale if axis is axis.axes.xaxis else axis.axes.set_yscale)("log")
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if costs.max() < 1e3 * costs.min() else (1.0,)))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda number, _: _short(number)))


def _percent() -> FuncFormatter:
    return FuncFormatter(lambda value, _: f"{100 * value:.4g} %")


def _scatter(
    axes: Axes,
    x: np.ndarray,
    values: np.ndarray,
    what: str = "trial",
    floor: float | None = None,
    pale: np.ndarray | None = None,
) -> float:
    """Draws a dot per trial, and triangles on the lower edge for outliers below; returns the start of the axis.

    Args:
      axes: axes to draw on.
      x: place of each trial.
      values: value of each trial.
      what: noun for a dot.
      floor: start of the axis; None for one that leaves out outliers.
      pale: trials to draw, in pale dots; None for all, in the usual ones.
    """
    if not len(values):
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, f"no {what} has a value yet", ha="center", va="center", transform=axes.transAxes)
        return -np.inf
    floor = curves.axis_floor(values.tolist()) if floor is None else floor
    drawn = np.ones(len(values), bool) if pale is None else pale
    inside, below = drawn & (values >= floor), drawn & (values < floor)
    look: dict[str, Any] = {"color": DOT, "mew": 0, "rasterized": len(values) > MOST_VECTORS}
    look["alpha"] = 0.55 if pale is None else 0.4
    axes.plot(x[inside], values[inside], "o", markersize=4 if len(values) < 500 else 2.5, label=what, **look)
    if below.any():
        _on_edge(axes, x[below], "v", label=f"{below.sum()} below the axis", **look)
    return floor


def _on_edge(axes: Axes, x: np.ndarray, marker: str, **look: Any) -> None:
    """Draws marks along the lower edge for trials outside the value axis."""
    axes.plot(x, np.full(len(x), 0.03), marker, markersize=5, transform=axes.get_xaxis_transform(), **look)


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = 3 if sum(map(len, labels)) > LONG_LEGEND else 4
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, handletextpad=0.4, columnspacing=1.4)


def _short(number: float) -> str:
    for scale, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(number) >= scale:
            return f"{number / scale:g}{letter}"
    return f"{number:g}"


def _svg(figure: Figure, name: str) -> Element:
    """Converts the figure to a page element: no metadata or namespaces, unique ids, colours of the page."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue().replace("'DejaVu Sans'", "system-ui")
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, variable)
    root = ElementTree.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{SVG}metadata":
                parent.remove(child)
    for node in root.iter():
        node.tag = node.tag.removeprefix(SVG)
        node.attrib = {key: _reference(key, value, name) for key, value in node.attrib.items()}
        for key in [key for key in node.attrib if key.startswith(XLINK)]:
            node.set(key.removeprefix(XLINK), node.attrib.pop(key))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib.update({"class": "plot", "role": "img", "aria-label": f"{name} plot"})
    return root


def _reference(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if value.startswith("#"):
        return f"#{name}-{value[1:]}"
    return re.sub(r"url\(#", f"url(#{name}-", value)
