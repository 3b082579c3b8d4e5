"""The numbers behind the plots, against known answers and brute force."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from lanas_jax.report import curves
from tests.report.made_up_run import trial, trials

points = st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8)), max_size=24)


@hypothesis.given(points)
def test_pareto_front_is_what_nothing_beats(given: list[tuple[int, int]]) -> None:
    costs = np.array([cost for cost, _ in given], float)
    values = np.array([value for _, value in given], float)
    front = curves.pareto_front(costs, values)
    beaten = [any((c <= cost and v >= value) and (c < cost or v > value) for c, v in given) for cost, value in given]
    expected = {point for point, is_beaten in zip(given, beaten, strict=True) if not is_beaten}
    assert [given[i] for i in front] == sorted(expected)
    assert all(given.index(given[i]) == i for i in front)  # of equal points the first


def test_pareto_front_by_hand() -> None:
    front = curves.pareto_front(np.array([3.0, 1.0, 2.0, 4.0]), np.array([0.7, 0.5, 0.4, 0.9]))
    assert front.tolist() == [1, 0, 3]


def test_running_best() -> None:
    assert curves.running_best([0.2, 0.1, 0.5, 0.5, 0.3, 0.6]) == [0.2, 0.2, 0.5, 0.5, 0.5, 0.6]
    assert curves.running_best([]) == []


def test_seconds_count_failed_trials_and_not_pending_ones() -> None:
    given = [trial(0, 0.5), trial(1, reason="lost"), trial(2, 0.5, compile_seconds=None, train_seconds=3.0), trial(3)]
    assert curves.seconds_after(given) == {0: 2.0, 1: 4.0, 2: 7.0}


def test_seconds_do_not_depend_on_the_order_of_the_list() -> None:
    given = trials(20)
    assert curves.seconds_after(given[::-1]) == curves.seconds_after(given)


@pytest.mark.parametrize(
    ("values", "floor"),
    [
        ([0.9, 0.92, 0.94, 0.96], 0.9),
        ([0.1, 0.9, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97], 0.9),  # 0.1 would squeeze the others
        ([0.5, 0.5, 0.5], 0.5),
        ([0.0, 1.0], 0.0),
        ([0.2, 0.9, 0.9, 0.9, 0.9], 0.2),  # no spread to measure by
        ([0.3], 0.3),
    ],
)
def test_axis_starts_at_the_lowest_value_that_is_no_outlier(values: list[float], floor: float) -> None:
    assert curves.axis_floor(values) == floor
