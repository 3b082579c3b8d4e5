"""What every searcher owes on every space."""

import dataclasses
import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.searchers.sampling import Pool
from tests.searchers.canonical import BATCH, POOL, POOL_SPACE, run, told


def value(codes):
    """A value with structure: some options are better, everywhere."""
    codes = np.asarray(codes)
    return np.asarray(np.cos(1.7 * codes).mean(axis=1) + 0.01 * codes[:, 0], np.float32)


@functools.cache
def trace(searcher):
    """A search of 8 batches, of which all tests look at one."""
    return run(searcher, 8, 0, value)


def available(searcher):
    """How many codes there are to draw, at most 32."""
    if isinstance(searcher.pool, Pool):
        return min(32, len(searcher.pool.codes))
    return 32


def test_codes_are_valid_canonical_and_never_repeated(searcher):
    _, codes, _ = trace(searcher)
    assert codes.dtype == np.int32
    valid, canonical = jax.jit(lambda codes: (searcher.space.valid(codes), searcher.space.canonical(codes)))(codes)
    assert valid.all()
    np.testing.assert_array_equal(codes, canonical)
    assert len(np.unique(codes, axis=0)) == len(codes) == available(searcher)


def test_same_seed_same_trials_and_another_seed_others(searcher):
    _, codes, values = trace(searcher)
    _, again, same = run(searcher, 5, 0, value)
    np.testing.assert_array_equal(codes[: len(again)], again)
    np.testing.assert_array_equal(values[: len(same)], same)
    _, others, _ = run(searcher, 2, 1, value)
    assert (others != codes[: len(others)]).any()


def test_64_bit_mode_changes_nothing(searcher):
    _, codes, values = trace(searcher)
    with jax.enable_x64(True):
        state, again, same = run(searcher, 3, 0, value)
        more = searcher.tell(state, np.asarray(again, np.int64), told(searcher, np.asarray(same, np.float64)))
        assert {leaf.dtype.itemsize for leaf in jax.tree.leaves(more) if leaf.dtype != state.key.dtype} <= {1, 4}
    np.testing.assert_array_equal(codes[: len(again)], again)
    np.testing.assert_array_equal(values[: len(same)], same)


def test_debugging_of_nans_and_infinities_does_not_stop_a_search_with_failed_trials(searcher):
    def failing(codes):
        return np.where(np.asarray(codes)[:, 0] % 2 == 0, np.nan, value(codes))

    with jax.debug_nans(True), jax.debug_infs(True):
        _, codes, _ = run(searcher, 3, 0, failing)
    np.testing.assert_array_equal(codes, run(searcher, 3, 0, failing)[1])


def test_pending_codes_are_never_proposed_again(searcher):
    state = searcher.init(jax.random.key(2))
    asked = []
    for _ in range(6):  # nothing is ever told
        state, codes = searcher.ask(state, BATCH)
        asked.append(np.asarray(codes))
    asked = np.concatenate(asked)
    assert len(np.unique(asked, axis=0)) == 24


@pytest.mark.parametrize(
    "searcher",
    [
        pytest.param(
            (kind, where), marks=[pytest.mark.slow] * (where != "pool" and kind != "LaNAS"), id=f"{kind}-{where}"
        )
        for kind in ("BayesianOptimization", "LaNAS", "ParetoLaNAS")
        for where in ("pool", "lattice")
    ],
    indirect=True,
)
def test_products_of_models_are_those_of_float32_on_every_device(searcher):
    """Elsewhere than on CPUs, products of default precision round their inputs to 8 or 11 bits."""

    def ask_and_tell(key):
        state, codes = searcher.ask(searcher.init(key), BATCH)
        return jax.tree.leaves(searcher.tell(state, codes, told(searcher, jnp.zeros(BATCH))))

    program = jax.jit(ask_and_tell).lower(jax.random.key(0)).as_text()
    products = [line for line in program.splitlines() if "dot_general" in line and "xf32>" in line]
    assert products
    assert [line.strip() for line in products if "precision = [HIGHEST, HIGHEST]" not in line] == []


def test_asks_from_a_pool_exhaust_it_and_then_say_so(make):
    searcher = make(POOL_SPACE, POOL)
    state, codes, _ = run(searcher, 20, value=value)
    assert len(codes) == len(POOL)
    assert {tuple(code) for code in codes.tolist()} == {tuple(code) for code in POOL.tolist()}
    _, nothing = searcher.ask(state, BATCH)
    np.testing.assert_array_equal(nothing, np.full((BATCH, POOL_SPACE.dims), -1))


def test_failed_trials_are_recorded_and_the_search_continues(searcher):
    def often_nan(codes):
        return np.where(codes.sum(axis=1) % 3 == 0, np.nan, value(codes))

    state, _, values = run(searcher, 8, value=often_nan)
    assert 0 < np.isnan(values).sum() < len(values)
    assert int((state.history.status == 3).sum()) == np.isnan(values).sum()
    assert all(
        bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)
    )


def test_a_search_in_which_everything_fails_continues(searcher):
    _, codes, _ = run(searcher, 6, value=lambda codes: np.full(len(codes), np.nan))
    assert len(np.unique(codes, axis=0)) == 24


def test_results_from_elsewhere_are_taken_in_and_not_proposed(searcher):
    elsewhere = run(lx.RandomSearch(searcher.space, pool=searcher.pool), 5, seed=9, value=value)[1]
    state, asked = searcher.init(jax.random.key(0)), []
    for batch in elsewhere.reshape(5, BATCH, searcher.space.dims):
        state = searcher.tell(state, batch, told(searcher, value(batch)))
    assert int(state.history.count) == 20
    for _ in range(3):
        state, codes = searcher.ask(state, BATCH)
        asked.append(np.asarray(codes))
    assert len(np.unique(np.concatenate([elsewhere, *asked]), axis=0)) == 32


@pytest.mark.parametrize(
    "kind", [lx.RandomSearch, pytest.param(lx.LaNAS, marks=pytest.mark.slow)], ids=["random", "lanas"]
)
def test_the_state_grows_past_its_first_capacity_without_losing_anything(kind):
    searcher = kind(POOL_SPACE, pool=POOL)
    small = dataclasses.replace(searcher, capacity=8)
    state, codes, values = run(small, 4)
    assert state.history.capacity == 16
    np.testing.assert_array_equal(state.history.codes, codes)
    np.testing.assert_array_equal(state.history.values, values)
    np.testing.assert_array_equal(codes, run(searcher, 4)[1])  # the same search as with room from the start


def test_numbers_are_inputs_of_the_programs(make):
    """Five settings of every number of a kind: asks and tells of the second to the fifth compile nothing."""
    searcher = make(POOL_SPACE, POOL)
    structure = jax.tree.structure(searcher)
    fields = {field.name: getattr(searcher, field.name) for field in dataclasses.fields(searcher) if field.init}
    others = {name: dataclasses.replace(searcher, **{name: _other(value, 1)}) for name, value in fields.items()}
    numbers = {name for name, other in others.items() if jax.tree.structure(other) == structure} - {"pool", "space"}
    assert {"ridge", "cp", "initial", "population"} & fields.keys() <= numbers
    run(searcher, 1)
    compiled, found = [], []

    def listen(event, seconds, **more):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for i in range(5):
            other = dataclasses.replace(searcher, **{name: _other(fields[name], i) for name in numbers})
            found.append(run(other, 6)[1])
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not compiled
    # They act: at least one setting searches another way, where a kind has numbers at all.
    assert any((codes != found[0]).any() for codes in found[1:]) == bool(numbers)


def _other(setting, i):
    """A valid setting near another one, of the same type; what is no number stays."""
    if isinstance(setting, bool):
        return bool(i % 2) ^ setting
    if isinstance(setting, int):
        return setting + i
    return setting * 1.5**i if isinstance(setting, float) else setting


def test_ask_and_tell_can_be_traced_into_one_program(traced_searcher):
    """Shapes and dtypes of a state stay what they are, whatever is asked and told."""
    searcher = traced_searcher

    def program(key):
        state = searcher.init(key)
        after, codes = searcher.ask(state, BATCH)
        after = searcher.tell(after, codes, told(searcher, jnp.mean(jnp.cos(codes.astype(jnp.float32)), axis=1)))
        assert jax.tree.structure(after) == jax.tree.structure(state)
        return jax.tree.leaves(state), jax.tree.leaves(after), codes

    before, after, codes = jax.eval_shape(program, jax.random.key(0))
    assert codes.shape == (BATCH, searcher.space.dims)
    assert [(leaf.shape, leaf.dtype) for leaf in before] == [(leaf.shape, leaf.dtype) for leaf in after]


@pytest.mark.slow
def test_a_jitted_search_is_that_of_ask_and_tell(jitted_searcher):
    searcher = jitted_searcher

    @jax.jit
    def program(key):
        def batch(state, _):
            state, codes = searcher.ask(state, BATCH)
            values = jnp.mean(jnp.cos(codes.astype(jnp.float32)), axis=1)
            return searcher.tell(state, codes, told(searcher, values)), codes

        return jax.lax.scan(batch, searcher.init(key), None, length=4)[1]

    codes = np.asarray(program(jax.random.key(0))).reshape(16, searcher.space.dims)
    np.testing.assert_array_equal(codes, run(searcher, 4, value=lambda c: jnp.mean(jnp.cos(jnp.float32(c)), axis=1))[1])


def test_invalid_results_are_refused_by_tell(make):
    searcher = make(POOL_SPACE, POOL)
    state = searcher.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"position 3 \(c3\) holds 4, expected 0 to 3"):
        searcher.tell(state, np.array([[0, 0, 0, 4, 0]]), told(searcher, jnp.zeros(1)))
    with pytest.raises(ValueError, match="codes need shape"):
        searcher.tell(state, np.array([[0, 0, 0, 1, 0]]), told(searcher, jnp.zeros(2)))


@pytest.mark.skipif(os.environ.get("LANAS_CHECK_SHAPES") == "1", reason="beartype refuses it first")
def test_a_list_of_choices_is_no_space(make):
    with pytest.raises(ValueError, match="space must be a SearchSpace; got "):
        make(POOL_SPACE.choices, POOL)


def test_equal_settings_are_equal_searchers(make):
    one, same = make(POOL_SPACE, POOL), make(POOL_SPACE, POOL)
    assert one == same
    assert hash(one) == hash(same)
    assert one != make(POOL_SPACE, POOL[::-1])
    assert one != dataclasses.replace(one, capacity=8)


@pytest.mark.slow
def test_another_process_asks_for_the_same_codes():
    script = """
import jax, json
jax.config.update("jax_num_cpu_devices", 4)
from tests.searchers.canonical import POOL, POOL_SPACE, run
import lanas_jax as lx
print(json.dumps(run(lx.LaNAS(POOL_SPACE, pool=POOL), 6)[1].tolist()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, cwd=".", text=True)
    codes = run(lx.LaNAS(POOL_SPACE, pool=POOL), 6)[1]
    np.testing.assert_array_equal(json.loads(done.stdout), codes)
