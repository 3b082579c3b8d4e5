"""The page: the results of a run, section by section, as one self-contained HTML document.

`render` is a pure function of the data that `run` collects from a run directory.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lanas_jax.ranking.result import Ranked
from lanas_jax.report import curves, formatting, graph, limits, plots, ranking, tables, tree
from lanas_jax.report.elements import Content, Element, element, html
from lanas_jax.report.formatting import ValueFormat
from lanas_jax.report.front import SearchedFront, front_sections, knee_section, label, shown
from lanas_jax.report.style import CSS, SCRIPT
from lanas_jax.searchers.partition import NodeSummary
from lanas_jax.searchers.sampling import LISTED
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.storage.trial import Status, Trial, best
from lanas_jax.study import objectives
from lanas_jax.study.objectives import winner_among


@dataclasses.dataclass(frozen=True)
class ReportData:
    """Everything a report shows.

    Attributes:
      name: name of the experiment.
      space: search space.
      trials: all trials, including pending and failed ones.
      budget: number of trials of the search.
      final: result of the winner's training, the content of its final.json; None if there is none yet.
      networks_tested: number of the run's networks that were evaluated on the test images.
      config: settings of the experiment by name.
      tree: nodes of the searcher's tree; None if there is no tree to show.
      tree_note: reason why there is no tree.
      ranking: rank correlations of estimates with training from scratch; None if not measured.
      against: rank correlations of estimates with the values of benchmark tables.
      draws: number of first trials with a value that were drawn without regard to values; 0 to show no mean of them.
      refresh: number of seconds after which a browser reads the page again; None for a search that is not running.
      supernet: accuracies of subnetworks after the epochs of the supernet's training; None if not measured.
      objectives: names of the objectives of a search with several, whose winner is the knee of their front.
      reference: reference of the hypervolume that the searcher was given; None if it was given none.
      value_name: name of the values of trials; None if the evaluator does not name them.
    """

    name: str
    space: SearchSpace
    trials: Sequence[Trial]
    budget: int
    final: Mapping[str, Any] | None = None
    networks_tested: int = 0
    config: Mapping[str, object] = dataclasses.field(default_factory=dict)
    tree: Sequence[NodeSummary] | None = None
    tree_note: str = ""
    ranking: Ranked | None = None
    against: Sequence[Ranked] = ()
    draws: int = 0
    refresh: int | None = None
    supernet: curves.EpochCurves | None = None
    objectives: tuple[str, ...] = ()
    reference: tuple[float, ...] | None = None
    value_name: str | None = None

    @property
    def show(self) -> ValueFormat:
        """The format of this run's values."""
        values = (trial.value for trial in curves.done(self.trials) if trial.value is not None)
        return ValueFormat.of(values, self.value_name)

    @property
    def winner(self) -> tuple[int, ...] | None:
        """The code that was trained as the winner, otherwise the best code so far."""
        leader = winner_among(self.trials, self.objectives)
        return tuple(self.final["code"]) if self.final else leader.code if leader else None


def render(run: ReportData) -> str:
    """Renders the report as the text of an HTML document."""
    front = SearchedFront.of(run.trials, run.objectives, run.reference) if run.objectives else None
    drawn = [*([] if run.winner is None else [run.winner]), *(trial.code for trial in (front.listed if front else []))]
    colours = graph.network_colours((run.space, code) for code in drawn)
    body = [_headline(run, front), *_winner(run, front, colours)]
    body += _plots(run) if front is None else front_sections(front, run.space, run.show, colours)
    body += limits.section(run.space, run.trials, run.show)
    ranked = [] if run.ranking is None else ranking.section(run.ranking)
    ranked += [part for i, found in enumerate(run.against) for part in ranking.section(found, f"against{i}-")]
    body += [*_tree(run), *_supernet(run), *ranked, *_trials(run, front), *_settings(run)]
    refresh = [] if run.refresh is None else [element("meta", http_equiv="refresh", content=run.refresh)]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        *refresh,
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{run.name}: architecture search"),
        element("style", CSS),
    )
    page = element("html", head, element("body", *body, element("script", SCRIPT)), lang="en")
    return f"<!DOCTYPE html>\n{html(page)}\n"


def _headline(run: ReportData, front: SearchedFront | None) -> Element:
    finished = [trial.finished for trial in run.trials if trial.finished is not None]
    budget = formatting.plural(run.budget, "trial")
    date = f"{formatting.date(max(finished))}, " if finished else ""
    parts: list[Content] = [
        element("h1", run.name),
        element(
            "p",
            f"{date}budget of {budget}, {formatting.power(run.space.size)} codes in the space",
            class_="quiet",
        ),
        *_notices(run),
        element("div", *_cards(run, front), class_="cards"),
    ]
    software = tables.software(run.trials)
    if software:
        parts.append(element("p", software, class_="quiet"))
    return element("header", *parts)


def _notices(run: ReportData) -> list[Element]:
    through = sum(trial.status != Status.PENDING for trial in run.trials)
    notices = []
    if run.refresh is not None:
        notices.append(
            f"The search is running: {through:,} of {run.budget:,} trials are finished. "
            f"This page reloads itself every {run.refresh} seconds."
        )
    elif through < run.budget and _exhausted(run):
        notices.append(f"The space has no more codes: {through:,} trials of a budget of {run.budget:,}.")
    elif through < run.budget and run.final is None:
        notices.append(f"The budget is not used up: {through:,} of {run.budget:,} trials are finished.")
    if through and not curves.done(run.trials):
        notices.append("No trial has a value; the reasons are listed below.")
    return [element("p", text, class_="notice") for text in notices]


def _exhausted(run: ReportData) -> bool:
    """Returns whether the space is small enough to enumerate and all its codes were tried."""
    tried = {trial.code for trial in run.trials if trial.status != Status.PENDING}
    return run.space.size <= LISTED and len(tried) >= len(run.space.enumerate())


def _cards(run: ReportData, front: SearchedFront | None) -> list[Element]:
    leader, final, show = best(run.trials), run.final, run.show
    status = Counter(trial.status for trial in run.trials)
    through = status[Status.DONE] + status[Status.FAILED]
    cards = [_card("best value in the search", show(leader.value), f"trial {leader.id}")] if leader else []
    if front is not None and front.knee is not None:
        aside = f"of {formatting.plural(len(front.trials), 'trial')} with a value"
        cards.append(_card("on the front", formatting.plural(len(front.members), "network"), aside))
        name, *others = front.objectives
        aside = ", ".join([f"trial {front.knee.id}", *(f"{shown(front.knee, o, show)} {label(o)}" for o in others)])
        cards.append(_card(f"knee of the front, {label(name)}", shown(front.knee, name, show), aside))
    if final:
        cards += _winner_cards(run, final)
    aside = ", ".join(f"{status[s]:,} {s.value}" for s in (Status.FAILED, Status.PENDING) if status[s])
    cards.append(_card("trials", f"{through:,} of {run.budget:,}", aside or "none failed"))
    cards.append(_time_card(run))
    sized = (final["multiply_adds"], final["parameters"]) if final else (None, None)
    if sized[0] is None and (chosen := winner_among(run.trials, run.objectives)):
        sized = (chosen.multiply_adds, chosen.parameters)
    if sized[0] is not None:
        aside = f"{formatting.count(sized[1])} parameters"
        cards.append(_card("winner's multiply-adds", formatting.count(sized[0]), aside))
    return cards


def _winner_cards(run: ReportData, final: Mapping[str, Any]) -> list[Element]:
    """Returns the results of the winner training: accuracies, or bits per character of a language model."""
    networks = formatting.plural(run.networks_tested, "network")
    if "test_bits" in final:
        return [
            _card("winner, search-validation", f"{final['validation_bits']:.4f}", "bits per character"),
            _card("winner, test", f"{final['test_bits']:.4f}", "bits per character"),
            _card("winner, trained for", f"{final['steps']:,} steps", f"test text read for {networks}"),
        ]
    percent, cards = ValueFormat(percent=True), []
    if (accuracy := final["validation_accuracy"]) is not None:
        cards.append(_card("winner, search-validation", percent(accuracy), _average(final, "validation_accuracy")))
    cards.append(_card("winner, test", percent(final["test_accuracy"]), _average(final, "test_accuracy")))
    epochs = formatting.plural(final["recipe"]["epochs"], "epoch")
    return [*cards, _card("winner, trained for", epochs, f"test images read for {networks}")]


def _average(final: Mapping[str, Any], name: str) -> str:
    """Returns the accuracy of the moving average of the weights, as text."""
    average = final[f"ema_{name}"]
    return "no moving average" if average is None else f"average of weights {ValueFormat(percent=True)(average)}"


def _time_card(run: ReportData) -> Element:
    compiling = sum(trial.compile_seconds or 0.0 for trial in run.trials)
    training = sum(trial.train_seconds or 0.0 for trial in run.trials)
    winner = run.final["compile_seconds"] + run.final["seconds"] if run.final else 0.0
    parts = (("compiling", compiling), ("training", training), ("winner", winner))
    aside = ", ".join(f"{formatting.seconds(spent)} {name}" for name, spent in parts if spent > 0)
    return _card("time on candidates", formatting.seconds(compiling + training + winner), aside)


def _card(name: str, figure: str, aside: str) -> Element:
    return element("div", element("span", name), element("b", figure), element("small", aside), class_="card")


def _winner(run: ReportData, front: SearchedFront | None, colours: dict[str, str]) -> list[Element]:
    if run.winner is None:
        return []
    graphs = run.space.graphs(np.asarray(run.winner, np.int32))
    title = "The winning cell" if len(graphs) == 1 else "The winning cells" if graphs else "The winner"
    parts = [element("h2", title), *graph.draw_network(run.space, run.winner, colours)]
    return parts if front is None else [*parts, *knee_section(front, run.show)]


def _plots(run: ReportData) -> list[Element]:
    done = curves.done(run.trials)
    if not done:
        return []
    caption = "Best value against trials."
    if 0 < run.draws < len(done):
        caption += " The dashed line is the mean of the first trials, from before any result."
    figures = [_figure(plots.best_against_trials(run.trials, run.show, run.draws), caption)]
    if any(curves.seconds_after(run.trials).values()):
        caption = "Best value against time spent on candidates; pauses of the search are not counted."
        figures.append(_figure(plots.best_against_seconds(run.trials, run.show), caption))
    if known := [trial for trial in done if trial.multiply_adds is not None]:
        names = ("value", "multiply_adds")
        members = objectives.front(known, names)
        caption = "Value against multiply-adds. No other trial is both cheaper and better than one of the Pareto front."
        figures.append(_figure(plots.front(known, members, None, names, run.show), caption))
        figures.append(element("div", element("h3", "Pareto front"), tables.front_table(members, run.show)))
    return [element("h2", "Progress and cost"), element("div", *figures, class_="plots")]


def _figure(plot: Element, caption: str) -> Element:
    return element("figure", plot, element("figcaption", caption))


def _tree(run: ReportData) -> list[Element]:
    heading = element("h2", "The learned tree")
    if not run.tree:
        return [heading, element("p", run.tree_note, class_="quiet")] if run.tree_note else []
    several = bool(run.objectives)
    predicted = "how few trials dominate a code" if several else "the value of a code"
    better = "larger hypervolume of its trials, a share of that of all" if several else "better mean value"
    explanation = (
        f"Each split predicts {predicted} from its features and sends codes above its threshold up (green), the "
        "others down. It lists the features with the largest weights; a positive weight pushes up"
        f"{', towards the front' if several else ''}. The regions on the right go from promising to poor; a stronger "
        f"blue means a {better}."
    )
    measure, show = ("hypervolume", ValueFormat(percent=True)) if several else ("mean", run.show)
    return [
        heading,
        element("p", explanation, class_="quiet"),
        element("figure", element("div", tree.draw_tree(run.tree, show, measure), class_="wide")),
    ]


def _supernet(run: ReportData) -> list[Element]:
    if run.supernet is None:
        return []
    caption = (
        "Accuracy of subnetworks after each epoch, with batch statistics of their own, on a fixed part of the "
        "search-validation split."
    )
    figure = _figure(plots.accuracy_against_epochs(run.supernet), caption)
    return [element("h2", "The supernet"), element("div", figure, class_="plots")]


def _trials(run: ReportData, front: SearchedFront | None) -> list[Element]:
    parts = [element("h2", "Trials")]
    if not run.trials:
        return [*parts, element("p", "None yet.", class_="quiet")]
    if len(run.trials) > tables.MOST_ROWS:
        text = f"The best {tables.MOST_ROWS:,} of {len(run.trials):,} trials; `lanas trials` lists all of them."
        parts.append(element("p", text, class_="quiet"))
    failures = tables.failures_table(run.trials)
    if failures is not None:
        parts.append(failures)
    if front is None:
        leader = best(run.trials)
        marks = {} if leader is None else {leader.id: "best"}
    else:
        marks = {trial.id: "knee" if trial is front.knee else "front" for trial in front.members}
    return [*parts, tables.trials_table(run.trials, run.show, marks)]


def _settings(run: ReportData) -> list[Element]:
    if not run.config:
        return []
    return [element("h2", "Settings"), tables.settings_table(run.config)]
