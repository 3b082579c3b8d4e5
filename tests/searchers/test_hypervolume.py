"""Hypervolumes known from geometry, and against inclusion and exclusion over all subsets of trials."""

import itertools

import jax
import numpy as np
import pytest

from lanas_jax.searchers import hypervolume_improvement as hvi
from lanas_jax.searchers.hypervolume import hypervolume

RNG = np.random.default_rng(0)
ALL = np.ones(8, bool)
volume = jax.jit(hypervolume)


def by_inclusion_and_exclusion(above):
    """The volume of the union of boxes from the origin, by the intersections of all subsets of them."""
    above = np.maximum(np.asarray(above, np.float64), 0)
    subsets = (s for size in range(1, len(above) + 1) for s in itertools.combinations(range(len(above)), size))
    return sum((-1) ** (len(s) + 1) * above[list(s)].min(axis=0).prod() for s in subsets)


@pytest.mark.parametrize(
    ("points", "reference", "expected"),
    [
        ([[2, 3]], [0, 0], 6),
        ([[2, 3], [2, 3]], [0, 1], 4),
        ([[1, 3], [2, 2], [3, 1], [1, 1]], [0, 0], 6),  # a staircase, and a point below it
        ([[1, 3], [5, -1]], [0, 0], 3),  # a point that is below the reference in one objective adds nothing
        ([[-1, -1]], [0, 0], 0),
        ([[1, 1, 1], [2, 2, 2]], [0, 0, 0], 8),
        ([[3, 1, 1], [1, 3, 1], [1, 1, 3]], [0, 0, 0], 7),  # three bars that share a unit cube
        ([[2, 1, 1, 1], [1, 2, 1, 1], [1, 1, 2, 1], [1, 1, 1, 2]], [0, 0, 0, 0], 5),
    ],
)
def test_hypervolumes_known_from_geometry(points, reference, expected):
    points = np.array(points, np.float32)
    assert float(volume(points, np.ones(len(points), bool), np.array(reference, np.float32))) == expected


@pytest.mark.parametrize("k", [2, 3, 4])
def test_hypervolumes_are_those_of_inclusion_and_exclusion(k):
    reference = RNG.normal(size=k).astype(np.float32)
    for _ in range(5):
        points = (reference + RNG.normal(0.6, 1.0, (8, k))).astype(np.float32)
        counted = RNG.random(8) < 0.8
        found = volume(points, counted, reference)
        above = points[counted] - reference
        expected = by_inclusion_and_exclusion(above[(above > 0).all(axis=1)]) if counted.any() else 0
        assert float(found) == pytest.approx(expected, rel=1e-5)


def test_hypervolumes_are_those_of_optuna():
    wfg = pytest.importorskip("optuna._hypervolume", reason="optuna is not installed")
    for k in (2, 3, 4):
        points = RNG.random((8, k)).astype(np.float32)
        expected = wfg.compute_hypervolume(-points.astype(np.float64), np.zeros(k))
        assert float(volume(points, ALL, np.zeros(k, np.float32))) == pytest.approx(expected, rel=1e-5)


def test_five_objectives_are_refused():
    with pytest.raises(ValueError, match="hypervolume takes 1 to 4 objectives; got 5"):
        volume(np.ones((3, 5), np.float32), np.ones(3, bool), np.zeros(5, np.float32))


def gains(front, more):
    """What each of some points adds to the hypervolume of a front."""
    before = by_inclusion_and_exclusion(front)
    return np.array([by_inclusion_and_exclusion(np.concatenate([front, [point]])) - before for point in more])


FRONT = np.array([[1.0, 4.0], [2.0, 3.0], [3.5, 1.0]], np.float32)


@pytest.fixture(scope="module")
def of_two():
    """Improvements over a staircase, of which two rows do not count: one is not counted, one is dominated."""
    points = np.concatenate([FRONT, [[9.0, 9.0], [1.5, 2.5]]]).astype(np.float32)
    return jax.jit(hvi.front_of)(points, np.array([True, True, True, False, True]))


def test_the_improvement_by_a_point_is_the_difference_of_hypervolumes(of_two):
    more = RNG.uniform(0, 5, (40, 2)).astype(np.float32)
    found = jax.jit(hvi.improvement)(of_two, more)
    np.testing.assert_allclose(found, gains(FRONT, more), atol=1e-4)
    exact = jax.jit(hvi.expected_improvement)(of_two, more, np.zeros((40, 2), np.float32))
    np.testing.assert_allclose(exact, found, atol=1e-5)


@pytest.mark.parametrize("deviation", [(0.8, 0.5), (0.8, 0.0), (0.0, 0.5)], ids=["both", "first", "second"])
def test_the_expected_improvement_is_the_mean_over_draws(of_two, deviation):
    """One objective of a pair may be exact."""
    mean = np.array([[2.5, 2.0], [0.5, 0.5], [4.0, 4.0], [3.4, 0.9]] + [[0.0, 0.0]] * 36, np.float32)
    spread = np.tile(np.array(deviation, np.float32), (40, 1))
    found = np.array(jax.jit(hvi.expected_improvement)(of_two, mean, spread))[:4]
    draws = mean + RNG.normal(size=(4000, 40, 2)).astype(np.float32) * spread
    sampled = np.array(jax.jit(jax.vmap(lambda d: hvi.improvement(of_two, d)))(draws))[:, :4]
    error = sampled.std(axis=0) / np.sqrt(len(draws))
    assert (np.abs(found - sampled.mean(axis=0)) <= 5 * error + 1e-4).all()  # five standard errors


def test_more_points_than_strips_make_a_staircase_that_is_never_below_them():
    angle = np.linspace(0.01, np.pi / 2 - 0.01, 3 * hvi.STRIPS)
    points = np.stack([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)
    front = jax.jit(hvi.front_of)(points, np.ones(len(points), bool))
    improve = jax.jit(hvi.improvement)
    assert float(improve(front, points).max()) < 1e-6
    beyond = improve(front, 1.3 * points[hvi.STRIPS // 2 :: hvi.STRIPS // 2])
    assert float(beyond.min()) > 0.03


def test_three_objectives_are_approximated_by_directions():
    front = RNG.uniform(0.5, 2.0, (4, 3)).astype(np.float32)
    reach = jax.jit(hvi.front_of)(front, np.ones(4, bool))
    mean = RNG.uniform(1.0, 2.5, (16, 3)).astype(np.float32)
    found = np.array(jax.jit(hvi.improvement)(reach, mean))
    expected = gains(front, mean)
    assert np.corrcoef(found, expected)[0, 1] > 0.97
    assert found.sum() == pytest.approx(expected.sum(), rel=0.15)
    exact = np.array(jax.jit(hvi.expected_improvement)(reach, mean, np.zeros_like(mean)))
    np.testing.assert_allclose(exact, found, rtol=1e-3, atol=1e-4)
    spread = np.full_like(mean, 0.4)
    spread[:, 2] = 0.0
    draws = mean + RNG.normal(size=(2000, 16, 3)).astype(np.float32) * spread
    sampled = np.array(jax.jit(jax.vmap(lambda d: hvi.improvement(reach, d)))(draws)).mean(axis=0)
    uncertain = np.array(jax.jit(hvi.expected_improvement)(reach, mean, spread))
    np.testing.assert_allclose(uncertain, sampled, rtol=0.15, atol=0.1)
