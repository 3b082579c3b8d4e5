import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lanas_jax.candidates import step as training
from lanas_jax.candidates.step import CandidateTask
from lanas_jax.data.scaling import Scaling
from lanas_jax.training.sgd import TrainConfig, batch_order, cross_entropy, learning_rate, one_hot, optimizer
from tests.candidates.small_network import SPACE, SmallNetwork, stripes

NETWORK = SmallNetwork()
CODE = jnp.array([0, 1], jnp.int32)
PLAIN = TrainConfig(batch_size=8, learning_rate=0.05, weight_decay=0.0, clip=None)


start = jax.jit(training.start_candidate, static_argnums=0)
train = jax.jit(training.train_candidate, static_argnums=0, static_argnames="steps")
evaluate = jax.jit(training.evaluate, static_argnums=0)
apply = jax.jit(NETWORK.apply, static_argnames="train")


def task(config):
    return CandidateTask(NETWORK, config, classes=3)


def run(config, total, state=None, data=None, code=CODE, steps=5, until=None):
    """Trains for `steps` steps, by one program whatever the total."""
    images, labels = map(jnp.asarray, data or stripes(20))
    if state is None:
        state = start(task(config), code, jax.random.key(0))
    total, until = jnp.int32(total), jnp.int32(total if until is None else until)
    return train(task(config), state, code, total, until, images, labels, steps=steps)


def test_a_training_goes_no_further_than_asked():
    part = run(PLAIN, total=9, until=3)
    assert int(part.step) == 3
    whole = run(PLAIN, total=9, state=run(PLAIN, total=9, state=part), steps=5)
    for ours, theirs in zip(jax.tree.leaves(whole.params), jax.tree.leaves(run(PLAIN, 9, steps=9).params), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_images_of_8_bits_are_scaled_when_they_are_read():
    images, labels = stripes(20)
    bits, scaling = np.round(images * 255).astype(np.uint8), Scaling((0.5,), (0.25,))
    eight = CandidateTask(NETWORK, PLAIN, 3, scaling)
    scaled = (np.asarray(scaling(jnp.asarray(bits))), labels)
    state = start(eight, CODE, jax.random.key(0))
    steps = jnp.int32(4), jnp.int32(4)
    ours = train(eight, state, CODE, *steps, jnp.asarray(bits), jnp.asarray(labels), steps=5)
    theirs = run(PLAIN, total=4, data=scaled)
    for a, b in zip(jax.tree.leaves(ours.params), jax.tree.leaves(theirs.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    scores = [
        evaluate(eight, ours, CODE, jnp.asarray(bits), jnp.asarray(labels)),
        evaluate(task(PLAIN), ours, CODE, *map(jnp.asarray, scaled)),
    ]
    np.testing.assert_allclose(scores[0].loss, scores[1].loss, rtol=1e-4)


def test_cross_entropy_is_the_formula():
    logits = np.array([[1.0, 2.0, -1.0], [0.5, 0.0, 3.0]], np.float32)
    labels = np.array([1, 0], np.int32)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    plain = -log_p[[0, 1], labels]
    targets = one_hot(jnp.array(labels), 3)
    np.testing.assert_allclose(cross_entropy(jnp.array(logits), targets), plain, rtol=1e-6)
    smooth = 0.9 * plain - 0.1 * log_p.mean(1)
    np.testing.assert_allclose(cross_entropy(jnp.array(logits), targets, 0.1), smooth, rtol=1e-6)


@pytest.mark.parametrize(("step", "share"), [(0, 1.0), (25, 0.5 + 0.5**1.5), (50, 0.5), (100, 0.0)])
def test_the_rate_falls_along_half_a_cosine(step, share):
    rate = learning_rate(TrainConfig(learning_rate=0.2), jnp.int32(step), jnp.int32(100))
    np.testing.assert_allclose(rate, 0.2 * share, atol=1e-7)


def test_a_rate_without_warm_up_divides_no_zero_by_zero():
    with jax.debug_nans(True):
        rate = learning_rate(TrainConfig(learning_rate=0.2), jnp.int32(0), jnp.int32(100))
    np.testing.assert_allclose(rate, 0.2, rtol=1e-6)


@pytest.mark.parametrize(
    ("images", "batch", "chunk"),
    [(20, 8, 3), (20, 8, 1), (16, 4, 5), (7, 10, 2), (1, 1, 2), (30, 7, 40)],
)
def test_every_image_comes_once_per_epoch_however_the_training_is_cut(images, batch, chunk):
    epochs = 3
    steps = TrainConfig(batch_size=batch).steps(images, epochs)
    key = jax.random.key(5)
    order = jax.jit(batch_order, static_argnums=(1, 2, 4))
    parts = [order(key, images, batch, jnp.int32(i), chunk) for i in range(0, steps, chunk)]
    stream = np.concatenate(parts).reshape(-1)
    for epoch in range(epochs):
        assert sorted(stream[epoch * images : (epoch + 1) * images]) == list(range(images))
    whole = np.asarray(order(key, images, batch, jnp.int32(0), steps)).reshape(-1)
    np.testing.assert_array_equal(stream[: steps * batch], whole)


def test_epochs_differ_in_their_order():
    order = np.asarray(batch_order(jax.random.key(0), 50, 50, jnp.int32(0), 2))
    assert (order[0] != order[1]).any()


def test_steps_are_those_of_optax_sgd():
    images, labels = map(jnp.asarray, stripes(20))
    state = start(task(PLAIN), CODE, jax.random.key(0))
    trained = run(PLAIN, total=6, state=state)

    def loss(params, stats, rows):
        logits, stats = NETWORK.apply(params, stats, CODE, images[rows], train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean(), stats

    sgd = optax.sgd(optax.cosine_decay_schedule(PLAIN.learning_rate, 6), PLAIN.momentum, PLAIN.nesterov)

    @jax.jit
    def step(params, stats, memory, rows):
        slope, stats = jax.grad(loss, has_aux=True)(params, stats, rows)
        with jax.numpy_dtype_promotion("standard"):  # optax's schedule divides an integer
            updates, memory = sgd.update(slope, memory, params)
        return optax.apply_updates(params, updates), stats, memory

    params, stats, memory = state.params, state.batch_stats, sgd.init(state.params)
    for rows in batch_order(state.key, 20, 8, jnp.int32(0), 5):
        params, stats, memory = step(params, stats, memory, rows)
    for ours, theirs in zip(jax.tree.leaves(trained.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-6)
    for ours, theirs in zip(jax.tree.leaves(trained.batch_stats), jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-6)


def directions(config, gradients, params):
    """What the optimiser makes of a sequence of gradients, at parameters that stay."""
    transformation = optimizer(config)
    memory = transformation.init(params)
    for gradient in gradients:
        direction, memory = transformation.update(gradient, memory, params)
        yield direction


def test_clipping_bounds_the_norm_of_all_gradients_together():
    gradient = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    config = dataclasses.replace(PLAIN, momentum=0.0)
    (free,) = directions(config, [gradient], gradient)
    np.testing.assert_allclose(optax.tree.norm(free), 5.0, rtol=1e-6)
    (clipped,) = directions(dataclasses.replace(config, clip=1.0), [gradient], gradient)
    np.testing.assert_allclose(clipped["a"], [0.6, 0.0], rtol=1e-6)
    np.testing.assert_allclose(clipped["b"], [[0.8]], rtol=1e-6)


def test_weight_decay_comes_after_clipping():
    config = dataclasses.replace(PLAIN, momentum=0.0, clip=1.0, weight_decay=0.1)
    (direction,) = directions(config, [jnp.array([3.0, 4.0])], jnp.array([10.0, -20.0]))
    np.testing.assert_allclose(direction, [0.6 + 1.0, 0.8 - 2.0], rtol=1e-6)


def test_momentum_is_the_recurrence():
    gradients, zero = [jnp.array([1.0]), jnp.array([0.0]), jnp.array([2.0])], jnp.array([0.0])
    heavy = list(directions(dataclasses.replace(PLAIN, momentum=0.5, nesterov=False), gradients, zero))
    np.testing.assert_allclose(heavy, [[1.0], [0.5], [2.25]])
    ahead = list(directions(dataclasses.replace(PLAIN, momentum=0.5), gradients, zero))
    np.testing.assert_allclose(ahead, [[1.5], [0.25], [3.125]])


def test_a_training_cut_in_pieces_is_the_same_training():
    whole = run(PLAIN, total=9, steps=9)
    state = None
    for _ in range(2):
        state = run(PLAIN, total=9, state=state)
    assert int(state.step) == int(whole.step) == 9
    np.testing.assert_array_equal(jax.random.key_data(state.key), jax.random.key_data(whole.key))
    for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_training_learns():
    state = None
    for _ in range(12):
        state = run(PLAIN, total=60, state=state)
    scores = evaluate(task(PLAIN), state, CODE, *map(jnp.asarray, stripes(20)))
    assert scores.accuracy > 0.9


@pytest.mark.parametrize("batch_size", [7, 20, 64])
def test_evaluation_reads_every_image_once_with_running_statistics(batch_size):
    images, labels = map(jnp.asarray, stripes(20))
    state = run(PLAIN, total=6)
    config = dataclasses.replace(PLAIN, batch_size=batch_size)
    scores = evaluate(task(config), state, CODE, images, labels)
    logits, stats = apply(state.params, state.batch_stats, CODE, images, train=False)
    np.testing.assert_allclose(scores.accuracy, np.mean(np.argmax(logits, 1) == labels), rtol=1e-6)
    np.testing.assert_allclose(scores.loss, cross_entropy(logits, one_hot(labels, 3)).mean(), rtol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(stats), jax.tree.leaves(state.batch_stats), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_loss_that_is_not_finite_stops_the_training_at_its_step():
    images, labels = stripes(40)
    images[17] = 3.0
    code = jnp.array([SPACE.choices[0].options.index("root"), 1], jnp.int32)
    state = run(PLAIN, total=5, data=(images, labels), code=code)
    order = batch_order(start(task(PLAIN), code, jax.random.key(0)).key, 40, 8, jnp.int32(0), 5)
    broken = 1 + int(np.argwhere((np.asarray(order) == 17).any(axis=1))[0, 0])
    assert int(state.step) == broken
    assert np.isnan(state.loss)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", -1.0),
        ("momentum", 1.0),
        ("clip", 0.0),
        ("weight_decay", -1.0),
    ],
)
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        TrainConfig(**{field: value})
