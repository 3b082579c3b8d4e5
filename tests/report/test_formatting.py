"""Numbers for people."""

import math

import pytest

from lanas_jax.report import formatting
from lanas_jax.report.formatting import MISSING, ValueFormat


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (10_000, "10.0 k"),
        (99_949, "99.9 k"),
        (99_951, "100 k"),
        (999_499, "999 k"),
        (999_501, "1.00 M"),
        (1_240_000, "1.24 M"),
        (44_591_498, "44.6 M"),
        (571_000_000, "571 M"),
        (4_100_000_000, "4.10 G"),
        (7 * 10**15, "7000 T"),
        (0.09613, "0.0961"),
        (-12.34, "-12.3"),
        (99.94, "99.9"),
        (99.96, "100"),
        (1234.5, "1,234"),
        (None, MISSING),
    ],
)
def test_count(number: float | None, text: str) -> None:
    assert plain(formatting.count(number)) == text


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (0.0, "0.00 s"),
        (0.414, "0.41 s"),
        (12.34, "12.3 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 00 min"),
        (18_120, "5 h 02 min"),
        (187_200, "2 d 4 h"),
        (None, MISSING),
        (math.nan, MISSING),
    ],
)
def test_seconds(duration: float | None, text: str) -> None:
    assert plain(formatting.seconds(duration)) == text


def test_values_in_the_unit_interval_are_percentages() -> None:
    show = ValueFormat.of([0.0, 0.5, 1.0])
    assert plain(show(0.983)) == "98.3 %"
    assert plain(show(0.98333, 2)) == "98.33 %"
    assert show(None) == MISSING


@pytest.mark.parametrize("values", [[-0.1, 0.5], [0.5, 1.1]])
def test_other_values_are_plain_numbers(values: list[float]) -> None:
    assert ValueFormat.of(values)(-2.5) == "-2.500"


@pytest.mark.parametrize(
    ("number", "text"),
    [(15_625, "15,625"), (999_999, "999,999"), (543_581_798_400, "5.44 × 10¹¹"), (999_999_999, "1.00 × 10⁹")],  # noqa: RUF001
)
def test_power(number: int, text: str) -> None:
    assert plain(formatting.power(number)) == text


def test_power_of_a_number_no_float_holds() -> None:
    assert plain(formatting.power(3 * 10**400)) == "3.00 × 10⁴⁰⁰"  # noqa: RUF001


def test_code() -> None:
    assert formatting.code((2, 0, 13)) == "2,0,13"


def test_plural() -> None:
    assert [formatting.plural(n, "trial") for n in (0, 1, 1200)] == ["0 trials", "1 trial", "1,200 trials"]
