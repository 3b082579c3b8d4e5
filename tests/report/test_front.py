"""The report of a search with several objectives; no network is trained here."""

import numpy as np
import pytest

from lanas_jax.report.front import MOST_NETWORKS, SearchedFront
from lanas_jax.report.page import render
from lanas_jax.storage.trial import Trial
from lanas_jax.study import objectives
from tests.report.made_up_run import run, trial, trials
from tests.report.page_parser import Page

TWO = ("accuracy", "parameters")
# Of the trials with a value, 2 and 5 are dominated.
SMALL = [
    trial(0, 0.5, parameters=1000),
    trial(1, reason="lost", parameters=10),
    trial(2, 0.5, parameters=2000),
    trial(3, 0.8, parameters=2000),
    trial(4, 0.9, parameters=5000),
    trial(5, 0.8, parameters=4000),
    trial(6),
]


def test_hypervolumes_are_those_of_geometry() -> None:
    """The box reaches from (0.4, 6000) to (0.9, 1000): it has the sides 0.5 and 5000."""
    front = SearchedFront.of(SMALL, TWO, (0.4, -6000))
    assert [one.id for one in front.members] == [4, 3, 0]
    assert front.knee is SMALL[3]
    assert [one.id for one in front.trials] == [0, 2, 3, 4, 5]
    first, third, last = 0.1 * 5, 0.1 * 5 + 0.3 * 4, 0.1 * 5 + 0.3 * 4 + 0.1 * 1
    np.testing.assert_allclose(front.hypervolumes(), np.array([first, first, third, last, last]) / 2.5, rtol=1e-5)


def test_the_reference_is_a_tenth_of_the_range_below_the_front() -> None:
    front = SearchedFront.of(SMALL, TWO)
    np.testing.assert_allclose(front.reference, [0.5 - 0.04, -5000 - 400])


def test_neighbours_are_the_nearest_that_are_better() -> None:
    found = SearchedFront.of(SMALL, TWO).neighbours()
    assert {name: one.id for name, one in found.items()} == {"accuracy": 4, "parameters": 0}
    alone = SearchedFront.of(SMALL[:3], TWO)
    assert alone.neighbours() == {}


def test_the_knee_stands_between_its_neighbours() -> None:
    page = Page(render(run(SMALL, objectives=TWO)))
    rows = [row for row in page.rows if row[0] == "knee" or row[0].startswith("better in")]
    times, space = "\N{MULTIPLICATION SIGN}", "\N{NO-BREAK SPACE}"
    assert rows == [
        ["better in accuracy", "4", f"90.00{space}% (+10.00)", f"5,000 (2.50{space}{times})"],
        ["knee", "3", f"80.00{space}%", "2,000"],
        ["better in parameters", "0", f"50.00{space}% (\N{MINUS SIGN}30.00)", f"1,000 (0.50{space}{times})"],
    ]
    assert "Trial 3 is the knee of the front" in page.words
    assert "3 networks of 5 trials with a value" in page.words


def test_each_network_of_the_front_is_drawn_on_demand() -> None:
    given = trials(60)
    members = objectives.front(given, TWO)
    page = Page(render(run(given, objectives=TWO)))
    assert page.tags.count("details") == page.tags.count("summary") == len(members) > 2
    assert page.tags.count("pre") == 1 + len(members)  # the winner, and each of the front
    for one in members:
        assert f"trial {one.id}" in page.words
    marks = [row[2] for row in page.rows if len(row) == 9]
    assert marks.count("front") == len(members) - 1
    assert marks.count("knee") == 1
    assert marks.count("best") == 0
    assert "Pareto front" in page.words
    assert "The reference is accuracy " in page.words


@pytest.mark.parametrize("n", [MOST_NETWORKS, 500])
def test_a_long_front_is_listed_in_part_with_its_knee_and_ends(n: int) -> None:
    given: list[Trial] = [trial(i, 0.1 + 0.8 * (i / n) ** 0.3, parameters=1000 + i) for i in range(n)]
    front = SearchedFront.of(given, TWO)
    assert len(front.members) == n
    assert front.knee is not None
    listed = [one.id for one in front.listed]
    assert {front.members[0].id, front.members[-1].id, front.knee.id} <= set(listed)
    assert n <= MOST_NETWORKS or len(listed) in (MOST_NETWORKS, MOST_NETWORKS + 1)
    shares = front.hypervolumes()
    assert shares.shape == (n,)
    assert (np.diff(shares) >= -1e-6).all()


def test_three_objectives_have_a_plot_of_each_pair_and_no_line() -> None:
    names = (*TWO, "multiply_adds")
    page = Page(render(run(trials(20), objectives=names)))
    assert {"front-accuracy-parameters-figure_1", "front-parameters-multiply_adds-figure_1"} <= set(page.ids)
    assert page.classes.count("plot") == 3 + 2
    assert "seem dominated here are better in another objective" in page.words


@pytest.mark.parametrize(("name", "better"), [("-energy", ["3", "1"]), ("energy", ["3"])])
def test_outcomes_of_the_evaluator_are_shown_by_their_names(name: str, better: list[str]) -> None:
    """Trial 3 has the highest value; of the others, 1 has the lowest energy, and none a higher one than 3."""
    numbers = [(0.5, 2.5), (0.6, 0.5), (0.55, 1.5), (0.8, 3.5)]
    given = [trial(i, value, outcomes={"energy": energy}) for i, (value, energy) in enumerate(numbers)]
    page = Page(render(run(given, objectives=("accuracy", name))))
    assert "-energy" not in page.words.replace("accuracy-energy", "")
    assert "front-accuracy-energy-figure_1" in page.ids
    rows = [row for row in page.rows if row[2:3] in (["front"], ["knee"])]
    assert [row[0] for row in rows] == better
    assert [row[6] for row in rows] == [f"{numbers[int(number)][1]}" for number in better]
