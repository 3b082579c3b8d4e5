"""The tables of the report: all trials, the Pareto front, rank correlations, settings."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from lanas_jax.ranking.correlation import RankCorrelation
from lanas_jax.report import formatting
from lanas_jax.report.elements import Element, element
from lanas_jax.report.formatting import ValueFormat
from lanas_jax.storage.software import versions_by_trial, versions_in_common
from lanas_jax.storage.trial import Status, Trial, differ_in_steps

MOST_ROWS = 1000  # maximum rows of the table of trials
MOST_FRONT_ROWS = 40
MOST_REASONS = 8
REASON_LENGTH = 300  # maximum characters of a failure's reason


def trials_table(trials: Sequence[Trial], show: ValueFormat, marks: Mapping[int, str]) -> Element:
    """Returns a table of trials from best to worst, then pending and failed ones; at most `MOST_ROWS` rows.

    It has a column of training steps if these differ, and one for each outcome besides the value.

    Args:
      trials: trials.
      show: format of the values.
      marks: text in place of the status, by trial number: ``best`` or ``knee`` of the winner, ``front``.
    """
    with_steps = differ_in_steps(trials)
    steps = ["steps"] if with_steps else []
    outcomes = [name.replace("_", "-") for name in (trials[0].outcomes if trials else ())]
    headers = (
        *("trial", "batch", "status", "value", "multiply-adds", "parameters"),
        *(*outcomes, *steps, "compile", "train"),
    )
    rows = [
        _trial_row(trial, show, marks.get(trial.id, trial.status.value), with_steps=with_steps)
        for trial in ranked(trials)[:MOST_ROWS]
    ]
    head = element(
        "tr",
        *(element("th", name, class_=None if name == "status" else "number") for name in headers),
        element("th", "code"),
    )
    return _wide(element("table", element("thead", head), element("tbody", *rows), class_="trials"))


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Sorts trials: those with a value from best to worst, then pending, then failed ones; ties by trial number."""
    places = {Status.DONE: 0, Status.PENDING: 1, Status.FAILED: 2}
    return sorted(trials, key=lambda t: (places[t.status], -(t.value or 0.0), t.id))


def front_table(members: Sequence[Trial], show: ValueFormat, knee: Trial | None = None) -> Element:
    """Returns a table of a front in its order, the knee marked."""
    names = ("value", "multiply-adds", "parameters", "trial")
    head = element("tr", *(element("th", name, class_="number") for name in names), element("th", "code"))
    rows = [
        element(
            "tr",
            number(show(trial.value, 2)),
            number(formatting.count(trial.multiply_adds)),
            number(formatting.count(trial.parameters)),
            number(str(trial.id)),
            element("td", formatting.code(trial.code), class_="code"),
            class_="best" if trial is knee else None,
        )
        for trial in members[:MOST_FRONT_ROWS]
    ]
    return _wide(element("table", element("thead", head), element("tbody", *rows)))


def ranking_table(correlations: Mapping[str, RankCorrelation]) -> Element:
    """Returns one row per estimate: its rank correlations with the reference."""
    names = ("Spearman (95 %)", "Kendall (95 %)", "networks", "failed")
    head = element("tr", element("th", "estimate"), *(element("th", name, class_="number") for name in names))
    rows = [
        element(
            "tr",
            element("td", name, class_="words"),
            *(number(text) for text in (found.spearman.text, found.kendall.text)),
            *(number(str(count)) for count in (found.networks, found.missing)),
        )
        for name, found in correlations.items()
    ]
    return _wide(element("table", element("thead", head), element("tbody", *rows)))


def failures_table(trials: Sequence[Trial]) -> Element | None:
    """Returns a list of the reasons of failure with their counts; None if no trial failed."""
    counted = Counter(_clipped(trial.reason) for trial in trials if trial.status == Status.FAILED)
    if not counted:
        return None
    items = [
        element("li", f"{number} {formatting.TIMES} {reason}") for reason, number in counted.most_common(MOST_REASONS)
    ]
    if len(counted) > MOST_REASONS:
        items.append(element("li", f"and {len(counted) - MOST_REASONS} more reasons"))
    return element("div", element("p", f"{counted.total()} failed:"), element("ul", *items))


def settings_table(settings: Mapping[str, object]) -> Element:
    """Returns a table of settings and their values."""
    rows = [
        element("tr", element("th", name), element("td", str(value), class_="words"))
        for name, value in settings.items()
    ]
    return _wide(element("table", element("tbody", *rows)))


def software(trials: Iterable[Trial]) -> str:
    """Returns the software versions of the trials, such as ``jax 0.10.2, flax 0.12.8``; with trials if they differ."""
    recorded = {trial.id: trial.software for trial in trials}
    same = versions_in_common(recorded.values())
    parts = [f"{name} {version}" for name, version in same.items()]
    return ", ".join([*parts, *([changed] if (changed := versions_by_trial(recorded)) else [])])


def number(text: str, key: int | float | None = None) -> Element:
    """Returns a right-aligned cell, sorted by `key`, or by its text if that is equal."""
    sort = "" if text == formatting.MISSING else None if key is None or str(key) == text else f"{key:.10g}"
    return element("td", text, class_="number", data_sort=sort)


def sortable(words: Sequence[str], numbers: Sequence[str], rows: Sequence[Element]) -> Element:
    """Returns a table that the page's script sorts by a click on a heading.

    Args:
      words: headings of the first columns, which contain text.
      numbers: headings of the other columns, made by `number`.
      rows: rows of the table.
    """
    heads = [element("th", name) for name in words] + [element("th", name, class_="number") for name in numbers]
    head = element("thead", element("tr", *heads))
    return _wide(element("table", head, element("tbody", *rows), class_="trials"))


def _trial_row(trial: Trial, show: ValueFormat, mark: str, *, with_steps: bool) -> Element:
    code: list[str | Element] = [formatting.code(trial.code)]
    if trial.reason:
        code.append(element("div", _clipped(trial.reason)))
    steps = [number(formatting.count(trial.steps), trial.steps)] if with_steps else []
    return element(
        "tr",
        number(str(trial.id)),
        number(str(trial.batch)),
        element("td", mark),
        number(show(trial.value, 2), trial.value),
        number(formatting.count(trial.multiply_adds), trial.multiply_adds),
        number(formatting.count(trial.parameters), trial.parameters),
        *(number(formatting.count(found), found) for found in trial.outcomes.values()),
        *steps,
        number(formatting.seconds(trial.compile_seconds), trial.compile_seconds),
        number(formatting.seconds(trial.train_seconds), trial.train_seconds),
        element("td", *code, class_="code"),
        class_="best" if mark in ("best", "knee") else None if trial.status == Status.DONE else trial.status.value,
    )


def _clipped(reason: str | None) -> str:
    text = " ".join((reason or "no reason given").split())
    return text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 1] + "…"


def _wide(table: Element) -> Element:
    return element("div", table, class_="wide")
