"""The numbers behind the plots, against known answers and brute force."""

import pytest

from lanas_jax.report import curves
from tests.report.made_up_run import trial, trials


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
