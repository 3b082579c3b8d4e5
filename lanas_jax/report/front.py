"""The report's sections on a search with several objectives: its winner with neighbours, its front, its hypervolume."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lanas_jax.report import curves, formatting, graph, plots, tables
from lanas_jax.report.elements import Content, Element, element
from lanas_jax.report.formatting import ValueFormat
from lanas_jax.searchers.hypervolume import reference_below, volumes_after
from lanas_jax.searchers.objectives import is_cost, quantity
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.storage.trial import Trial
from lanas_jax.study import objectives
from lanas_jax.study.objectives import VALUES

MOST_NETWORKS = 40  # maximum networks of a front that are listed and drawn
POINTS = 200  # maximum numbers of trials at which the hypervolume is computed


class SearchedFront(NamedTuple):
    """The front of a search.

    Attributes:
      objectives: names of the objectives.
      trials: all trials with a value, in order of trial number.
      members: trials on the front, in descending order of the first objective.
      knee: trial that wins; None without a trial that has a value.
      reference: values of the objectives, costs negative, from which the hypervolume is measured.
    """

    objectives: tuple[str, ...]
    trials: Sequence[Trial]
    members: Sequence[Trial]
    knee: Trial | None
    reference: Float[np.ndarray, " k"]

    @classmethod
    def of(
        cls, trials: Sequence[Trial], names: Sequence[str], reference: Sequence[float] | None = None
    ) -> "SearchedFront":
        """Returns the front of trials.

        Args:
          trials: all trials of a search.
          names: names of the objectives.
          reference: reference that the searcher was given; None for one a tenth of the front's range below it.
        """
        done, members = curves.done(trials), objectives.front(trials, names)
        if reference is None and done:
            on_front = {trial.id for trial in members}
            rows = np.array([trial.id in on_front for trial in done])
            reference = reference_below(objectives.values_to_tell(done, names).astype(np.float64), rows).tolist()
        floor = np.array(reference if done else [0.0] * len(names), float)
        return cls(tuple(names), done, members, objectives.knee(members, names), floor)

    @property
    def listed(self) -> list[Trial]:
        """The members to list: all, or `MOST_NETWORKS` spread evenly over the front, with the knee."""
        if len(self.members) <= MOST_NETWORKS:
            return list(self.members)
        rows = np.linspace(0, len(self.members) - 1, MOST_NETWORKS).round().astype(int)
        knee = [i for i, trial in enumerate(self.members) if trial is self.knee]
        return [self.members[i] for i in sorted({*rows.tolist(), *knee})]

    def neighbours(self) -> dict[str, Trial]:
        """Returns, by objective, the nearest network of the front that is better in it than the knee."""
        if self.knee is None:
            return {}
        values = objectives.values_to_tell(self.members, self.objectives).astype(np.float64)
        extent = values.max(axis=0) - values.min(axis=0)
        own = values[[trial is self.knee for trial in self.members]][0]
        steps = (values - own) / np.where(extent > 0, extent, 1.0)
        distance = np.square(steps).sum(axis=1)
        better = {name: np.flatnonzero(column > 0) for name, column in zip(self.objectives, steps.T, strict=True)}
        return {name: self.members[rows[np.argmin(distance[rows])]] for name, rows in better.items() if len(rows)}

    def hypervolumes(self) -> Float[np.ndarray, " n"]:
        """Returns the hypervolume up to each trial, as a share of the box from the reference to the best values."""
        values = objectives.values_to_tell(self.trials, self.objectives)
        return hypervolumes(values, self.reference, values.max(axis=0))


def hypervolumes(
    values: Float[np.ndarray, "n k"], reference: Float[np.ndarray, " k"], best: Float[np.ndarray, " k"]
) -> Float[np.ndarray, " n"]:
    """Returns the hypervolume up to each trial, as a share of the box from the reference to the best values.

    Of more than `POINTS` trials, it is computed for as many, and constant between them.

    Args:
      values: objectives of trials in their order; NaN for failed ones.
      reference: values from which the hypervolume is measured.
      best: best value of each objective.
    """
    n = len(values)
    if not n:
        return np.zeros(0)
    points = sorted({int(i) for i in np.linspace(1, n, min(n, POINTS))})
    above = (values.astype(np.float64) - reference) / np.where(best > reference, best - reference, 1.0)
    # Padded, so that the reports of a running search share compiled programs.
    padded = np.full((1 << max(6, (n - 1).bit_length()), above.shape[1]), -1.0)
    padded[:n] = np.nan_to_num(above, nan=-1.0)
    counted = points + points[-1:] * (min(len(padded), POINTS) - len(points))
    volumes = volumes_after(padded[None], counted)[0].astype(np.float64)
    return volumes[np.searchsorted(points, np.arange(1, n + 1), side="right") - 1]


def label(name: str) -> str:
    """Returns the name of an objective as text: ``multiply_adds`` is multiply-adds, ``-energy`` is energy."""
    return quantity(name).replace("_", "-")


def shown(trial: Trial, name: str, show: ValueFormat) -> str:
    """Formats an objective of a trial."""
    number = objectives.reported(trial, name)
    return show(number, 2) if name in VALUES else formatting.count(number)


def knee_section(front: SearchedFront, show: ValueFormat) -> list[Element]:
    """Returns a sentence on the knee, and a table of it with its neighbours on the front."""
    knee = front.knee
    if knee is None:
        return []
    text = (
        f"Trial {knee.id} is the knee of the front, the trial with the highest sum of objectives, each scaled to "
        "[0, 1] over the front. Its neighbours are the nearest networks of the front that are better in an objective."
    )
    members = {trial.id: trial for trial in front.neighbours().values()}
    rows = []
    for trial in sorted([knee, *members.values()], key=list(front.members).index):
        better = [label(name) for name, other in front.neighbours().items() if other is trial]
        what = "knee" if trial is knee else f"better in {' and '.join(better)}"
        cells = [tables.number(_compared(trial, knee, name, show)) for name in front.objectives]
        row = element("td", what), tables.number(str(trial.id)), *cells
        rows.append(element("tr", *row, class_="best" if trial is knee else None))
    names = ("trial", *map(label, front.objectives))
    head = element("tr", element("th", ""), *(element("th", name, class_="number") for name in names))
    table = element("table", element("thead", head), element("tbody", *rows))
    return [element("p", text, class_="quiet"), element("div", table, class_="wide")]


def front_sections(
    front: SearchedFront, space: SearchSpace, show: ValueFormat, colours: dict[str, str]
) -> list[Element]:
    """Returns the plots of the front and of the hypervolume, and each network of the front, drawn when it is opened.

    Args:
      front: front of a search.
      space: search space.
      show: format of the values.
      colours: colours of operations.
    """
    if not front.trials:
        return []
    figures = []
    upright_first = sorted(front.objectives, key=lambda name: name not in VALUES)
    whole = len(front.objectives) == 2
    for upright, across in itertools.combinations(upright_first, 2):
        caption = f"{label(upright).capitalize()} against {label(across)}. Pale trials are dominated by the front."
        if not whole:
            caption += " Networks of the front that seem dominated here are better in another objective."
        plot = plots.front(front.trials, front.members, front.knee, (upright, across), show, whole=whole)
        figures.append(_figure(plot, caption))
    shares, numbers = front.hypervolumes(), [float(trial.id) for trial in front.trials]
    reference = ", ".join(_reference(front, i, show) for i in range(len(front.objectives)))
    caption = (
        "Hypervolume against trials: the volume between the trials so far and the reference, as a share of the box "
        f"from there to the best value of each objective. The reference is {reference}."
    )
    figures.append(_figure(plots.hypervolume_against(numbers, shares, "trials"), caption))
    if any((after := curves.seconds_after(front.trials)).values()):
        caption = "Hypervolume against time spent on candidates; pauses of the search are not counted."
        seconds = [after[trial.id] for trial in front.trials]
        figures.append(_figure(plots.hypervolume_against(seconds, shares, "seconds"), caption))
    return [
        element("h2", "The front"),
        element("div", *figures, class_="plots"),
        *_networks(front, space, show, colours),
    ]


def _networks(front: SearchedFront, space: SearchSpace, show: ValueFormat, colours: dict[str, str]) -> list[Element]:
    listed = front.listed
    text = f"{formatting.plural(len(front.members), 'network')}, in descending order of {label(front.objectives[0])}. "
    if len(listed) < len(front.members):
        text += f"Here are {len(listed)}, spread over the front; `lanas front` lists all. "
    parts = [element("h3", "Networks of the front"), element("p", text + "Open one to see it.", class_="quiet")]
    for trial in listed:
        numbers = [f"{label(name)} {shown(trial, name, show)}" for name in front.objectives]
        name = f"trial {trial.id}{', knee' if trial is front.knee else ''}: {', '.join(numbers)}"
        drawn = graph.draw_network(space, trial.code, colours)
        parts.append(element("details", element("summary", name), *drawn, class_="network"))
    return parts


def _compared(trial: Trial, knee: Trial, name: str, show: ValueFormat) -> str:
    """Formats an objective with its difference from the knee: points of a value, or the factor of a cost."""
    text, number, own = shown(trial, name, show), objectives.reported(trial, name), objectives.reported(knee, name)
    if trial is knee or number is None or own is None:
        return text
    if name in VALUES:
        difference = 100 * (number - own) if show.percent else number - own
        return f"{text} ({difference:+.{2 if show.percent else 4}f})".replace("-", "−")  # noqa: RUF001
    return f"{text} ({number / own:.2f}{formatting.SPACE}{formatting.TIMES})" if own else text


def _reference(front: SearchedFront, i: int, show: ValueFormat) -> str:
    name, number = front.objectives[i], float(front.reference[i])
    text = show(number, 2) if name in VALUES else formatting.count(-number if is_cost(name) else number)
    return f"{label(name)} {text}"


def _figure(plot: Element, caption: Content) -> Element:
    return element("figure", plot, element("figcaption", caption))
