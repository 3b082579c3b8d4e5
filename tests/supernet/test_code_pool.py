"""Pools of codes: uniform over a space, or over a region of it."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lanas_jax.spaces.base import Choice, SearchSpace
from lanas_jax.supernet import code_pool

PLAIN = SearchSpace([Choice("a", "xyz"), Choice("b", "uvw"), Choice("c", "st")])


class Unordered(SearchSpace):
    """Two letters whose order does not matter, and which may not both be the last one."""

    def __init__(self):
        super().__init__([Choice("one", "abcd"), Choice("other", "abcd")])

    def valid(self, codes):
        codes = jnp.asarray(codes)
        return super().valid(codes) & ~(codes == 3).all(axis=1)

    def canonical(self, codes):
        return jnp.sort(jnp.asarray(codes, jnp.int32), axis=1)


def counted(space, codes):
    """How often each canonical code was drawn; fails where another was."""
    there = space.enumerate().tolist()
    counts = np.zeros(len(there), int)
    for code in codes.tolist():
        counts[there.index(code)] += 1
    return counts


def test_every_code_is_as_likely():
    """Chi-square of 18 counts; with probability 1e-6 a fair draw fails."""
    counts = counted(PLAIN, code_pool.draw_codes(PLAIN, 9_000, seed=1))
    assert stats.chisquare(counts).pvalue > 1e-6


def test_valid_codes_are_uniform_and_stand_in_their_canonical_form():
    """A class of two codes is drawn twice as often as one of a single code; chi-square, 1e-6."""
    space = Unordered()
    codes = code_pool.draw_codes(space, 9_000, seed=2)
    assert codes.dtype == np.int32
    size = np.array([1 if one == other else 2 for one, other in space.enumerate().tolist()])
    counts = counted(space, codes)
    assert len(counts) == 9
    assert stats.chisquare(counts, 9_000 * size / size.sum()).pvalue > 1e-6


def test_within_a_region_draws_are_uniform():
    """Chi-square of 5 counts, 1e-6. Regions are told canonical codes alone."""

    def within(codes):
        assert (codes[:, 0] <= codes[:, 1]).all()
        return codes[:, 0] == 1

    codes = code_pool.draw_codes(Unordered(), 3_000, seed=3, within=within)
    counts = counted(Unordered(), codes)[Unordered().enumerate()[:, 0] == 1]
    assert counts.sum() == 3_000
    assert stats.chisquare(counts, 3_000 * np.array([1, 2, 2]) / 5).pvalue > 1e-6


def test_more_codes_than_are_drawn_at_a_time():
    codes = code_pool.draw_codes(PLAIN, code_pool.DRAWN + 1, seed=0)
    assert len(codes) == code_pool.DRAWN + 1
    assert stats.chisquare(counted(PLAIN, codes)).pvalue > 1e-6


def test_seeds_decide():
    one, again, other = (code_pool.draw_codes(PLAIN, 50, seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


@pytest.mark.slow
def test_what_a_rare_region_has_is_repeated():
    """One code in 4**10: of 2**20 draws 0.37 of all seeds find none, and few find more than three."""
    space = SearchSpace([Choice(str(i), "abcd") for i in range(10)])
    wanted = code_pool.draw_codes(space, 1, seed=6)[0]
    codes = code_pool.draw_codes(space, 7, seed=6, within=lambda codes: (codes == wanted).all(axis=1))
    np.testing.assert_array_equal(codes, np.tile(wanted, (7, 1)))


def test_an_empty_region_is_refused():
    with pytest.raises(code_pool.EmptyRegionError, match="no code of the region among 1,048,576 uniform draws"):
        code_pool.draw_codes(PLAIN, 3, seed=0, within=lambda codes: np.zeros(len(codes), bool))
