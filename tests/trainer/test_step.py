"""Steps of the winner's training: against NumPy, on one device and on four."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lanas_jax.runtime.devices import mesh_of
from lanas_jax.trainer import compilation
from lanas_jax.trainer import step as training
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import FinalTraining, Weights
from lanas_jax.training.augmentation import Augmentation
from lanas_jax.training.sgd import batch_order
from tests.trainer.linear_network import CLASSES, LinearNetwork
from tests.trainer.tiny_experiment import MIRRORED, RECIPE, Config, TinyNetwork, TinySpace, dataset

ALL = dataset(Config())


def compiled(network, recipe, devices=1, **more):
    final = FinalTraining(network, lambda: ALL, recipe, **more)
    return compilation.compile_training(final, ALL.search, jax.devices()[:devices])


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def followed(state, recipe, images, labels, order, total):
    """The same steps in NumPy, float64: parameters, their moving average, and losses."""
    params = {name: np.asarray(leaf, np.float64) for name, leaf in state.weights.params.items()}
    average, momentum = dict(params), {name: np.zeros_like(leaf) for name, leaf in params.items()}
    losses = []
    for step, rows in enumerate(order):
        x = (images[rows].reshape(len(rows), -1) / 255 - 0.5) / 0.5
        targets = np.eye(CLASSES)[labels[rows]] * (1 - recipe.label_smoothing) + recipe.label_smoothing / CLASSES
        gradient, loss = {"edge": np.zeros(())}, 0.0
        for name, weight in (("head", 1.0), ("auxiliary", recipe.auxiliary_weight)):
            probabilities = softmax(x @ params[name])
            loss -= weight * (targets * np.log(probabilities)).sum(axis=1).mean()
            gradient[name] = weight * x.T @ (probabilities - targets) / len(rows)
        norm = np.sqrt(sum((leaf**2).sum() for leaf in gradient.values()))
        rate = recipe.learning_rate * (1 + np.cos(np.pi * step / total)) / 2
        kept = min(recipe.ema, (1 + step) / (10 + step))
        for name in params:
            clipped = gradient[name] * min(1, recipe.clip / norm)
            momentum[name] = recipe.momentum * momentum[name] + clipped + recipe.weight_decay * params[name]
            params[name] = params[name] - rate * momentum[name]
            average[name] = kept * average[name] + (1 - kept) * params[name]
        losses.append(loss)
    return params, average, losses


def test_steps_are_those_of_numpy():
    """SGD with momentum, clipping that bites, weight decay, cosine, smoothing, auxiliary loss and moving average."""
    recipe = Recipe(
        epochs=1, batch_size=12, learning_rate=0.3, clip=0.5, weight_decay=0.01, label_smoothing=0.1, ema=0.6,
        steps_per_dispatch=11,
    )  # fmt: skip
    made = compiled(LinearNetwork(), recipe)
    assert made.total == 11  # 123 images, those of search-validation included
    images = np.concatenate([ALL.search.train.images, ALL.search.validation.images])
    labels = np.concatenate([ALL.search.train.labels, ALL.search.validation.labels])
    ordering = jax.random.split(jax.random.split(jax.random.key(0))[1])[0]
    order = np.asarray(batch_order(ordering, 123, 12, jnp.int32(0), 11))
    params, average, losses = followed(made.start(), recipe, images, labels, order, made.total)
    state, ours = made.advance(made.start(), 11)
    np.testing.assert_allclose(ours, losses, rtol=1e-4)
    for name in params:
        np.testing.assert_allclose(state.weights.params[name], params[name], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(state.average.params[name], average[name], rtol=1e-3, atol=1e-5)
    assert bool(state.is_finite)


def test_dropped_paths_grow_linearly_with_the_steps():
    recipe = Recipe(epochs=2, batch_size=12, drop_path=0.4, steps_per_dispatch=3, ema=None)
    made = compiled(LinearNetwork(), recipe)
    state, seen = made.start(), []
    assert state.average is None
    for until in (3, 6, 7, 8):
        state, _ = made.advance(state, until)
        seen.append(float(state.weights.batch_stats["dropped"]))
    np.testing.assert_allclose(seen, [0.4 * (step - 1) / 21 for step in (3, 6, 7, 8)], rtol=1e-6)


def test_auxiliary_head_counts_as_much_as_the_recipe_says():
    """Without its head, or with a weight of zero, its loss is missing and its parameters only decay."""
    recipe = Recipe(epochs=1, batch_size=12, steps_per_dispatch=1, weight_decay=0.0, auxiliary_weight=0.0)
    without, _ = (made := compiled(LinearNetwork(auxiliary=False), recipe)).advance(made.start(), 1)
    weightless, _ = (made := compiled(LinearNetwork(), recipe)).advance(made.start(), 1)
    assert float(without.loss) == float(weightless.loss)
    np.testing.assert_array_equal(weightless.weights.params["auxiliary"], made.start().weights.params["auxiliary"])


def test_finite_loss_with_broken_weights_stops_there():
    recipe = Recipe(epochs=1, batch_size=12, steps_per_dispatch=5)
    state, _ = (made := compiled(LinearNetwork(edge=True), recipe)).advance(made.start(), 5)
    assert int(state.step) == 1
    assert np.isfinite(state.loss)
    assert not bool(state.is_finite)


@pytest.fixture(scope="module")
def trained():
    """Seven steps of a convolutional network, with and without the batch spread over four devices."""
    network = TinyNetwork(TinySpace(), (0, 1))
    recipe = dataclasses.replace(RECIPE, steps_per_dispatch=7, drop_path=0.5)
    made = {devices: compiled(network, recipe, devices, augmentation=MIRRORED) for devices in (1, 4)}
    return {devices: (each, *each.advance(each.start(), 7)) for devices, each in made.items()}


def test_four_devices_train_as_one_does(trained):
    (_, one, losses), (made, four, theirs) = trained[1], trained[4]
    assert made.mesh.size == 4
    np.testing.assert_allclose(theirs, losses, rtol=2e-5)
    assert jax.tree.structure(four) == jax.tree.structure(one)
    for theirs, ours in zip(jax.tree.leaves(four), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-5)
    moved = np.abs(np.asarray(one.weights.params["stem"] - trained[1][0].start().weights.params["stem"])).max()
    assert moved > 1e-2  # so that the tolerance says something


def test_batch_is_spread_and_gradients_are_added_up(trained):
    """The compiled program of four devices convolves 3 images of 12 on each, and sums over devices."""
    made, _, _ = trained[4]
    text = made.program.as_text()
    assert "f32[3,6,6,8]" in text
    assert "f32[12,6,6,8]" not in text
    assert "all-reduce" in text


@pytest.mark.parametrize(
    ("over", "devices", "dtype"), [("device", 2, "float32"), ("device", 2, "bfloat16"), (2, 4, "float32")]
)
def test_devices_or_groups_of_them_normalise_their_own_images(over, devices, dtype):
    """Loss, statistics and gradient are means over halves of a batch; gradients are summed in the recipe's dtype."""
    recipe = dataclasses.replace(RECIPE, normalize_over=over, gradient_sum=dtype)
    mesh, network = mesh_of(jax.devices()[:devices], "data"), TinyNetwork(TinySpace(), (0, 1))
    task = training.TrainerTask(
        network, recipe, Augmentation(), CLASSES, None, NamedSharding(mesh, PartitionSpec("data"))
    )
    images = jnp.asarray(ALL.search.train.images[:12], jnp.float32) / 255
    batch = training.TrainingBatch(
        images, jax.nn.one_hot(ALL.search.train.labels[:12], CLASSES, dtype=jnp.float32), None
    )
    weights, key, dropped = Weights(*network.init(jax.random.key(0))), jax.random.key(1), jnp.float32(0.5)
    run = jax.jit(partial(training.descent, task))
    text = run.lower(weights, batch, key, dropped).as_text()
    assert ("bf16" in text) == (dtype == "bfloat16")
    halves = [
        jax.jit(partial(training.descent_over, task))(
            weights,
            jax.tree.map(lambda x, i=i: x[6 * i : 6 * i + 6], batch),
            *2 * [jax.random.fold_in(key, i)],
            dropped,
        )
        for i in range(2)
    ]
    expected = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    tolerance = 1e-5 if dtype == "float32" else 2**-7
    for ours, theirs in zip(jax.tree.leaves(run(weights, batch, key, dropped)), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * jnp.abs(theirs).max())


@pytest.mark.parametrize("precision", ["default", "high", "highest"])
def test_products_have_the_precision_of_the_recipe(precision):
    recipe = dataclasses.replace(RECIPE, matmul_precision=precision)
    sharding = NamedSharding(mesh_of(jax.devices()[:1], "data"), PartitionSpec("data"))
    task = training.TrainerTask(LinearNetwork(), recipe, Augmentation(), CLASSES, None, sharding)
    batch = training.TrainingBatch(
        jnp.asarray(ALL.search.train.images[:12], jnp.float32), jnp.ones((12, CLASSES)), None
    )
    weights = Weights(*task.network.init(jax.random.key(0)))
    program = jax.make_jaxpr(partial(training.descent, task))(weights, batch, jax.random.key(1), jnp.float32(0))
    expected = None if precision == "default" else 2 * (jax.lax.Precision(precision),)
    found = [equation.params["precision"] for equation in program.eqns if equation.primitive.name == "dot_general"]
    assert set(found) == {expected}


@pytest.mark.parametrize("devices", [1, 4])
def test_accuracy_counts_every_image_once(trained, devices):
    made, state, _ = trained[devices]
    logits, _, _ = made.task.network.apply(
        *jax.device_get(state.weights), jnp.asarray(ALL.test.images, jnp.float32) / 127.5 - 1, train=False,
        key=jax.random.key(0), drop_path=jnp.float32(0),
    )  # fmt: skip
    assert len(ALL.test) % made.task.recipe.batch_size  # so that the last batch is filled up
    expected = np.mean(np.argmax(logits, axis=1) == ALL.test.labels)
    np.testing.assert_allclose(made.accuracy(state.weights, ALL.test), expected, rtol=1e-6)
    assert 0 < expected < 1
    broken = Weights(jax.tree.map(jnp.zeros_like, state.weights.params), state.weights.batch_stats)
    assert made.accuracy(broken, ALL.test) == np.mean(ALL.test.labels == 0)
