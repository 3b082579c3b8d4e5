"""Steps of a supernet: codes from its pool, programs that other trainings share, and weights to begin with."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax.candidates.population import forget_programs
from lanas_jax.storage.weights import names
from lanas_jax.supernet.training import SampledSupernet, SupernetTraining, train_supernet
from lanas_jax.trainer import compilation
from lanas_jax.trainer.task import Weights
from tests.candidates.compilations import counted
from tests.supernet.linear_supernet import PIXELS, RECIPE, SPACE, LinearSupernet, dataset
from tests.trees import same

DATA = dataset().search
CODES = SPACE.enumerate()
WHOLE = SupernetTraining(LinearSupernet(), CODES, RECIPE)


def compiled(training=WHOLE, devices=1):
    return compilation.compile_training(training, DATA, jax.devices()[:devices])


def carried_out(made):
    """The state after the last step, and all losses."""
    state, losses = made.start(), []
    while int(state.step) < made.total:
        before = int(state.step)
        state, some = made.advance(state, made.total)
        losses += np.asarray(some)[: int(state.step) - before].tolist()
    return state, np.array(losses)


@pytest.fixture(scope="module")
def made():
    """Forty steps on codes of the whole space."""
    return compiled()


@pytest.fixture(scope="module")
def trained(made):
    return carried_out(made)


def test_a_training_learns(trained):
    """Chance is a loss of ln 3; the weights of every option have moved."""
    state, losses = trained
    assert losses[-10:].mean() < 0.8 * np.log(3)
    moved = np.abs(np.asarray(state.weights.params["kernel"] - compiled_start_kernel()))
    assert (moved.max(axis=(2, 3)) > 0.01).all()


def compiled_start_kernel():
    first, _ = jax.random.split(jax.random.key(0))
    return LinearSupernet().init(first)[0]["kernel"]


def test_weights_that_no_code_picks_stay_without_decay(made):
    """In the pool is one code, so one option of each choice learns."""
    state, _ = carried_out(made.rebind(dataclasses.replace(WHOLE, codes=CODES[[5] * len(CODES)])))
    begun = made.start().weights
    for choice, option in np.ndindex(2, 3):
        picked = CODES[5, choice] == option
        for now, before in zip(jax.tree.leaves(state.weights), jax.tree.leaves(begun), strict=True):
            assert np.array_equal(now[choice, option], before[choice, option]) != picked


class Traced(LinearSupernet):
    """Gives the code that it is run with in place of batch statistics."""

    def apply(self, params, batch_stats, code, images, *, train):
        return jnp.zeros((1, 3)), code


def test_codes_are_drawn_from_the_pool_and_all_of_them():
    """400 draws of 4: one is missing with probability 4 * 0.75**400 < 1e-49, off by 40 with probability < 1e-4."""
    pool = np.array([[0, 1], [2, 2], [1, 0], [2, 0]], np.int32)

    def drawn(key):
        images = jnp.zeros((1, 1, 1, 1))
        return SampledSupernet(Traced(), pool).apply((), (), images, train=True, key=key, drop_path=jnp.float32(0))[2]

    found = np.asarray(jax.vmap(drawn)(jax.random.split(jax.random.key(3), 400)))
    codes, counts = np.unique(found, axis=0, return_counts=True)
    assert codes.tolist() == sorted(pool.tolist())
    assert (abs(counts - 100) < 40).all()


def test_four_devices_train_as_one_does(trained):
    state, losses = carried_out(made := compiled(devices=4))
    assert made.mesh.size == 4
    np.testing.assert_allclose(losses, trained[1], rtol=2e-5)
    for theirs, ours in zip(jax.tree.leaves(state.weights), jax.tree.leaves(trained[0].weights), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=2e-5)


def test_programs_serve_another_pool_seed_and_other_first_weights(made, trained):
    """As compiled anew, to the bit; and without compiling."""
    initial = {name: np.asarray(x) for name, x in names(trained[0].weights).items()}
    other = SupernetTraining(LinearSupernet(), np.resize(CODES[3:7], CODES.shape), RECIPE, seed=5, initial=initial)
    shared = made.rebind(other)
    assert shared.program is made.program
    forget_programs()
    anew = compiled(other)
    assert anew.program is not made.program
    (state, losses), (again, expected) = carried_out(shared), carried_out(anew)
    np.testing.assert_array_equal(losses, expected)
    assert same(state, again)
    assert losses[0] != trained[1][0]


def test_a_process_compiles_once_for_all_pools_seeds_and_numbers():
    """Two that differ in them, and one whose pool has another size."""
    first = compiled()
    recipe = dataclasses.replace(RECIPE, learning_rate=0.5 * RECIPE.learning_rate)
    pool = np.resize(CODES[3:7], CODES.shape)
    with counted() as compilations:
        other = compiled(SupernetTraining(LinearSupernet(), pool, recipe, seed=5))
    assert other.program is first.program
    assert not compilations
    np.testing.assert_array_equal(other.data.network, pool)
    assert compiled(dataclasses.replace(WHOLE, codes=CODES[:4])).program is not first.program


def test_given_weights_survive_the_training(made):
    """Those of a training before, on the same devices: a state is consumed, so it must not be made of them."""
    given = jax.tree.map(jnp.copy, made.start().weights)
    given = given._replace(params={"kernel": given.params["kernel"] + 1})
    expected = jax.tree.map(lambda x: np.array(x, copy=True), made.start().weights)
    expected.params["kernel"] += 1
    shared = made.rebind(dataclasses.replace(WHOLE, initial=names(given)))
    for _ in range(2):
        state, _ = carried_out(shared)
        assert not same(state.weights, expected)
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(given))
    assert same(given, expected)
    assert same(shared.start().weights, expected)


def test_moving_average_begins_with_the_given_weights_and_is_what_a_training_gives(tmp_path):
    """Its decay keeps at most (1 + n) / (10 + n) of itself after step n, from 0."""
    recipe = dataclasses.replace(RECIPE, epochs=1, ema=0.9, steps_per_dispatch=1)
    initial = {"params/kernel": np.full((2, 3, PIXELS, 3), 0.25, np.float32)}
    training = dataclasses.replace(WHOLE, recipe=recipe, initial=initial)
    made = compiled(training)
    state = made.start()
    average = jax.tree.map(np.array, state.average)
    np.testing.assert_array_equal(average.params["kernel"], 0.25)
    for step in range(made.total):
        state, _ = made.advance(state, made.total)
        kept = min(0.9, (1 + step) / (10 + step))
        average = jax.tree.map(lambda a, w, kept=kept: kept * a + (1 - kept) * np.asarray(w), average, state.weights)
    found = train_supernet(
        training, DATA, tmp_path / "averaged", print, devices=jax.devices()[:1], programs=made
    ).weights
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(average), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not np.allclose(found.params["kernel"], state.weights.params["kernel"], atol=1e-2)


def test_arrays_of_numpy_survive_the_training(made):
    kernel = np.random.default_rng(0).normal(size=(2, 3, PIXELS, 3)).astype(np.float32)
    before = kernel.copy()
    shared = made.rebind(dataclasses.replace(WHOLE, initial={"params/kernel": kernel}))
    begun = shared.start()
    np.testing.assert_array_equal(begun.weights.params["kernel"], before)
    np.testing.assert_array_equal(begun.weights.batch_stats["var"], 1)  # not given, so drawn
    carried_out(shared)
    np.testing.assert_array_equal(kernel, before)


def test_weights_of_another_network_are_named(made):
    initial = {"params/kernel": np.zeros((2, 3, PIXELS, 4), np.float32)}
    with pytest.raises(ValueError, match=r"params/kernel is float32\[2, 3, 36, 4\], expected float32\[2, 3, 36, 3\]"):
        made.rebind(dataclasses.replace(WHOLE, initial=initial)).start()


def test_passes_draw_codes_of_their_own():
    """One step of two passes on a pool of two codes moves the options of one code or of both: seeds show either."""
    recipe = dataclasses.replace(RECIPE, passes=2, steps_per_dispatch=1)
    made = compiled(SupernetTraining(LinearSupernet(), CODES[[0, 8]], recipe))
    counts = set()
    for seed in range(8):  # all alike with probability 2 / 2**8
        here = made.rebind(SupernetTraining(LinearSupernet(), CODES[[0, 8]], recipe, seed=seed))
        begun = Weights(*jax.tree.map(np.array, tuple(here.start().weights)))
        state, _ = here.advance(here.start(), 1)
        moved = np.abs(np.asarray(state.weights.params["kernel"]) - begun.params["kernel"]).max(axis=(2, 3)) > 0
        assert not moved[:, 1].any()
        assert moved[0].tolist() == moved[1].tolist()
        counts.add(int(moved[0].sum()))
    assert counts == {1, 2}
