"""Local search: known climbs, restarts, batches."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.searchers.local_search import NOWHERE
from lanas_jax.searchers.sampling import neighbours

EFFECTS = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)


def product(dims, options=4):
    return lx.SearchSpace([lx.Choice(f"c{i}", range(options)) for i in range(dims)])


def additive(codes):
    return EFFECTS[np.arange(codes.shape[1]), np.asarray(codes)].sum(axis=1)


def climb(searcher, asks, seed=0, value=additive, until=np.inf):
    """All codes and values in order, and the state after each ask."""
    state, codes, values, states = searcher.init(jax.random.key(seed)), [], [], []
    for _ in range(asks):
        state, asked = searcher.ask(state, 1)
        states.append(state)
        values.append(value(np.asarray(asked)))
        codes.append(np.asarray(asked))
        state = searcher.tell(state, asked, values[-1])
        if values[-1] >= until - 1e-4:
            break
    return np.concatenate(codes), np.concatenate(values), states


def distances(codes, centre):
    return (np.asarray(codes) != np.asarray(centre)).sum(axis=-1)


@pytest.mark.parametrize("dims", [5, 30], ids=["pool", "lattice"])
def test_neighbours_are_all_codes_with_one_choice_changed(dims):
    code = np.random.default_rng(1).integers(0, 4, dims)
    found = np.asarray(neighbours(product(dims), jnp.asarray(code, jnp.int32)[None])[0])
    assert len(np.unique(found, axis=0)) == len(found) == 3 * dims
    assert (distances(found, code) == 1).all()
    assert bool(product(dims).valid(found).all())


@pytest.mark.parametrize("first", [True, False], ids=["first improvement", "best improvement"])
@pytest.mark.parametrize("dims", [7, pytest.param(9, marks=pytest.mark.slow)], ids=["pool", "lattice"])
@pytest.mark.slow
def test_a_climb_on_additive_values_ends_at_the_optimum(first, dims):
    """A move to the best of all neighbours sets one choice for good, a move to the first better one raises a choice by
    one rank of four or more: at most `dims` or `3 dims` moves, with `3 dims` neighbours each."""
    searcher = lx.LocalSearch(product(dims), initial=2, first_improvement=first)
    optimum = EFFECTS[:dims].max(axis=1).sum()
    most = 2 + (3 * dims if first else dims) * 3 * dims
    codes, values, states = climb(searcher, most, until=optimum)
    assert values.max() == pytest.approx(optimum, rel=1e-5)

    centres = [int(state.centre) for state in states if int(state.centre) != NOWHERE]
    path = [row for i, row in enumerate(centres) if i == 0 or row != centres[i - 1]]
    assert path[0] == np.argmax(values[:2])
    assert len(path) > 2
    for a, b in itertools.pairwise([*path, len(values) - 1]):
        assert distances(codes[a], codes[b]) == 1
        assert values[b] > values[a]


def test_neighbours_in_a_sample_of_the_space_are_the_nearest_codes():
    """As many changes as reach the 60 codes that have one choice changed in the whole space."""
    space = product(20)
    pool = np.unique(np.random.default_rng(0).integers(0, 4, (300, 20)), axis=0)
    codes, _, states = climb(lx.LocalSearch(space, pool=pool, initial=5), 12)
    centre = codes[int(states[-1].centre)]
    changes = np.sort(distances(pool, centre))
    assert changes[1] > 1
    asked_from_it = [i for i, state in enumerate(states) if (codes[int(state.centre)] == centre).all()]
    assert asked_from_it
    assert (distances(codes[asked_from_it], centre) <= changes[60]).all()
    assert changes[60] < np.median(distances(pool, centre))


def test_the_best_of_all_neighbours_is_the_next_centre():
    searcher = lx.LocalSearch(product(5), initial=4, first_improvement=False)
    codes, values, _ = climb(searcher, 4 + 15 + 1)
    start = int(np.argmax(values[:4]))
    assert (distances(codes[4:19], codes[start]) <= 1).all()
    near = np.flatnonzero(distances(codes, codes[start])[:19] == 1)
    best = near[np.argmax(values[near])]
    fresh = 15 - (len(near) - (distances(codes[4:19], codes[start]) == 1).sum())
    assert fresh == 15
    assert distances(codes[19], codes[best]) == 1


def test_a_better_neighbour_is_moved_to_at_once():
    codes, values, states = climb(lx.LocalSearch(product(7), initial=2), 60, until=EFFECTS[:7].max(axis=1).sum())
    moves = 0
    for i in range(3, len(codes)):
        before, centre = int(states[i - 1].centre), int(states[i].centre)
        assert distances(codes[i], codes[centre]) == 1
        assert values[centre] >= values[before]
        if values[i - 1] > values[before]:  # what was told since
            assert values[centre] >= values[i - 1]
            moves += 1
    assert moves > 2


def test_a_better_neighbour_known_before_keeps_its_place_in_the_random_order():
    """One known to be better and two fresh: it comes first in a third of 300 orders, by 5 deviations but for 6e-7."""
    searcher = lx.LocalSearch(product(1))
    state = searcher.tell(
        searcher.init(jax.random.key(0)), np.array([[2], [1]], np.int32), np.array([1, 2], np.float32)
    )
    state = dataclasses.replace(state, centre=jnp.int32(0), arrived=jnp.int32(2))
    keys = jax.random.split(jax.random.key(1), 300)
    centres = [int(searcher.ask(dataclasses.replace(state, key=key), 1)[0].centre) for key in keys]
    assert set(centres) == {0, 1}
    assert abs(sum(centres) - 100) < 5 * np.sqrt(300 * 2 / 9)


def test_a_run_ends_at_a_local_optimum_and_another_starts():
    """Every code is a local optimum of a constant: 2 draws, 15 neighbours less those drawn before, 2 draws, ..."""
    searcher = lx.LocalSearch(product(5), initial=2)
    codes, _, states = climb(searcher, 60, value=lambda codes: np.ones(len(codes), np.float32))
    i, runs = 0, 0
    while i + 2 + 15 < 60:
        assert [int(state.centre) for state in states[i : i + 2]] == [NOWHERE, NOWHERE]
        centre = i  # the first of equals
        fresh = 15 - int((distances(codes[: i + 2], codes[centre]) == 1).sum())
        assert (distances(codes[i + 2 : i + 2 + fresh], codes[centre]) == 1).all()
        i, runs = i + 2 + fresh, runs + 1
    assert runs == 3


@pytest.mark.parametrize("dims", [5, pytest.param(30, marks=pytest.mark.slow)], ids=["pool", "lattice"])
def test_a_batch_holds_the_neighbourhood_and_then_draws_for_the_next_run(dims):
    searcher = lx.LocalSearch(product(dims), initial=2, first_improvement=False)
    state, _ = searcher.ask(searcher.init(jax.random.key(0)), 2)
    starts = np.asarray(state.history.codes[:2])
    assert distances(*starts) > 1  # of this key
    state = searcher.tell(state, starts, np.array([1.0, 0.0], np.float32))
    state, codes = searcher.ask(state, 3 * dims + 3)
    assert (distances(codes[: 3 * dims], starts[0]) == 1).all()
    assert (distances(codes[3 * dims :], starts[0]) > 1).all()
    # No neighbour is better: the three spare draws start the next run, at the best of them.
    values = np.zeros(len(codes), np.float32)
    values[-2] = 0.5
    state, more = searcher.ask(searcher.tell(state, codes, values), 1)
    assert int(state.centre) == 2 + len(codes) - 2
    assert distances(more[0], codes[-2]) == 1


def test_a_pending_neighbour_keeps_the_run_at_its_centre():
    searcher = lx.LocalSearch(product(5), initial=1, first_improvement=False)
    state, start = searcher.ask(searcher.init(jax.random.key(0)), 1)
    state = searcher.tell(state, start, np.ones(1, np.float32))
    state, codes = searcher.ask(state, 15)
    state = searcher.tell(state, codes[:14], np.zeros(14, np.float32))
    state, _ = searcher.ask(state, 1)
    assert int(state.centre) == 0
    state = searcher.tell(state, codes[14:], np.array([2.0], np.float32))
    state, code = searcher.ask(state, 1)
    assert int(state.centre) == 15
    assert distances(code[0], codes[14]) == 1


def test_no_draws_at_the_start_are_refused():
    with pytest.raises(ValueError, match="initial must be at least 1"):
        lx.LocalSearch(product(3), initial=0)
