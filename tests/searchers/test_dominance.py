"""Dominance against its definition, written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax.searchers import dominance
from lanas_jax.searchers.surrogate import normal_scores

RNG = np.random.default_rng(0)
N = 24
VALUES = {k: RNG.integers(0, 6, (N, k)).astype(np.float32) for k in (2, 3)}  # with ties
COUNTED = RNG.random(N) < 0.8
numbers_of, front_of = jax.jit(dominance.dominance_numbers), jax.jit(dominance.on_front)


def above(a, b):
    return (a >= b).all() and (a > b).any()


@pytest.mark.parametrize("k", [2, 3])
def test_numbers_fronts_and_ranks_are_those_of_the_definition(k):
    values = VALUES[k]
    numbers = [sum(above(values[j], values[i]) for j in np.flatnonzero(COUNTED)) for i in range(N)]
    np.testing.assert_array_equal(numbers_of(values, COUNTED), numbers)
    front = np.array(front_of(values, COUNTED))
    np.testing.assert_array_equal(front, COUNTED & (np.array(numbers) == 0))
    np.testing.assert_array_equal(dominance.front_rows(values[COUNTED]), front[COUNTED])
    ranks, left, rank = np.full(N, N), COUNTED.copy(), 0
    while left.any():
        now = [i for i in np.flatnonzero(left) if not any(above(values[j], values[i]) for j in np.flatnonzero(left))]
        ranks[now] = rank
        left[now] = False
        rank += 1
    assert rank > 2
    np.testing.assert_array_equal(jax.jit(dominance.front_ranks)(values, COUNTED), ranks)


def test_the_crowding_distance_is_the_gap_between_neighbours_of_one_rank():
    values = jnp.array([[0, 10], [1, 6], [4, 5], [10, 0], [0, 0], [-1, 1]], jnp.float32)
    ranks = np.array([0, 0, 0, 0, 1, 1])
    found = np.array(jax.jit(dominance.crowding_distances)(values, ranks))
    np.testing.assert_array_equal(np.isinf(found), [True, False, False, True, True, True])
    np.testing.assert_allclose(found[1:3], [4 / 10 + 5 / 10, 9 / 10 + 6 / 10], rtol=1e-6)


def test_one_objective_given_several_times_has_the_targets_of_one():
    values, counted = jnp.asarray(VALUES[2][:, 0]), jnp.asarray(COUNTED)
    targets = dominance.dominance_scores(jnp.stack([values] * 3, axis=1), counted)
    np.testing.assert_allclose(targets, normal_scores(values, counted), atol=1e-6)
