"""Rank correlations against counting by hand and against what theory says of normal numbers."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from lanas_jax.ranking.correlation import rank_correlation

NAN = np.nan


def pair(seed, n, rho):
    """Two columns of normal numbers with correlation `rho`."""
    x, noise = np.random.default_rng(seed).normal(size=(2, n))
    return x, rho * x + math.sqrt(1 - rho**2) * noise


@pytest.mark.parametrize(
    ("x", "y", "spearman", "kendall"),
    [
        # 8 pairs in order, 2 not; squared differences of ranks 4.
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 1 - 6 * 4 / (5 * 24), (8 - 2) / 10),
        # Of 6 pairs 4 in order, one tied in x and one in y; ranks 1 2.5 2.5 4 and 1 2 3.5 3.5.
        ([1, 2, 2, 3], [1, 2, 3, 3], 3.75 / 4.5, 4 / 5),
        # Of 6 pairs one tied in both, 2 in order, 3 not; ranks 1.5 1.5 3 4 and 2.5 2.5 4 1.
        ([1, 1, 2, 3], [5, 5, 6, 4], (0.5 * 1.5 - 1.5 * 1.5) / 4.5, (2 - 3) / 5),
    ],
)
def test_small_cases_with_ties(x, y, spearman, kendall):
    found = rank_correlation(np.array(x, float), np.array(y, float), resamples=10)
    assert found.spearman.value == pytest.approx(spearman)
    assert found.kendall.value == pytest.approx(kendall)
    assert (found.networks, found.missing) == (len(x), 0)


def counted(x, y):
    """Spearman's and Kendall's coefficients from their definitions, by counting."""
    pairs = list(itertools.combinations(range(len(x)), 2))
    signs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i, j in pairs]
    untied = [sum(sign[k] != 0 for sign in signs) for k in (0, 1)]
    ranks = [[sum(other < own for other in column) + 0.5 * sum(other == own for other in column) for own in column]
             for column in (x, y)]  # fmt: skip
    return np.corrcoef(ranks)[0, 1], sum(a * b for a, b in signs) / math.sqrt(untied[0] * untied[1])


@pytest.mark.parametrize("values", [4, 10, 1000])
def test_coefficients_are_those_of_scipy_and_of_counting(values):
    draw = np.random.default_rng(values)
    x = draw.integers(0, values, 30).astype(float)
    y = np.round(x + draw.normal(size=30) * values / 3)
    found = rank_correlation(x, y, resamples=10)
    assert (found.spearman.value, found.kendall.value) == pytest.approx(counted(x, y))
    assert found.spearman.value == stats.spearmanr(x, y).statistic
    assert found.kendall.value == stats.kendalltau(x, y).statistic


def test_only_order_counts():
    x, y = pair(0, 20, 0.5)
    found, bent, reversed_ = (rank_correlation(x, z, resamples=50) for z in (y, np.exp(3 * y), -y))
    assert bent == found
    assert reversed_.spearman.value == pytest.approx(-found.spearman.value)
    assert reversed_.kendall.high == pytest.approx(-found.kendall.low)
    same = rank_correlation(x, np.exp(x), resamples=50)
    assert same.spearman == pytest.approx((1, 1, 1))
    assert same.kendall == pytest.approx((1, 1, 1))


def test_networks_without_both_numbers_are_left_out_and_counted():
    x, y = pair(1, 12, 0.8)
    holes_x, holes_y = np.insert(x, [3, 7], [NAN, 9.0]), np.insert(y, [3, 7], [9.0, NAN])
    found = rank_correlation(holes_x, holes_y, resamples=100)
    assert found == rank_correlation(x, y, resamples=100)._replace(missing=2)
    assert found.networks == 12


@pytest.mark.parametrize(
    ("x", "y", "networks"), [([1, 1, 1, 1], [1, 2, 3, 4], 4), ([1, 2, NAN, 3], [3, 1, 4, NAN], 2), ([], [], 0)]
)
def test_where_there_is_no_order_there_is_no_coefficient(x, y, networks):
    found = rank_correlation(np.array(x, float), np.array(y, float))
    assert np.isnan([*found.spearman, *found.kendall]).all()
    assert (found.networks, found.missing, found.resamples) == (networks, len(x) - networks, 0)
    assert found.kendall.text == "undefined"


def test_resamples_without_an_order_are_left_out():
    """Of three networks, two of them equal in x, a third of all resamples has but one x: 27 draws, 8 + 1 of them."""
    found = rank_correlation(np.array([0.0, 0.0, 1.0]), np.array([1.0, 2.0, 3.0]), resamples=900)
    assert abs(found.resamples - 600) < 6 * math.sqrt(900 * 2 / 9)  # a false failure: less than 1 in 10^8
    assert -1 <= found.kendall.low <= found.kendall.value <= found.kendall.high <= 1


@pytest.mark.slow
def test_intervals_cover_what_normal_numbers_have():
    """For normal columns tau is 2/pi asin(rho), and the correlation of ranks 6/pi asin(rho/2).

    Were the intervals to cover exactly 95 %, 40 samples would give fewer than 33 less than once in 10,000 times.
    """
    rho, covered = 0.6, np.zeros(2)
    for seed in range(40):
        found = rank_correlation(*pair(seed, 60, rho), resamples=100, seed=seed)
        for i, (coefficient, known) in enumerate(
            [(found.spearman, 6 / np.pi * np.arcsin(rho / 2)), (found.kendall, 2 / np.pi * np.arcsin(rho))]
        ):
            covered[i] += coefficient.low <= known <= coefficient.high
            assert coefficient.low < coefficient.value < coefficient.high
    assert (covered >= 33).all()


@pytest.mark.slow
def test_intervals_are_as_wide_as_theory_has_them():
    """Spearman's coefficient of independent columns has a variance of 1 / (n - 1)."""
    found = rank_correlation(*pair(5, 400, 0.0), resamples=1000).spearman
    assert found.high - found.low == pytest.approx(2 * 1.96 / math.sqrt(399), rel=0.1)


def test_more_networks_and_less_confidence_give_narrower_intervals():
    def width(n, confidence):
        found = rank_correlation(*pair(3, n, 0.5), confidence=confidence, resamples=200)
        return found.kendall.high - found.kendall.low

    assert width(400, 0.95) < width(25, 0.95) / 2
    assert width(25, 0.5) < width(25, 0.95) / 2


def test_the_seed_decides_the_interval_and_nothing_else():
    x, y = pair(2, 16, 0.5)
    first, again, other = (rank_correlation(x, y, resamples=50, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert other.spearman.low != first.spearman.low
    assert other.spearman.value == first.spearman.value
