"""What every searcher owes on every space."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lanas_jax as lx


def value(codes):
    """A value with structure: some options are better, everywhere."""
    return jnp.asarray(np.cos(1.7 * np.asarray(codes)).mean(axis=1) + 0.01 * np.asarray(codes)[:, 0], jnp.float32)


def search(searcher, batches, n, seed=0, evaluate=value):
    state, asked, told = searcher.init(jax.random.key(seed)), [], []
    for _ in range(batches):
        state, codes = searcher.ask(state, n)
        codes = codes[codes[:, 0] >= 0]
        if not len(codes):
            break
        values = evaluate(codes)
        state = searcher.tell(state, codes, values)
        asked.append(np.asarray(codes))
        told.append(np.asarray(values))
    return state, np.concatenate(asked), np.concatenate(told)


def test_codes_are_valid_canonical_and_never_repeated(make, space):
    _, codes, _ = search(make(space), 8, 4)
    assert codes.dtype == np.int32
    assert bool(space.valid(codes).all())
    np.testing.assert_array_equal(codes, space.canonical(codes))
    assert len(np.unique(codes, axis=0)) == len(codes) == min(32, len(space.enumerate()) if space.size < 1e5 else 32)


def test_same_seed_same_trials_and_another_seed_others(make, space):
    first, second = search(make(space), 5, 4)[1], search(make(space), 5, 4)[1]
    np.testing.assert_array_equal(first, second)
    assert (search(make(space), 5, 4, seed=1)[1] != first).any()


def test_pending_codes_are_never_proposed_again(make, space):
    searcher = make(space)
    state = searcher.init(jax.random.key(2))
    asked = []
    for _ in range(6):  # nothing is ever told
        state, codes = searcher.ask(state, 4)
        asked.append(np.asarray(codes))
    asked = np.concatenate(asked)
    assert len(np.unique(asked, axis=0)) == 24


def test_asks_from_a_pool_exhaust_it_and_then_say_so(make):
    space = lx.SearchSpace([lx.Choice(f"c{i}", range(6)) for i in range(12)])
    pool = np.unique(np.random.default_rng(0).integers(0, 6, (37, 12)), axis=0)
    searcher = make(space, pool=pool)
    state, codes, _ = search(searcher, 20, 4)
    assert {tuple(code) for code in codes.tolist()} == {tuple(code) for code in pool.tolist()}
    _, nothing = searcher.ask(state, 4)
    np.testing.assert_array_equal(nothing, np.full((4, 12), -1))


def test_failed_trials_are_recorded_and_the_search_goes_on(make, space):
    def often_nan(codes):
        return jnp.where(codes.sum(axis=1) % 3 == 0, jnp.nan, value(codes))

    state, _, values = search(make(space), 8, 4, evaluate=often_nan)
    assert 0 < np.isnan(values).sum() < len(values)
    assert int((state.history.status == 3).sum()) == np.isnan(values).sum()
    assert all(
        bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)
    )


def test_a_search_in_which_everything_fails_goes_on(make, space):
    _, codes, _ = search(make(space), 6, 4, evaluate=lambda codes: jnp.full(len(codes), jnp.nan))
    assert len(np.unique(codes, axis=0)) == 24


def test_results_from_elsewhere_are_taken_in_and_not_proposed(make, space):
    searcher = make(space)
    elsewhere = np.asarray(search(lx.RandomSearch(space), 5, 4, seed=9)[1])
    state, asked = searcher.init(jax.random.key(0)), []
    for batch in elsewhere.reshape(5, 4, space.dims):
        state = searcher.tell(state, batch, value(batch))
    assert int(state.history.count) == 20
    for _ in range(3):
        state, codes = searcher.ask(state, 4)
        asked.append(np.asarray(codes))
    assert len(np.unique(np.concatenate([elsewhere, *asked]), axis=0)) == 32


def test_the_state_grows_past_its_first_capacity_without_losing_anything(spaces):
    searcher = lx.LaNAS(spaces["listed"])
    small = dataclasses.replace(searcher, capacity=8)
    state, codes, values = search(small, 4, 4)
    assert state.history.capacity == 16
    np.testing.assert_array_equal(state.history.codes, codes)
    np.testing.assert_array_equal(state.history.values, values)


@pytest.mark.parametrize("name", ["listed", pytest.param("NASNet cells, 4e6", marks=pytest.mark.slow)])
def test_ask_and_tell_run_inside_one_jitted_program(make, spaces, name):
    space = spaces[name]
    searcher = make(space)

    @jax.jit
    def program(key):
        def batch(state, _):
            state, codes = searcher.ask(state, 4)
            values = jnp.mean(jnp.cos(codes.astype(jnp.float32)), axis=1)
            return searcher.tell(state, codes, values), codes

        return jax.lax.scan(batch, searcher.init(key), None, length=4)[1]

    codes = np.asarray(program(jax.random.key(0))).reshape(16, space.dims)
    assert bool(space.valid(codes).all())
    assert len(np.unique(codes, axis=0)) == 16


def test_bad_tells_are_refused_at_the_door(make, spaces):
    searcher = make(spaces["listed"])
    state = searcher.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"position 3 \(choice3\) holds 4, expected 0 to 3"):
        searcher.tell(state, np.array([[0, 0, 0, 4, 0]]), jnp.zeros(1))
    with pytest.raises(ValueError, match="need as many values"):
        searcher.tell(state, np.array([[0, 0, 0, 1, 0]]), jnp.zeros(2))


def test_another_process_asks_for_the_same_codes():
    script = """
import jax, numpy as np, lanas_jax as lx
space = lx.SearchSpace([lx.Choice(f"c{i}", range(4)) for i in range(5)])
searcher = lx.LaNAS(space)
state = searcher.init(jax.random.key(7))
for _ in range(4):
    state, codes = searcher.ask(state, 5)
    state = searcher.tell(state, codes, np.asarray(codes).mean(axis=1))
print(np.asarray(codes).tolist())
"""
    runs = {subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(runs) == 1
    assert len(json.loads(runs.pop())) == 5
