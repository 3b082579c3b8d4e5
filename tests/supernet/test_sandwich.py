"""The sandwich rule: its gradient by its definition, its codes, and a training from its beginning to its end."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lanas_jax.evaluators.base import NotPreparedError
from lanas_jax.evaluators.one_shot import OneShot
from lanas_jax.runtime.devices import mesh_of
from lanas_jax.storage.folder import RunError
from lanas_jax.storage.metrics import read_metrics
from lanas_jax.supernet.sandwich import Sandwich
from lanas_jax.supernet.training import SampledSupernet, SupernetTraining, train_supernet
from lanas_jax.supernet.valuation import Valuation
from lanas_jax.supernet.watching import watched_images
from lanas_jax.trainer import compilation
from lanas_jax.trainer import step as training
from lanas_jax.trainer.folder import COLUMNS
from lanas_jax.trainer.task import Weights
from lanas_jax.training.augmentation import Augmentation
from tests.supernet.linear_supernet import CLASSES, RECIPE, SCALING, SPACE, LinearSupernet, dataset, stripes
from tests.supernet.notes import Note
from tests.trees import same

DATA = dataset().search
CODES = SPACE.enumerate()
LARGEST, SMALLEST = (0, 0), (2, 2)
RULE = Sandwich(LARGEST, SMALLEST, random=2)
OFTEN = dataclasses.replace(RECIPE, checkpoint_seconds=0.0, label_smoothing=0.1)
TRAINING = SupernetTraining(LinearSupernet(), CODES, OFTEN, sandwich=RULE)
TWO = dataclasses.replace(RULE, random=0).network(LinearSupernet(), CODES)  # the two ends alone
DEVICES = jax.devices()[:1]


def batch(n=12):
    split = stripes(n, 7)
    return SCALING(jnp.asarray(split.images)), jax.nn.one_hot(split.labels, CLASSES) * 0.9 + 0.1 / CLASSES


def started(seed=4):
    return Weights(*LinearSupernet().init(jax.random.key(seed)))


def logits_of(params, code, images):
    """In training: by the statistics of the batch, so the running ones do not matter."""
    return LinearSupernet().apply(params, started().batch_stats, jnp.array(code), images, train=True)[0]


def cross(logits, targets):
    return -(targets * jax.nn.log_softmax(logits)).sum(axis=1).mean()


def test_gradient_is_that_of_the_definition():
    """The mean of four gradients: of the largest part on the labels, of others on what it said, held as numbers."""
    key, (images, targets), weights = jax.random.key(2), batch(), started()
    loss, _, gradient = jax.jit(TRAINING.network.gradient)(weights, images, targets, key, key)
    codes = list(map(tuple, TRAINING.network.drawn(key).tolist()))
    assert codes[:2] == [LARGEST, SMALLEST]
    said = np.asarray(jax.nn.softmax(logits_of(weights.params, LARGEST, images)))
    losses = [lambda p, code=code: cross(logits_of(p, code, images), jnp.asarray(said)) for code in codes[1:]]
    losses.insert(0, lambda p: cross(logits_of(p, LARGEST, images), targets))
    found = jax.jit(lambda p: [jax.value_and_grad(each)(p) for each in losses])(weights.params)
    np.testing.assert_allclose(loss, np.mean([each[0] for each in found]), rtol=1e-5)
    expected = np.mean([each[1]["kernel"] for each in found], axis=0)
    np.testing.assert_allclose(gradient["kernel"], expected, rtol=1e-4, atol=1e-6)
    summing = dataclasses.replace(RULE, gradient="sum").network(LinearSupernet(), CODES)
    same_loss, _, total = jax.jit(summing.gradient)(weights, images, targets, key, key)
    np.testing.assert_allclose(total["kernel"], 4 * gradient["kernel"], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(same_loss, loss)


def test_what_the_largest_part_said_carries_no_gradient():
    """Where it did, the gradient of the options that the largest part alone uses would be another one.

    The middle option of each choice is in neither of the two parts.
    """
    (images, targets), weights = batch(), started()
    gradient = jax.jit(TWO.gradient)(weights, images, targets, *jax.random.split(jax.random.key(0)))[2]["kernel"]

    def learning_from_the_others(params):
        largest = logits_of(params, LARGEST, images)
        smallest = cross(logits_of(params, SMALLEST, images), jax.nn.softmax(largest))
        return (cross(largest, targets) + smallest) / 2

    alone = jax.grad(lambda p: cross(logits_of(p, LARGEST, images), targets) / 2)(weights.params)["kernel"]
    both = jax.grad(learning_from_the_others)(weights.params)["kernel"]
    np.testing.assert_allclose(gradient[:, 0], alone[:, 0], rtol=1e-4, atol=1e-6)
    assert np.abs(gradient[:, 0] - both[:, 0]).max() > 0.01
    assert (np.asarray(gradient[:, 1]) == 0).all()


def test_statistics_follow_from_pass_to_pass():
    """Those of the options of either part move once, those of the others stay."""
    (images, targets), weights = batch(), started()
    _, stats, _ = jax.jit(TWO.gradient)(weights, images, targets, *jax.random.split(jax.random.key(0)))
    expected = weights.batch_stats
    for code in (LARGEST, SMALLEST):
        _, expected = LinearSupernet().apply(weights.params, expected, jnp.array(code), images, train=True)
    for name, found in stats.items():
        np.testing.assert_allclose(found, expected[name], rtol=1e-5, atol=1e-6)
        assert (np.asarray(found[:, 1]) == np.asarray(weights.batch_stats[name][:, 1])).all()


@pytest.mark.parametrize("network", [TRAINING.network, SampledSupernet(LinearSupernet(), CODES)], ids=["all", "one"])
def test_devices_train_the_same_parts_on_their_own_images(network):
    """With statistics of each device: the mean of two halves of a batch, with the same key."""
    recipe = dataclasses.replace(OFTEN, normalize_over="device", label_smoothing=0.0)
    sharding = NamedSharding(mesh_of(jax.devices()[:2], "data"), PartitionSpec("data"))
    task = training.TrainerTask(network, recipe, Augmentation(), CLASSES, None, sharding)
    (images, targets), weights, key, dropped = batch(), started(), jax.random.key(2), jnp.float32(0)
    found = jax.jit(partial(training.descent, task))(
        weights, training.TrainingBatch(images, targets, None), key, dropped
    )
    half = jax.jit(partial(training.descent_over, task))
    halves = [
        half(weights, training.TrainingBatch(images[rows], targets[rows], None), key, key, dropped)
        for rows in (slice(6), slice(6, 12))
    ]
    expected = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected)


def test_random_parts_come_from_the_pool_and_all_of_it():
    """240 draws of 3: one is missing with probability 3 * (2 / 3)**240 < 1e-41."""
    pool = np.array([[1, 1], [1, 2], [2, 1]], np.int32)
    network = Sandwich(LARGEST, SMALLEST, random=40).network(LinearSupernet(), pool)
    codes = jax.vmap(network.drawn)(jax.random.split(jax.random.key(0), 6))
    assert codes.shape == (6, 42, 2)
    assert (codes[:, 0] == jnp.array(LARGEST)[None]).all()
    assert (codes[:, 1] == jnp.array(SMALLEST)[None]).all()
    assert np.unique(codes[:, 2:].reshape(-1, 2), axis=0).tolist() == pool.tolist()
    assert not (codes[0] == codes[1]).all()


def test_it_is_read_as_its_largest_part():
    (images, _), weights = batch(), started()
    found, auxiliary, _ = TRAINING.network.apply(
        *weights, images, train=False, key=jax.random.key(0), drop_path=jnp.float32(0)
    )
    expected, _ = LinearSupernet().apply(*weights, jnp.array(LARGEST), images, train=False)
    np.testing.assert_array_equal(found, expected)
    assert auxiliary is None


@pytest.fixture(scope="module")
def made():
    """Forty steps of four passes."""
    return compilation.compile_training(TRAINING, DATA, DEVICES)


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """The folder and the weights of a training that was not interrupted."""
    directory = tmp_path_factory.mktemp("whole") / "supernet"
    return directory, carried_out(directory, made).weights


def carried_out(directory, made=None, note=None, training=TRAINING):
    return train_supernet(training, DATA, directory, note or Note(), devices=DEVICES, programs=made)


def test_the_loss_falls(whole):
    """From that of random weights to below that of chance, ln 3, smoothed labels and all."""
    losses = [float(line.split(",")[2]) for line in (whole[0] / "metrics.csv").read_text().splitlines()[1:]]
    assert len(losses) == 40
    assert np.mean(losses[-10:]) < 0.9 * np.log(3)
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:3])


@pytest.mark.parametrize("stop", [2, 5])
def test_an_interrupted_training_continues_to_the_same_bits(whole, made, tmp_path, stop):
    with pytest.raises(KeyboardInterrupt):
        carried_out(tmp_path / "part", made, Note(stop))
    found = carried_out(tmp_path / "part", made)
    assert same(found.weights, whole[1])
    assert (tmp_path / "part" / "metrics.csv").read_bytes() == (whole[0] / "metrics.csv").read_bytes()


def test_watching_changes_no_weight_and_measures_as_a_search_does(whole, made, tmp_path):
    """After each epoch, interrupted or not; 30 of the 50 search-validation images."""
    watched, note = dataclasses.replace(TRAINING, watched=30), Note()
    found = carried_out(tmp_path / "watched", made, note, watched).weights
    assert same(found, whole[1])
    columns = read_metrics(tmp_path / "watched" / "metrics.csv")
    assert [name for name in columns if name not in COLUMNS] == [
        "largest_accuracy", "smallest_accuracy", "random1_accuracy", "random2_accuracy", "random3_accuracy",
    ]  # fmt: skip
    measured = np.flatnonzero(~np.isnan(columns["largest_accuracy"]))
    assert (1 + measured).tolist() == [10, 20, 30, 40]
    images = watched_images(DATA, 30, watched.seed)
    assert (len(images.train), len(images.validation)) == (len(DATA.train), 30)
    codes = np.array([LARGEST, SMALLEST, *CODES[:3]])
    expected = Valuation(LinearSupernet(), images, len(images.train), devices=DEVICES, per_device=5)(found, codes)
    last = [columns[name][-1] for name in columns if name not in COLUMNS]
    np.testing.assert_allclose(last, expected.accuracy, rtol=1e-6)
    assert f"largest {100 * last[0]:.1f} %, smallest {100 * last[1]:.1f} %, random1" in note.lines[-1]
    with pytest.raises(KeyboardInterrupt):
        carried_out(tmp_path / "part", made, Note(5), watched)
    carried_out(tmp_path / "part", made, training=watched)
    assert (
        read_metrics(tmp_path / "part" / "metrics.csv")["smallest_accuracy"][9::10]
        == columns["smallest_accuracy"][9::10]
    )


def test_its_codes_are_data_to_the_program(made):
    """Another pool of the same size and other ends: the same program, and the options of those alone learn."""
    begun = made.start().weights.params["kernel"]
    other = SupernetTraining(LinearSupernet(), CODES[[4] * len(CODES)], OFTEN, sandwich=Sandwich((1, 1), (1, 1)))
    here = made.rebind(other)
    state, _ = here.advance(here.start(), 7)
    moved = np.abs(np.asarray(state.weights.params["kernel"] - begun)).max(axis=(2, 3)) > 0
    assert CODES[4].tolist() == [1, 1]
    assert moved.tolist() == [[False, True, False]] * 2


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (None, r"the settings: sandwich\.drop_path 0\.0, now absent; .*sandwich\.largest \[0, 0\], now absent; "),
        (Sandwich((0, 1), SMALLEST), r"the settings: sandwich\.largest \[0, 0\], now \[0, 1\]"),
        (Sandwich(LARGEST, SMALLEST, 1), r"the settings: sandwich\.random 2, now 1"),
    ],
)
def test_another_way_to_train_is_refused_and_named(whole, rule, message):
    with pytest.raises(RunError, match=rf"holds a different supernet: {message}"):
        carried_out(whole[0], training=dataclasses.replace(TRAINING, sandwich=rule))


@pytest.mark.parametrize(
    ("rule", "recipe", "message"),
    [
        (Sandwich((0, 3), SMALLEST), {}, r"the sandwich's largest subnetwork: code 0: position 1 \(second\) holds 3"),
        (Sandwich(LARGEST, (2,)), {}, r"the sandwich's smallest subnetwork: codes must have shape \[n, 2\]"),
        (
            dataclasses.replace(RULE, dropout=0.2),
            {},
            "dropout and drop_path of a sandwich must be 0 with a LinearSupernet, which has no largest subnetwork",
        ),
        (RULE, {"passes": 2}, "passes must be 1 with a sandwich, which defines its own passes; got 2"),
        (RULE, {"distillation": 0.5}, "distillation must be 0 for a supernet, which has no teacher; got 0.5"),
        (None, {"distillation": 0.5}, "distillation must be 0 for a supernet, which has no teacher; got 0.5"),
        (RULE, {"drop_path": 0.2}, r"drop_path must be 0 for a supernet, .* \(Sandwich\.drop_path\); got 0\.2"),
        (None, {"auxiliary_weight": 0.4}, r"auxiliary_weight must be 0 for a supernet, .* no auxiliary head; got 0\.4"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(rule, recipe, message):
    with pytest.raises(ValueError, match=message):
        SupernetTraining(LinearSupernet(), CODES, dataclasses.replace(OFTEN, **recipe), sandwich=rule)


def test_an_evaluator_refuses_as_evaluators_do(tmp_path):
    evaluator = OneShot(LinearSupernet(), lambda: DATA, OFTEN, sandwich=Sandwich((0, 3), SMALLEST))
    with pytest.raises(NotPreparedError, match="the sandwich's largest subnetwork: code 0: position 1"):
        evaluator.prepare(tmp_path, print)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"random": -1}, "random must not be negative; got -1"),
        ({"gradient": "product"}, "gradient must be 'mean' or 'sum'; got 'product'"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\); got 1.0"),
        ({"drop_path": -0.1}, r"drop_path must be in \[0, 1\); got -0.1"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_settings_out_of_range(setting, message):
    with pytest.raises(ValueError, match=message):
        Sandwich(LARGEST, SMALLEST, **setting)


@pytest.mark.slow
def test_one_shot_values_are_of_a_supernet_trained_so(tmp_path):
    """And the largest part, taught by labels, is no worse than the smallest, which sees 4 of 36 pixels."""
    evaluator = OneShot(LinearSupernet(), lambda: DATA, OFTEN, recalibration=48, batch_size=16, sandwich=RULE)
    evaluator.prepare(tmp_path, lambda line: None)
    record = json.loads((tmp_path / "supernet" / "training.json").read_text())
    assert record["settings"]["sandwich"] == {
        "largest": [0, 0], "smallest": [2, 2], "random": 2, "gradient": "mean", "dropout": 0.0, "drop_path": 0.0,
    }  # fmt: skip
    large, small = evaluator.evaluate(np.array([LARGEST, SMALLEST]), jax.random.split(jax.random.key(0), 2))
    assert large.value > small.value
