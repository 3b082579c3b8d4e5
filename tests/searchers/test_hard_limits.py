"""Hard limits bind every searcher, also where hardly any code keeps them, and no search goes on for ever."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.searchers import sampling
from lanas_jax.spaces.mobilenet import MobileNetSpace
from lanas_jax.spaces.mobilenet_settings import STAGES
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.spaces.nasnet_masks import NASNetMasks
from tests.searchers.canonical import told

SMALL = {"stages": STAGES[:2], "depths": (1, 2), "widths": (0.5, 1.0), "resolutions": (32, 48, 64)}
RARE = SMALL | {"stages": STAGES[:4]}  # with a limit near the smallest network, one code of 1e5 is valid


def limited(sizes, share):
    """The limit lies a share of the way from the smallest network to the largest."""
    free = MobileNetSpace(**sizes)
    least, most = free.smallest.multiply_adds, free.largest.multiply_adds
    return MobileNetSpace(**sizes, max_multiply_adds=int(least + share * (most - least)))


def anything(codes):
    return jnp.ones(len(codes), bool)


def check(space, codes):
    """By the layers of each network, not by the tables that searchers see."""
    assert all(space.network(code).cost.multiply_adds <= space.max_multiply_adds for code in codes)
    np.testing.assert_array_equal(codes, jax.jit(space.canonical)(codes))
    assert len(np.unique(codes, axis=0)) == len(codes)


@pytest.mark.slow
def test_chains_find_every_network_within_a_limit_and_then_say_so():
    space = limited(SMALL, 0.005)
    allowed = space.enumerate()
    assert 10 < len(allowed) < 60
    draw = jax.jit(lambda key: sampling.draw_valid(key, space, anything, len(allowed) + 5, tries=0))
    codes = np.asarray(draw(jax.random.key(0)))
    assert (codes[len(allowed) :] == -1).all()
    assert {tuple(code) for code in codes[: len(allowed)].tolist()} == {tuple(code) for code in allowed.tolist()}


@pytest.mark.slow
def test_draws_keep_a_limit_that_hardly_any_code_keeps():
    space = limited(RARE, 0.003)
    random = np.random.default_rng(0).integers(0, space.cardinalities, (4096, space.dims)).astype(np.int32)
    assert np.asarray(jax.jit(space.valid)(random)).mean() < 0.002
    draw, found = jax.jit(lambda key: sampling.draw_valid(key, space, anything, 16)), []
    for seed in range(4):
        found.append(np.asarray(draw(jax.random.key(seed))))
        assert (found[-1] >= 0).all()
        assert len(np.unique(found[-1], axis=0)) == 16
    check(space, np.unique(np.concatenate(found), axis=0))


@pytest.mark.parametrize("make", [pytest.param(NASNetSpace, marks=pytest.mark.slow), NASNetMasks])
def test_cells_within_a_tight_limit_are_reached_from_the_cheapest(make):
    space = make(3, channels=4, cells=3)
    codes = np.array([space._cheapest, np.zeros(space.dims, np.int32)])
    least, most = space.cost(codes).parameters.tolist()
    tight = make(3, channels=4, cells=3, max_parameters=least + (most - least) // 100)
    assert jax.jit(tight.valid)(tight.starting_codes()).all()
    codes = np.asarray(jax.jit(lambda key: sampling.draw_valid(key, tight, anything, 8, tries=0))(jax.random.key(0)))
    assert (codes >= 0).all()
    assert (tight.cost(codes).parameters <= tight.max_parameters).all()
    assert len(np.unique(codes, axis=0)) == 8


@pytest.mark.slow
def test_one_network_within_the_limit_is_found_and_nothing_after_it():
    space = limited(RARE, 0)
    searcher = lx.RandomSearch(space)
    state, codes = searcher.ask(searcher.init(jax.random.key(0)), 2)
    assert np.asarray(codes).tolist() == [[0] * space.dims, [-1] * space.dims]
    state = searcher.tell(state, codes, jnp.zeros(2))
    assert (np.asarray(searcher.ask(state, 2)[1]) == -1).all()


def test_spaces_without_limits_are_drawn_from_by_rejection_alone():
    space = MobileNetSpace(**RARE)
    key = jax.random.key(3)
    raw = space.random(jax.random.split(key)[1], 256)
    codes = jax.jit(lambda key: sampling.draw_valid(key, space, anything, 8))(key)
    np.testing.assert_array_equal(codes, jax.jit(space.canonical)(raw)[:8])


EACH_WAY_TO_DRAW = ("ActionMCTS", "BayesianOptimization", "LaNAS", "RegularizedEvolution")


@pytest.mark.slow
@pytest.mark.parametrize("make", [*EACH_WAY_TO_DRAW, "LocalSearch", "NSGA2"], indirect=True)
def test_every_searcher_keeps_the_limit(make):
    space = limited(RARE, 0.005)
    searcher, asked = make(space), []
    state = searcher.init(jax.random.key(1))
    for batch in range(10):
        state, codes = searcher.ask(state, 4)
        asked.append(np.asarray(codes))
        values = np.cos(1.7 * asked[-1]).mean(axis=1)
        if batch % 3 != 2:  # or else they stay pending
            values = jnp.asarray(np.where(values > 0.6, np.nan, values), jnp.float32)
            state = searcher.tell(state, codes, jnp.asarray(told(searcher, values)))
    asked = np.concatenate(asked)
    assert (asked >= 0).all()
    check(space, asked)


@pytest.mark.slow
@pytest.mark.parametrize("make", EACH_WAY_TO_DRAW, indirect=True)  # finding nothing takes all draws that there may be
def test_every_searcher_says_when_nothing_within_the_limit_is_left(make):
    space = limited(RARE, 0)
    searcher = make(space)
    state, codes = searcher.ask(searcher.init(jax.random.key(1)), 4)
    state = searcher.tell(state, codes, jnp.asarray(told(searcher, jnp.zeros(4))))
    _, more = searcher.ask(state, 4)
    assert (np.concatenate([codes, more]) >= 0).all(axis=1).sum() == 1
