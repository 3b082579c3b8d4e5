"""Draws from a lattice against exact enumeration."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import lanas_jax as lx
from lanas_jax.searchers import history as hist
from lanas_jax.searchers import lattice_draws, partition, selection, surrogate
from lanas_jax.searchers.known import Known


@dataclasses.dataclass(frozen=True, init=False)
class Limited(lx.SearchSpace):
    """Codes whose sum keeps a limit, as the cost of a network does."""

    def valid(self, codes):
        codes = jnp.asarray(codes)
        return super().valid(codes) & (jnp.sum(codes, axis=1) <= 9)


SPACE = Limited([lx.Choice(f"c{i}", "abcd") for i in range(5)])
TOLD = 120


@pytest.fixture(scope="module")
def known():
    rng = np.random.default_rng(0)
    codes = rng.choice(SPACE.enumerate(), TOLD, replace=False)
    values = rng.normal(size=(5, 4))[np.arange(5), codes].sum(axis=1).astype(np.float32)
    history, _ = hist.record(hist.empty(SPACE, None, TOLD + 1), SPACE, None, jnp.asarray(codes), jnp.asarray(values))
    features = SPACE.features(history.codes)
    tree = jax.jit(partition.fit_tree, static_argnames=("height", "min_samples", "ridge"))(
        *(features, history.values, history.done, history.used), height=3, min_samples=10, ridge=1.0
    )
    return Known(history, tree, surrogate.prior(1, SPACE.embedding_size))


@pytest.fixture(scope="module")
def draws(known):
    """Many draws at a weight of exploration; few chains will do, since each draw has its own."""
    walks, n = lattice_draws.Walks(chains=32, steps=64, by_model=False), 1200

    def draw(key, cp):
        return lattice_draws.draw_from_lattice(key, SPACE, known, cp, 1, walks)[1][0]

    return jax.jit(lambda cp: jax.vmap(draw, (0, None))(jax.random.split(jax.random.key(1), n), cp))


@pytest.mark.parametrize("cp", [0.0, 0.5, 3.0])
def test_a_draw_is_uniform_over_the_unseen_valid_codes_of_its_leaf(known, draws, cp):
    drawn = draws(jnp.float32(cp))
    every = SPACE.enumerate()
    leaf = selection.descend(known.tree, selection.all_open(known.tree), jnp.float32(cp))
    members = every[np.asarray(partition.inside(known.tree, leaf, SPACE.features(every)))]
    unseen = [
        code for code in map(tuple, members.tolist()) if code not in set(map(tuple, known.history.codes.tolist()))
    ]
    assert len(unseen) > 30
    place = {code: i for i, code in enumerate(unseen)}
    counts = np.bincount([place[tuple(code)] for code in np.asarray(drawn).tolist()], minlength=len(unseen))
    # A correct sampler fails this with probability 1e-6, and the key is fixed.
    assert stats.chisquare(counts).pvalue > 1e-6


def test_codes_that_differ_have_different_fingerprints():
    every = SPACE.enumerate()
    prints = np.asarray(lattice_draws.code_fingerprints(jnp.asarray(every)))
    assert len(np.unique(prints)) == len(every)
    long = np.random.default_rng(1).integers(0, 10, (4000, 60)).astype(np.int32)
    assert len(np.unique(np.asarray(lattice_draws.code_fingerprints(jnp.asarray(long))))) == 4000


def test_looking_around_finds_what_is_next_to_a_good_code():
    space = lx.SearchSpace([lx.Choice(f"c{i}", range(3)) for i in range(10)])
    target = jnp.arange(10) % 3
    near = target.at[4].add(1) % 3

    def gain(codes):
        right = jnp.sum(codes == target[None], axis=1).astype(jnp.float32)
        return jnp.where(jnp.all(codes == near[None], axis=1), -jnp.inf, right)  # the trial next to it is known

    far = jnp.zeros((20, 10), jnp.int32)
    others = jnp.tile(near[None], (lattice_draws.PARENTS, 1))
    code, score = lattice_draws._look_around(jax.random.key(0), space, gain, far, others)
    # One move in forty leads there: another seed misses it with probability (1 - 1 / 40) ** 384 = 6e-5.
    assert code.tolist() == target.tolist()
    assert score == 10


def test_looking_around_never_ends_below_where_it_begins():
    space = lx.SearchSpace([lx.Choice(f"c{i}", range(3)) for i in range(10)])
    codes = space.random(jax.random.key(1), 40)
    weights = jax.random.normal(jax.random.key(2), (10, 3))

    def gain(codes):
        return jnp.sum(jnp.take_along_axis(weights[None], codes[:, :, None], axis=2)[..., 0], axis=1)

    code, score = lattice_draws._look_around(jax.random.key(3), space, gain, codes, codes[:4])
    np.testing.assert_allclose(score, gain(code[None])[0], rtol=1e-5)
    assert score > gain(codes).max()


def test_where_nothing_may_be_drawn_looking_around_finds_nothing():
    space = lx.SearchSpace([lx.Choice("a", range(3))])
    codes = jnp.zeros((4, 1), jnp.int32)
    _, score = lattice_draws._look_around(
        jax.random.key(0), space, lambda codes: jnp.full(len(codes), -jnp.inf), codes, codes
    )
    assert score == -jnp.inf
