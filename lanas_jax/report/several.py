"""The page of several runs side by side: best values with bands, runs and their costs, winners, differing settings.

`render_runs` is a pure function of the data that `run` collects from the run directories. Runs of one searcher form a
group, usually with different seeds.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from lanas_jax.report import curves, formatting, front, graph, plots, tables
from lanas_jax.report.elements import Element, element, html
from lanas_jax.report.formatting import ValueFormat
from lanas_jax.report.style import CSS, SCRIPT
from lanas_jax.searchers.dominance import front_rows
from lanas_jax.searchers.hypervolume import reference_below
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.storage.trial import Status, Trial
from lanas_jax.study import objectives
from lanas_jax.study.objectives import winner_among

ELSEWHERE = ("seed", "created")  # settings that are not in the table of those that differ
MOST_WINNERS = 12  # maximum number of winners drawn


@dataclasses.dataclass(frozen=True)
class RunData:
    """One of the runs.

    Attributes:
      place: name of the run, unique on the page.
      name: name of the experiment.
      searcher: name of the searcher.
      seed: random seed of the search.
      budget: number of trials of the search.
      trials: all trials, including pending and failed ones.
      space: search space.
      settings: recorded settings as text, by name.
      final: result of the winner's training, the content of its final.json; None if there is none.
      objectives: names of the objectives of a search with several, whose winner is the knee of their front.
    """

    place: str
    name: str
    searcher: str
    seed: int
    budget: int
    trials: Sequence[Trial]
    space: SearchSpace
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    final: Mapping[str, Any] | None = None
    objectives: tuple[str, ...] = ()

    @property
    def finished(self) -> list[Trial]:
        """The trials that are done or failed, in order of trial number."""
        return sorted((t for t in self.trials if t.status != Status.PENDING), key=lambda trial: trial.id)

    @property
    def seconds(self) -> Float[np.ndarray, " n"]:
        """The seconds spent on candidates up to the end of each finished trial."""
        after = curves.seconds_after(self.trials)
        return np.array([after[trial.id] for trial in self.finished], float)


Groups = Mapping[str, Sequence[RunData]]


def render_runs(runs: Sequence[RunData]) -> str:
    """Renders the page of several runs as the text of an HTML document."""
    show = ValueFormat.of(t.value for run in runs for t in curves.done(run.trials) if t.value is not None)
    groups = _groups(runs)
    so_far = _so_far(runs, show)
    names = sorted({run.name for run in runs})
    title = f"{', '.join(names)}: {formatting.plural(len(runs), 'run')}"
    body = [
        element("header", element("h1", title), *_notices(runs, groups)),
        *_progress(groups, so_far),
        *_searchers(groups, so_far),
        *_runs(groups, show),
        *_winners(groups, show),
        *_settings(runs),
    ]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", CSS),
    )
    page = element("html", head, element("body", *body, element("script", SCRIPT)), lang="en")
    return f"<!DOCTYPE html>\n{html(page)}\n"


def _groups(runs: Sequence[RunData]) -> dict[str, list[RunData]]:
    """Returns the runs by searcher, or by experiment and searcher if there are several experiments."""
    several = len({run.name for run in runs}) > 1
    groups: dict[str, list[RunData]] = {}
    for run in runs:
        groups.setdefault(f"{run.name}, {run.searcher}" if several else run.searcher, []).append(run)
    return groups


def _notices(runs: Sequence[RunData], groups: Groups) -> list[Element]:
    notices = []
    if len({run.objectives for run in runs}) > 1:
        notices.append("The runs have different objectives, so only the values of their trials are compared.")
    if len({run.name for run in runs}) > 1:
        notices.append("The runs are of different experiments, so their values may not be comparable.")
    elif any(run.space.definition() != runs[0].space.definition() for run in runs):
        notices.append("The runs search different spaces.")
    for name, members in groups.items():
        if len(seeds := {run.seed for run in members}) < len(members):
            notices.append(f"{name}: {len(members)} runs have {formatting.plural(len(seeds), 'seed')}.")
    unfinished = [run.place for run in runs if len(run.finished) < run.budget]
    if unfinished:
        notices.append(f"The budget is not used up by {', '.join(unfinished)}.")
    return [element("p", text, class_="notice") for text in notices]


class _SoFar(NamedTuple):
    """What runs are compared by: a number after each finished trial."""

    runs: dict[str, Float[np.ndarray, " n"]]  # by place of the run
    show: ValueFormat
    is_hypervolume: bool  # a share of a box, else the best value so far, NaN before the first one


def _so_far(runs: Sequence[RunData], show: ValueFormat) -> _SoFar:
    """Returns the best values so far, or the hypervolumes so far if all runs have the same several objectives.

    These are shares of the box from the reference of all trials to the best value of each objective.
    """
    names = runs[0].objectives
    done = [trial for run in runs for trial in curves.done(run.trials)]
    if not names or not done or any(run.objectives != names for run in runs):
        values = {run.place: [np.nan if t.value is None else t.value for t in run.finished] for run in runs}
        best = {place: np.fmax.accumulate(np.array(found, float)) for place, found in values.items()}
        return _SoFar(best, show, is_hypervolume=False)
    points = objectives.values_to_tell(done, names).astype(np.float64)
    reference, top = reference_below(points, front_rows(points)), points.max(axis=0)
    told = {run.place: objectives.values_to_tell(run.finished, names) for run in runs}
    volumes = {place: front.hypervolumes(values, reference, top) for place, values in told.items()}
    return _SoFar(volumes, ValueFormat(percent=True), is_hypervolume=True)


def _progress(groups: Groups, so_far: _SoFar) -> list[Element]:
    numbers, show = so_far.runs, so_far.show
    against_trials = {name: curves.band_by_trial([numbers[run.place] for run in runs]) for name, runs in groups.items()}
    against_seconds = {
        name: curves.band_by_time([(run.seconds, numbers[run.place]) for run in runs]) for name, runs in groups.items()
    }
    if not any(len(band.x) for band in against_trials.values()):
        return []
    meaning = "Lines are means over the runs of a searcher, bands reach from the worst to the best run"
    label = "hypervolume" if so_far.is_hypervolume else None
    figures = [
        _figure(
            plots.bands(against_trials, show, "trials", label),
            f"{meaning}, and curves end where the shortest run ends.",
        )
    ]
    if any(band.x.any() for band in against_seconds.values()):
        caption = "The same against the time spent on candidates; pauses of a search are not counted."
        figures.append(_figure(plots.bands(against_seconds, show, "seconds", label), caption))
    if not so_far.is_hypervolume:
        return [element("h2", "Best value so far"), element("div", *figures, class_="plots")]
    text = (
        "The volume between the trials and a reference, as a share of the box from there to the best value of each "
        "objective. The reference lies below the front of all runs."
    )
    heading = element("h2", "Hypervolume so far"), element("p", text, class_="quiet")
    return [*heading, element("div", *figures, class_="plots")]


def _searchers(groups: Groups, so_far: _SoFar) -> list[Element]:
    show, number = so_far.show, "hypervolume" if so_far.is_hypervolume else "best value"
    names = ("runs", f"{number}, mean", "worst to best run", "trials", "failed", "time, mean")
    rows = []
    for name, runs in groups.items():
        last = [so_far.runs[run.place][-1:] for run in runs]
        ends = [float(end[0]) for end in last if len(end) and not np.isnan(end[0])]
        spent = [run.seconds[-1] if len(run.seconds) else 0.0 for run in runs]
        failed = sum(trial.status == Status.FAILED for run in runs for trial in run.trials)
        mean = float(np.mean(ends)) if ends else None
        span = f"{show(min(ends), 2)} to {show(max(ends), 2)}" if ends else formatting.MISSING
        cells = [
            tables.number(str(len(runs))),
            tables.number(show(mean, 2), mean),
            tables.number(span, None if mean is None else min(ends)),
            tables.number(f"{sum(len(run.finished) for run in runs):,}"),
            tables.number(str(failed)),
            tables.number(formatting.seconds(float(np.mean(spent))), float(np.mean(spent))),
        ]
        rows.append(element("tr", element("td", name), *cells))
    return [element("h2", "Searchers"), tables.sortable(["searcher"], names, rows)]


def _runs(groups: Groups, show: ValueFormat) -> list[Element]:
    value_name = (
        "value of the knee" if any(run.objectives for runs in groups.values() for run in runs) else "best value"
    )
    names = ("seed", value_name, "at trial", "trials", "failed", "time", "multiply-adds", "parameters")
    tested = any(run.final for runs in groups.values() for run in runs)
    rows = []
    for name, runs in groups.items():
        for run in runs:
            leader = winner_among(run.trials, run.objectives)
            status = Counter(trial.status for trial in run.trials)
            spent = float(run.seconds[-1]) if len(run.seconds) else 0.0
            value, at, costs = (
                (leader.value, str(leader.id), (leader.multiply_adds, leader.parameters))
                if leader
                else (None, formatting.MISSING, (None, None))
            )
            cells = [
                tables.number(str(run.seed)),
                tables.number(show(value, 2), value),
                tables.number(at),
                tables.number(f"{len(run.finished):,} of {run.budget:,}", len(run.finished)),
                tables.number(str(status[Status.FAILED])),
                tables.number(formatting.seconds(spent), spent),
                *(tables.number(formatting.count(cost), cost) for cost in costs),
            ]
            if tested:
                tested_value, form = None, ValueFormat(percent=True)
                if run.final and (bits := run.final.get("test_bits")) is not None:
                    tested_value, form = -bits, show  # negative bits per character, as the values of the search
                elif run.final:
                    tested_value = run.final["test_accuracy"]
                cells.append(tables.number(form(tested_value, 2), tested_value))
            rows.append(element("tr", element("td", run.place, class_="words"), element("td", name), *cells))
    columns = (*names, *(("winner, test",) if tested else ()))
    return [element("h2", "Runs"), tables.sortable(["run", "searcher"], columns, rows)]


def _winners(groups: Groups, show: ValueFormat) -> list[Element]:
    """Draws the best network of each run, or describes it if it has no graph; the best `MOST_WINNERS` runs."""
    found = [
        (leader.value, run, name, leader)
        for name, runs in groups.items()
        for run in runs
        if (leader := winner_among(run.trials, run.objectives)) is not None and leader.value is not None
    ]
    if not found:
        return []
    found.sort(key=lambda one: -one[0])
    colours = graph.network_colours((run.space, leader.code) for _, run, _, leader in found[:MOST_WINNERS])
    parts = [element("h2", "Winners")]
    if len(found) > MOST_WINNERS:
        parts.append(element("p", f"The best {MOST_WINNERS} of {len(found)} runs.", class_="quiet"))
    panels = []
    for value, run, name, leader in found[:MOST_WINNERS]:
        panel = [element("h3", f"{run.place}: {show(value, 2)}"), element("p", name, class_="quiet")]
        panel += graph.draw_network(run.space, leader.code, colours)
        panels.append(element("div", *panel, class_="panel"))
    return [*parts, element("div", *panels, class_="plots")]


def _settings(runs: Sequence[RunData]) -> list[Element]:
    """Returns a table of the settings that differ between the runs, one column per run."""
    names = [name for name in dict.fromkeys(name for run in runs for name in run.settings) if name not in ELSEWHERE]
    differing = [name for name in names if len({run.settings.get(name) for run in runs}) > 1]
    if not differing:
        return []
    head = element("tr", element("th", "setting"), *(element("th", run.place) for run in runs))
    rows = [
        element(
            "tr",
            element("th", name),
            *(element("td", run.settings.get(name, formatting.MISSING), class_="words") for run in runs),
        )
        for name in differing
    ]
    table = element("table", element("thead", head), element("tbody", *rows))
    return [element("h2", "Settings that differ"), element("div", table, class_="wide")]


def _figure(drawing: Element, caption: str) -> Element:
    return element("figure", drawing, element("figcaption", caption))
