"""Draws from pools and lattices against exact enumeration."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import lanas_jax as lx
from lanas_jax.searchers import partition, sampling

SPACE = lx.SearchSpace([lx.Choice(f"op{i}", range(4)) for i in range(5)])


def region():
    """A leaf two levels down a learned tree, and its codes."""
    codes = SPACE.enumerate()
    told = codes[np.random.default_rng(0).choice(len(codes), 80, replace=False)]
    effects = np.random.default_rng(1).normal(size=(5, 4))
    targets = effects[np.arange(5), told].sum(1).astype(np.float32)
    done = jnp.ones(80, bool)
    tree = partition.fit_tree(
        SPACE.features(told), jnp.asarray(targets), done, done, height=2, min_samples=10, ridge=1.0
    )
    leaf = jnp.int32(np.asarray(partition.route(tree, SPACE.features(told)))[np.argmax(targets)])
    inside = np.asarray(partition.inside(tree, leaf, SPACE.features(codes)))
    return tree, leaf, codes[inside]


def test_walks_stay_inside_and_are_uniform_over_the_region():
    tree, leaf, members = region()
    assert 50 < len(members) < 600
    starts = jnp.asarray(np.repeat(members[:1], 4000, axis=0))

    def inside(codes):
        return partition.inside(tree, leaf, SPACE.features(codes))

    ends, rate = jax.jit(lambda key: sampling.walk(key, SPACE, starts, inside, 100))(jax.random.key(0))
    assert bool(inside(ends).all())
    assert 0.1 < float(rate) < 1.0
    index = {tuple(code): i for i, code in enumerate(members.tolist())}
    counts = np.bincount([index[tuple(code)] for code in np.asarray(ends).tolist()], minlength=len(members))
    # A correct sampler fails this with probability 1e-6, and the key is fixed.
    assert stats.chisquare(counts).pvalue > 1e-6


def test_proposals_are_symmetric():
    start, n = np.array([1, 2, 3, 0, 1], np.int32), 200_000
    draws = jax.jit(lambda key: jax.random.uniform(key, (n, sampling.DRAWS)))
    propose = jax.jit(lambda key, codes: sampling.propose(draws(key), SPACE, codes))
    moved = np.asarray(propose(jax.random.key(1), jnp.asarray(np.repeat(start[None], n, axis=0))))
    other = np.array([1, 2, 0, 0, 1], np.int32)
    back = np.asarray(propose(jax.random.key(2), jnp.asarray(np.repeat(other[None], n, axis=0))))
    there, here = (moved == other).all(1).sum(), (back == start).all(1).sum()
    # Two binomials of equal mean differ by more than five standard deviations with probability below 1e-6.
    assert abs(int(there) - int(here)) < 5 * np.sqrt(there + here)
    assert there > 1000


def test_moves_change_one_coordinate_or_a_block():
    space = lx.SearchSpace([lx.Choice(f"c{i}", range(100)) for i in range(40)])
    draws = jax.random.uniform(jax.random.key(5), (100_000, sampling.DRAWS))
    moved = jax.jit(lambda draws, codes: sampling.propose(draws, space, codes))(draws, jnp.full((100_000, 40), 100))
    changed = (np.asarray(moved) < 100).sum(axis=1)
    # Two, three and four coordinates are drawn one time in twelve each; some of them are the same one.
    expected = np.array([0.75 + (1 / 40 + 1 / 40**2 + 1 / 40**3) / 12, 0, 0, 39 * 38 * 37 / 40**3 / 12])
    shares = np.bincount(changed, minlength=5)[1:] / 100_000
    assert shares.sum() == 1
    # Six standard deviations of a share; a correct move fails this with probability below 1e-8.
    np.testing.assert_allclose(shares[[0, 3]], expected[[0, 3]], atol=6 * np.sqrt(0.25 / 100_000))
    assert min(shares[1], shares[2]) > 0.07


@pytest.mark.slow
def test_chains_reach_everything_in_one_space():
    starts = jnp.zeros((20_000, 5), jnp.int32)
    ends, rate = jax.jit(lambda key: sampling.walk(key, SPACE, starts, SPACE.valid, 60))(jax.random.key(3))
    assert float(rate) == 1.0
    assert len(np.unique(np.asarray(ends), axis=0)) == SPACE.size


def test_climb_finds_the_best_code_of_a_linear_score():
    effects = jnp.asarray(np.random.default_rng(4).normal(size=(5, 4)).astype(np.float32))

    def score(codes):
        return jnp.sum(effects[jnp.arange(5)[None], codes], axis=1)

    def ends(key):
        starts = SPACE.random(key, 32)
        return sampling.climb(key, SPACE, starts, SPACE.valid, score, 5, 300)[0]

    best = np.asarray(effects).argmax(1)
    assert (np.asarray(jax.jit(ends)(jax.random.key(6))) == best).all(1).mean() > 0.9


@dataclasses.dataclass(frozen=True, init=False)
class Ascending(lx.SearchSpace):
    """Only strictly ascending codes are valid: 56 of 32,768."""

    def valid(self, codes):
        return super().valid(codes) & jnp.all(jnp.diff(jnp.asarray(codes), axis=1) > 0, axis=1)


def test_rejection_gives_distinct_valid_unseen_codes_until_none_is_left():
    """21 of 16,807 codes ascend; of 262,144 draws, one of them would be missing with probability 3e-6."""
    space = Ascending([lx.Choice(f"c{i}", range(7)) for i in range(5)])
    forbidden = jnp.asarray(space.enumerate()[:6])

    def unseen(codes):
        return ~jnp.any(jnp.all(codes[:, None] == forbidden[None], axis=2), axis=1)

    draw = jax.jit(lambda key: sampling.draw_valid(key, space, unseen, 20, batch=256, tries=1024))
    codes = np.asarray(draw(jax.random.key(0)))
    assert (codes[15:] == -1).all()
    assert {tuple(c) for c in codes[:15].tolist()} == {tuple(c) for c in space.enumerate()[6:].tolist()}


def test_pool_keeps_distinct_valid_codes_in_order():
    space = Ascending([lx.Choice(f"c{i}", range(8)) for i in range(5)])
    pool = sampling.Pool.of(space, [[1, 2, 3, 4, 5], [0, 0, 0, 0, 0], [0, 1, 2, 3, 4], [1, 2, 3, 4, 5]])
    np.testing.assert_array_equal(pool.codes, [[1, 2, 3, 4, 5], [0, 1, 2, 3, 4]])
    np.testing.assert_array_equal(pool.features, space.features(pool.codes))
    with pytest.raises(ValueError, match="no valid code"):
        sampling.Pool.of(space, [[0, 0, 0, 0, 0]])
    with pytest.raises(ValueError, match=r"position 4 \(c4\) holds 9, expected 0 to 7"):
        sampling.Pool.of(space, [[1, 2, 3, 4, 9]])


def test_best_of_ignores_what_is_not_allowed():
    row, found = sampling.best_of(jnp.array([3.0, 2.0, 1.0]), jnp.array([False, True, True]))
    assert (int(row), bool(found)) == (1, True)
    assert not sampling.best_of(jnp.zeros(2), jnp.zeros(2, bool))[1]
