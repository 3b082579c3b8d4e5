"""What the command line says of trials."""

import pytest
from rich.console import Console

from lanas_jax.commands import summary
from lanas_jax.report import tables
from lanas_jax.report.elements import html
from lanas_jax.report.formatting import ValueFormat
from lanas_jax.storage.trial import differ_in_steps
from tests.report.made_up_run import trial
from tests.report.page_parser import Page

HALVED = [trial(0, 0.5, steps=50), trial(1, 0.9, steps=1200), trial(2, 0.6, steps=50), trial(3)]
EQUAL = [trial(0, 0.5, steps=50), trial(1, 0.9, steps=50), trial(2, reason="the loss is NaN", steps=7)]
UNKNOWN = [trial(0, 0.5), trial(1, 0.9), trial(2, 0.6)]


def printed(trials):
    """The cells of each row, headers first."""
    console = Console(width=140)
    with console.capture() as capture:
        console.print(summary.trials_table(trials))
    lines = [line.replace("┃", "│") for line in capture.get().splitlines()]
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]


@pytest.mark.parametrize(("trials", "differ"), [(HALVED, True), (EQUAL, False), (UNKNOWN, False), ([], False)])
def test_trials_that_were_stopped_early_differ_in_steps(trials, differ):
    assert differ_in_steps(trials) == differ


def test_the_table_has_steps_where_they_differ():
    assert [row[5] for row in printed(HALVED)] == ["steps", "50", "1,200", "50", ""]
    for trials in (EQUAL, UNKNOWN):
        assert "steps" not in printed(trials)[0]
        assert {len(row) for row in printed(trials)} == {7}


def test_the_report_has_steps_where_they_differ():
    halved, equal = (Page(html(tables.trials_table(given, ValueFormat(True), {}))).rows for given in (HALVED, EQUAL))
    assert halved[0][5:8] == ["parameters", "steps", "compile"]
    assert [row[6] for row in halved[1:]] == ["1,200", "50", "50", "\N{EN DASH}"]
    assert "steps" not in equal[0]
    assert {len(row) for row in equal} == {9}


def test_a_long_reason_is_shortened_in_the_terminal_and_whole_in_csv():
    trials = [trial(0, reason="n" * 100_000)]
    console = Console(width=140)
    with console.capture() as capture:
        summary.show_result(console, None, trials, None)
        console.print(summary.trials_table(trials))
    assert 2 * summary.REASON_LENGTH < capture.get().count("n") < 3 * summary.REASON_LENGTH
    assert "(100,000 characters)" in capture.get()
    assert summary.trials_csv(trials).count("n" * 100_000) == 1
