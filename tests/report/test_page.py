"""The page: complete, self-contained, escaped, whatever the state of the run."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest

from lanas_jax.report import formatting, tables
from lanas_jax.report.curves import EpochCurves
from lanas_jax.report.page import render
from lanas_jax.searchers.partition import NodeSummary
from lanas_jax.spaces.base import CellGraph, Choice, SearchSpace
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.storage.trial import best
from tests.report.made_up_run import NAN, SPACE, final, ranked, run, trial, trials
from tests.report.page_parser import Page

HOSTILE = "<script>alert('x')</script>&amp;\"<b>"
TREE = [
    NodeSummary(0, 0, 40, 0.9, False, (("op0=skip", 0.5), ("op1=none", -0.25))),
    NodeSummary(1, 1, 22, 0.9375, True, ()),
    NodeSummary(2, 1, 18, 0.85, False, (("op3=pool", -1.0),)),
    NodeSummary(5, 2, 10, 0.875, True, ()),
    NodeSummary(6, 2, 8, None, True, ()),
]

TWO = ("accuracy", "parameters")
RUNS = {
    "nothing": run([], budget=8),
    "only pending": run([trial(i) for i in range(4)], budget=8),
    "only failed": run([trial(i, reason="out of memory") for i in range(4)]),
    "one trial": run([trial(0, 0.5)]),
    "equal values": run([trial(i, 0.5, multiply_adds=100, parameters=10) for i in range(6)]),
    "losses": run([trial(i, -2.0 - i, multiply_adds=10**i, parameters=10) for i in range(6)]),
    "unfinished": run([*trials(8), trial(8), trial(9)], budget=20),
    "finished": run(trials(60), final=final(trials(60)[3].code), tree=TREE, config={"epochs": 3}),
    "ranked": run(trials(8), ranking=ranked({"a": [0.1, 0.2, 0.4, NAN], "$b$": [-3, 1.0, 2, 2]}, [0.1, 0.3, 0.2, 0.2])),
    "ranked, all failed": run(trials(8), ranking=ranked({"a": [0.1, 0.2, 0.3]}, [NAN, NAN, NAN])),
    "watched": run(
        trials(8), supernet=EpochCurves(np.arange(1.0, 4), {"largest": np.full(3, 0.5), "<smallest>": np.zeros(3)})
    ),
    "two objectives": run(trials(60), objectives=TWO, tree=TREE),
    "three objectives": run(trials(60), objectives=(*TWO, "multiply_adds"), reference=(0.5, -(10**5), -(10**6))),
    "objectives of nothing": run([], budget=8, objectives=TWO),
    "objectives of one": run([trial(0, 0.5, parameters=10), trial(1, reason="lost")], objectives=TWO),
    "a few that hardly learned": run([*trials(40), trial(40, 0.1), trial(41, 0.0)]),
}


@functools.cache
def rendered(name: str) -> str:
    return render(RUNS[name])


@pytest.mark.parametrize("name", RUNS)
def test_page_is_well_formed_and_self_contained(name: str) -> None:
    page = Page(rendered(name))
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert link.startswith("data:") or link.removeprefix("#") in page.ids, link
    for style in page.styles:
        assert "@import" not in style
        assert all(target[1:] in page.ids for target in re.findall(r"url\(([^)]*)\)", style))
    assert page.tags[0] == "html"
    assert page.tags.count("h1") == 1


@pytest.mark.parametrize("name", RUNS)
def test_no_address_of_another_place_is_in_the_page(name: str) -> None:
    assert "://" not in rendered(name)


def rows(page: Page) -> dict[str, tuple[str, list[str]]]:
    """Class and cells of each row of the table of trials, by number of the trial."""
    return {
        cells[0]: (row, cells)
        for row, cells in zip(page.row_classes, page.rows, strict=True)
        if len(cells) == 9 and cells[0] != "trial"
    }


def test_every_trial_is_in_the_table() -> None:
    given = [*trials(60), trial(60), trial(61)]
    found = rows(Page(render(run(given, budget=80))))
    assert len(found) == 62
    winner = best(given)
    assert winner is not None
    for one in given:
        row, cells = found[str(one.id)]
        assert formatting.code(one.code) in cells[8]
        assert cells[3] == (formatting.MISSING if one.value is None else f"{100 * one.value:.2f}\N{NO-BREAK SPACE}%")
        assert cells[4] == formatting.count(one.multiply_adds)
        assert (one.reason or "") in cells[8]
        assert cells[2] == ("best" if one.id == winner.id else one.status.value)
        assert row == ("best" if one.id == winner.id else "" if one.status == "done" else one.status.value)


def test_trials_are_ranked_by_value_then_pending_then_failed() -> None:
    given = [trial(0, reason="lost"), trial(1), trial(2, 0.5), trial(3, 0.75), trial(4, 0.5)]
    assert [one.id for one in tables.ranked(given)] == [3, 2, 4, 1, 0]


def test_headline_of_a_finished_run() -> None:
    given = [trial(0, 0.5), trial(1, 0.9832), trial(2, reason="out of memory")]
    words = Page(render(run(given, final=final(given[1].code), networks_tested=2))).words
    for expected in (
        "98.3 %",
        "98.1 %",
        "97.2 %",
        "3 of 3",
        "1 failed",
        "1.24 M",
        "45.6 k",
        "18.0 s",
        "jax 0.10.2",
        "average of weights 97.3 %",
        "30 epochs",
        "test images read for 2 networks",
    ):
        assert expected in words
    assert "not used up" not in words


def test_headline_of_a_search_that_tried_everything() -> None:
    space = SearchSpace([Choice("a", "xyz"), Choice("b", "xy")])
    given = [dataclasses.replace(trial(i, 0.5), code=(i // 2, i % 2)) for i in range(6)]
    words = Page(render(run(given, budget=20, space=space))).words
    assert "The space has no more codes: 6 trials of a budget of 20." in words
    words = Page(render(run(given[:5], budget=20, space=space))).words
    assert "no more codes" not in words
    assert "not used up: 5 of 20 trials are finished" in words


def test_headline_of_an_unfinished_run() -> None:
    words = Page(render(RUNS["unfinished"])).words
    assert "not used up: 8 of 20 trials are finished" in words
    assert "2 pending" in words


def test_a_run_without_values_says_so() -> None:
    words = Page(render(RUNS["only failed"])).words
    assert "No trial has a value" in words
    assert "4 × out of memory" in words  # noqa: RUF001
    assert "The winner" not in words


def test_values_that_are_no_shares_are_plain_numbers() -> None:
    words = Page(render(RUNS["losses"])).words
    assert "-2.000" in words
    assert "%" not in words


def test_hostile_text_is_shown_and_not_run() -> None:
    space = SearchSpace([Choice(HOSTILE, (HOSTILE, "b")), Choice("second", ("a", "b"))])
    given = [
        trial(0, 0.5, code=(0, 0), software={HOSTILE: HOSTILE}, multiply_adds=3),
        trial(1, reason=HOSTILE, code=(1, 1)),
    ]
    tree = [NodeSummary(0, 0, 2, 0.5, False, ((HOSTILE, 1.0),))]
    tree += [NodeSummary(i, 1, 1, 0.5, True, ()) for i in (1, 2)]
    found = ranked({HOSTILE: [0.1, 0.2, 0.3]}, [0.1, 0.3, 0.2])
    report = render(run(given, name=HOSTILE, space=space, tree=tree, config={HOSTILE: HOSTILE}, ranking=found))
    page = Page(report)
    assert page.tags.count("script") == 1  # the one that sorts tables
    assert "b" not in [tag for tag, text in zip(page.tags, page.text, strict=False) if text == ""]
    assert "<b>" not in report.replace("<b>50.0", "").replace("<b>2 of", "").replace("<b>4.00", "").replace("<b>3<", "")
    # Name and title; describe(); the reason twice; software twice; the tree's feature; settings twice; the ranking's
    # explanation, its table, its plot and the caption of that.
    assert page.words.count("<script>alert('x')</script>&amp;\"<b>") >= 13


class HostileGraphs(SearchSpace):
    """A space whose cells have hostile names."""

    def graphs(self, code: object) -> tuple[CellGraph, ...]:
        del code
        return tuple(CellGraph(HOSTILE + str(i), (HOSTILE, "out"), ((0, 1, HOSTILE),)) for i in range(2))


def test_hostile_names_in_a_cell_are_escaped() -> None:
    space = HostileGraphs(SPACE.choices)
    page = Page(render(run([trial(0, 0.5)], space=space)))
    assert page.tags.count("script") == 1
    assert page.words.count("<script>alert('x')") >= 2 * 3


def test_a_space_without_graphs_is_described_in_words() -> None:
    page = Page(render(run([trial(7, 0.5)])))
    assert "pre" in page.tags
    assert "op0 conv1x1 op1 skip op2 none" in page.words


@pytest.mark.parametrize("two_cells", [False, True])
def test_the_winning_cells_are_drawn(two_cells: bool) -> None:
    space = NASNetSpace(3, two_cells=two_cells, channels=4, cells=3, image_size=8, image_channels=1)
    code = tuple(space.canonical(space.random(jax.random.key(0), 1))[0].tolist())
    page = Page(render(run([trial(0, 0.5, code=code)], space=space)))
    assert page.classes.count("drawing") == 1 + two_cells
    assert page.classes.count("node") == (1 + two_cells) * 6  # two inputs, three blocks, output
    edges = sum(len(graph.edges) for graph in space.graphs(space.check([code])[0]))
    assert page.classes.count("edge") == edges
    assert ("reduction cell" in page.words) == two_cells


def test_the_trained_code_is_the_one_drawn() -> None:
    given = [trial(0, 0.9), trial(7, 0.5)]
    assert "op0 conv1x1" in Page(render(run(given, final=final(given[1].code)))).words


def test_the_mean_of_the_first_draws_is_a_line_of_the_plot() -> None:
    """Shown once there are later trials to compare with it."""
    page = Page(render(run(trials(20), draws=15)))
    assert "mean of the first 15" in page.words
    assert "The dashed line is the mean of the first trials" in page.words
    for draws in (0, 20):
        assert "mean of the first" not in Page(render(run(trials(20), draws=draws))).words


def test_tree_section() -> None:
    page = Page(render(RUNS["finished"]))
    assert page.classes.count("split") == 2
    assert page.classes.count("region") == 3
    assert page.classes.count("branch") == 4
    for expected in ("40 trials, mean 90.0 %", "region 1: 22 trials", "mean 93.8 %", "region 3: 8 trials no value"):
        assert expected in page.words
    for expected in ("+0.50 op0=skip", "−0.25 op1=none", "−1.0 op3=pool"):  # noqa: RUF001
        assert expected in page.words


def test_the_tree_of_several_objectives_has_shares_of_the_hypervolume() -> None:
    page = Page(render(RUNS["two objectives"]))
    assert "region 1: 22 trials hypervolume 93.8 %" in page.words
    assert "a positive weight pushes up, towards the front" in page.words


def test_ranking_section() -> None:
    page = Page(render(RUNS["ranked"]))
    assert page.words.count("Does the supernet rank?") == 1
    assert "4 architectures out of 32, spread over the whole range of their values by a, were trained" in page.words
    assert [cells[0] for cells in page.rows if len(cells) == 5 and cells[3:] in (["3", "1"], ["4", "0"])] == [
        "a",
        "$b$",
    ]
    # Ranks 1 2 3 and 1 3 2: 1 - 6 * 2 / (3 * 8).
    assert "a: Spearman 0.500 (" in page.words
    assert "3 networks, 1 failed." in page.words
    assert "value by $b$" in page.words
    assert "undefined" in Page(render(RUNS["ranked, all failed"])).words
    assert "Does the supernet rank?" not in Page(render(RUNS["finished"])).words


def test_limits_section() -> None:
    """Of three networks of known cost, one is above the limit of another run."""
    sizes = {"channels": 4, "cells": 3, "image_size": 8, "image_channels": 1}
    free = NASNetSpace(2, **sizes)
    codes = np.array([[0] * 8, [2] * 4 + [0] * 4, [3] * 4 + [0] * 4])  # separable 3x3, skip, separable 5x5
    middle, least, most = (int(cost) for cost in free.cost(codes).multiply_adds)
    space = NASNetSpace(2, **sizes, max_multiply_adds=middle, max_parameters=10**9)
    given = [
        trial(0, 0.5, code=tuple(codes[0].tolist())),
        trial(1, reason="lost", code=tuple(codes[1].tolist())),
        trial(2, 0.75, code=tuple(codes[1].tolist())),
    ]
    page = Page(render(run(given, space=space)))
    assert f"At most {middle:,} multiply-adds: of 3 networks proposed, none is above. " in page.words
    share = f"{100 * least / middle:.1f}"
    assert f"The largest has 100.0 % of it, the median {share} %." in page.words
    assert "At most 1,000,000,000 parameters: of 3 networks proposed, none is above." in page.words
    assert page.classes.count("plot") == 1 + 1 + 2
    assert most > middle
    above = Page(render(run([*given, trial(3, code=tuple(codes[2].tolist()))], space=space)))
    assert "of 4 networks proposed, 1 is above" in above.words
    assert "Hard limits" not in Page(render(run(given, space=free))).words


def test_a_searcher_without_a_tree_says_why() -> None:
    page = Page(render(run(trials(5), tree_note="RandomSearch learns no tree.")))
    assert "RandomSearch learns no tree." in page.words
    assert "split" not in page.classes


@pytest.mark.slow
def test_ten_thousand_trials_stay_a_page() -> None:
    report = render(run(trials(10_000)))
    page = Page(report)
    assert len(report) < 3_000_000
    assert len(rows(page)) == 1000
    assert "The best 1,000 of 10,000 trials" in page.words
    assert page.tags.count("image") >= 3  # dots as pixels


def test_same_run_same_page() -> None:
    assert render(RUNS["finished"]) == render(RUNS["finished"])
