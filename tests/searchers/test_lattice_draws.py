"""Draws from a lattice against exact enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import lanas_jax as lx
from lanas_jax import partition, selection, surrogate
from lanas_jax.searchers import history as hist
from lanas_jax.searchers import lattice_draws
from lanas_jax.searchers.known import Known

SPACE = lx.SearchSpace([lx.Choice(f"c{i}", "abcd") for i in range(5)])
TOLD = 120


@pytest.fixture(scope="module")
def known():
    rng = np.random.default_rng(0)
    codes = SPACE.enumerate()[rng.choice(SPACE.size, TOLD, replace=False)]
    values = rng.normal(size=(5, 4))[np.arange(5), codes].sum(axis=1).astype(np.float32)
    history, _ = hist.record(hist.empty(SPACE, None, TOLD + 1), SPACE, None, jnp.asarray(codes), jnp.asarray(values))
    features = SPACE.features(history.codes)
    tree = jax.jit(partition.fit, static_argnames=("height", "min_samples", "ridge"))(
        *(features, history.values, history.done, history.used), height=3, min_samples=10, ridge=1.0
    )
    return Known(history, tree, surrogate.prior(1, SPACE.embedding_size))


@pytest.mark.parametrize("cp", [0.0, 0.5, 3.0])
def test_a_draw_is_uniform_over_the_unseen_codes_of_its_leaf(known, cp):
    walks, draws = lattice_draws.Walks(chains=64, steps=64, by_model=False), 8000
    draw = jax.jit(lambda key: lattice_draws.draw(key, SPACE, known, jnp.float32(cp), 1, walks)[1][0])
    drawn = jax.lax.map(draw, jax.random.split(jax.random.key(1), draws), batch_size=500)
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
    prints = np.asarray(lattice_draws.fingerprint(jnp.asarray(every)))
    assert len(np.unique(prints)) == len(every)
    long = np.random.default_rng(1).integers(0, 10, (4000, 60)).astype(np.int32)
    assert len(np.unique(np.asarray(lattice_draws.fingerprint(jnp.asarray(long))))) == 4000
