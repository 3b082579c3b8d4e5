"""Statistics of traces against answers known from counting."""

import numpy as np
import pytest

from lanas_jax.comparison import statistics as st

NAN = np.nan


def test_samples_to_a_target_count_from_one_and_are_infinite_where_it_was_missed():
    values = np.array([[0.1, 0.5, 0.4, 0.9], [0.9, 0.1, 0.1, 0.1], [0.1, 0.2, NAN, NAN]], np.float32)
    np.testing.assert_array_equal(st.samples_to(values, 0.9), [4, 1, np.inf])
    np.testing.assert_array_equal(st.samples_to(values, 0.5), [2, 1, np.inf])


def test_quartiles_are_numpys_and_infinite_where_too_few_searches_arrived():
    finite = np.random.default_rng(0).integers(1, 400, 101).astype(float)
    np.testing.assert_allclose(st.quartiles(finite), np.quantile(finite, [0.25, 0.5, 0.75]))
    assert st.quartiles(np.array([3.0, np.inf, 1.0, 2.0, np.inf])) == (2.0, 3.0, np.inf)
    assert st.quartiles(np.array([np.inf, np.inf])) == (np.inf, np.inf, np.inf)


def test_regret_is_what_the_best_so_far_falls_short_and_stays_after_a_search_has_ended():
    values = np.array([[0.5, 0.75, 0.25, 1.0], [0.25, 0.5, NAN, NAN]], np.float32)
    np.testing.assert_array_equal(st.regret(values, 1.0), [[0.5, 0.25, 0.25, 0.0], [0.75, 0.5, 0.5, 0.5]])


def test_the_top_share_of_a_table_holds_as_many_as_it_says():
    table = np.random.default_rng(1).permutation(5000) / 5000
    assert (table >= st.top_value(table)).sum() == 5
    assert st.top_value(table[:10]) == table[:10].max()


@pytest.mark.parametrize(("m", "good"), [(1001, 1), (500, 3), (10, 10)])
def test_the_exact_median_of_random_search_is_that_of_counting(m, good):
    """By the product of the probabilities of missing all that are good."""
    missed, n = 1.0, 0
    while missed > 0.5 + 1e-12:
        missed *= max(m - good - n, 0) / (m - n)
        n += 1
    assert st.random_samples(m, good) == n


@pytest.mark.parametrize("m", [2, 1001, 15625])
def test_a_single_good_architecture_may_be_anywhere(m):
    """Each place is equally likely, so the median is the middle."""
    assert st.random_samples(m, 1) == (m + 1) // 2


def test_bootstrap_intervals_hold_the_mean_and_have_the_width_of_the_standard_error():
    numbers = np.random.default_rng(2).normal(3.0, 2.0, 400)
    interval = st.bootstrap(numbers)
    assert interval.low < interval.mean < interval.high
    width = 2 * 1.96 * numbers.std() / 20
    assert interval.high - interval.low == pytest.approx(width, rel=0.1)  # 2,000 resamples: 3 % is one standard error
    assert interval == st.bootstrap(numbers) != st.bootstrap(numbers, seed=1)
    assert st.bootstrap(np.full(10, 0.25)) == (0.25, 0.25, 0.25)
    assert st.bootstrap(np.array([0.25])) == (0.25, 0.25, 0.25)
