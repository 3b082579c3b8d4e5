"""The sample: distinct valid codes, one of each part of their order."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.ranking.base import RankingError
from lanas_jax.ranking.fixed_list import Listed
from lanas_jax.ranking.sample import pool_of, spread, stratified


class Even(lx.SearchSpace):
    """Codes of an even sum are valid; the last choice makes no difference."""

    def valid(self, codes):
        return super().valid(codes) & (jnp.sum(jnp.asarray(codes)[:, :2], axis=1) % 2 == 0)

    def canonical(self, codes):
        return jnp.asarray(codes).at[:, 2].set(0)


SPACE = Even([lx.Choice(f"c{i}", "abcd") for i in range(3)])  # 8 canonical valid codes


def test_the_pool_holds_distinct_valid_canonical_codes():
    codes = pool_of(jax.random.key(0), SPACE, 6, 3)
    assert codes.shape == (6, 3)
    assert len(set(map(tuple, codes.tolist()))) == 6
    assert (codes.sum(axis=1) % 2 == 0).all()
    assert (codes[:, 2] == 0).all()
    np.testing.assert_array_equal(codes, pool_of(jax.random.key(0), SPACE, 6, 3))
    assert (codes != pool_of(jax.random.key(1), SPACE, 6, 3)).any()


def test_a_small_space_gives_all_it_has_or_is_refused():
    assert len(pool_of(jax.random.key(0), SPACE, 40, 8)) == 8
    with pytest.raises(RankingError, match="gave 8 valid codes, but 9 networks are requested; request fewer networks"):
        pool_of(jax.random.key(0), SPACE, 40, 9)


@pytest.mark.slow
def test_a_space_in_which_one_code_of_400_is_valid_gives_its_pool():
    class Scarce(lx.SearchSpace):
        def valid(self, codes):
            return super().valid(codes) & (jnp.sum(jnp.asarray(codes)[:, :2], axis=1) == 0)

    codes = pool_of(jax.random.key(0), Scarce([lx.Choice(f"c{i}", tuple(range(20))) for i in range(4)]), 200, 200)
    assert len(set(map(tuple, codes[:, 2:].tolist()))) == 200
    assert (codes[:, :2] == 0).all()


@pytest.mark.parametrize(("m", "strata"), [(40, 5), (43, 5), (5, 5)])
def test_each_part_of_the_order_is_hit_once(m, strata):
    values = np.random.default_rng(m).permutation(m).astype(float)  # a value is its own rank
    sizes = [m // strata + (i < m % strata) for i in range(strata)]
    ends = np.cumsum(sizes)
    for seed in range(20):
        taken = values[stratified(values, strata, seed)]
        assert (taken < ends).all()
        assert (taken >= ends - sizes).all()


def test_every_member_of_a_part_has_its_chance_and_the_seed_decides():
    values = np.arange(12.0)
    taken = np.array([stratified(values, 3, seed) for seed in range(200)])
    # That one of 12 members is never drawn in 200 samples: 12 * 0.75**200, less than 1 in 10^23.
    assert [set(column) for column in taken.T.tolist()] == [{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9, 10, 11}]
    np.testing.assert_array_equal(taken[7], stratified(values, 3, 7))


def test_architectures_without_an_estimate_are_never_taken():
    values = np.array([np.nan, 3.0, np.nan, 1.0, 2.0])
    assert stratified(values, 3, 0).tolist() == [3, 4, 1]
    with pytest.raises(RankingError, match="3 of 5 architectures have an estimate, but 4 networks are requested"):
        stratified(values, 4, 0)


def test_a_list_is_proposed_in_its_order_and_then_nothing():
    codes = np.array([[0, 0, 0], [1, 1, 0], [2, 2, 0]], np.int32)
    searcher = Listed(SPACE, codes)
    state = searcher.init(jax.random.key(0))
    state, first = searcher.ask(state, 2)
    np.testing.assert_array_equal(first, codes[:2])
    state = searcher.tell(state, first, jnp.zeros(2))
    state, second = searcher.ask(state, 2)
    np.testing.assert_array_equal(second, [[2, 2, 0], [-1, -1, -1]])
    np.testing.assert_array_equal(searcher.ask(state, 1)[1], [[-1, -1, -1]])


@pytest.mark.parametrize("n", [0, 1, 2, 3, 8, 200, 257])
def test_every_beginning_of_a_spread_order_covers_the_range(n):
    order = spread(n)
    assert sorted(order.tolist()) == list(range(n))
    for k in range(1, n + 1):
        gaps = np.diff([-1, *sorted(order[:k].tolist()), n])
        assert gaps.max() <= 2 * math.ceil((n + 1) / k)
