"""Values of parts, against NumPy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax.runtime.profiling import recording
from lanas_jax.supernet.valuation import Valuation
from lanas_jax.trainer.task import Weights
from tests.candidates.compilations import counted
from tests.supernet.linear_supernet import (
    CLASSES,
    PIXELS,
    SPACE,
    LinearSupernet,
    VariedSupernet,
    dataset,
    logits_by_hand,
    moments_by_hand,
)

DATA = dataset().search
CODES = SPACE.enumerate()
SETTINGS = {"recalibration": 50, "batch_size": 16, "per_device": 4, "seed": 3}


def weights(seed=0):
    """As if trained for a while: values are between chance and all."""
    random = np.random.default_rng(seed)
    patterns = np.stack([DATA.train.images[DATA.train.labels == k].mean((0, 3)).ravel() for k in range(CLASSES)], 1)
    kernel = (patterns - patterns.mean(1, keepdims=True)) / 255 + random.normal(0, 0.1, (2, 3, PIXELS, CLASSES))
    shape = (2, 3, CLASSES)
    stats = {"mean": random.normal(size=shape), "var": random.uniform(0.5, 2, shape)}
    return Weights(*jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), ({"kernel": kernel}, stats)))


WEIGHTS = weights()


def valuation(devices=1, supernet=None, **changes):
    return Valuation(supernet or LinearSupernet(), DATA, devices=jax.devices()[:devices], **SETTINGS | changes)


def statistics_by_hand(code, recalibration=50, batch_size=16, seed=3):
    """Means over batches of the drawn images; a batch that they do not fill is left out."""
    drawn = np.random.default_rng(seed).permutation(len(DATA.train))[:recalibration]
    batches = [drawn[i : i + batch_size] for i in range(0, recalibration - batch_size + 1, batch_size)]
    moments = [moments_by_hand(WEIGHTS.params["kernel"], code, DATA.train.images[rows]) for rows in batches]
    return [np.mean(column, axis=0) for column in zip(*moments, strict=True)]


def values_by_hand(code, mean, var):
    logits = logits_by_hand(WEIGHTS.params["kernel"], mean, var, code, DATA.validation.images)
    rows = np.arange(len(logits))
    losses = np.log(np.exp(logits).sum(1)) - logits[rows, DATA.validation.labels]
    return np.mean(logits.argmax(1) == DATA.validation.labels), losses.mean()


@pytest.fixture(scope="module")
def one():
    """Fifty validation images in batches of 16, so that the last one is filled up."""
    return valuation()


def test_valuations_of_other_images_share_programs(one, values, tmp_path):
    """Their own values, by what the first one compiled."""
    images = dataclasses.replace(DATA.validation, labels=np.roll(DATA.validation.labels, 1))
    other = Valuation(
        LinearSupernet(), dataclasses.replace(DATA, validation=images), devices=jax.devices()[:1], **SETTINGS
    )
    with counted() as compilations, recording(tmp_path) as traced:
        for _ in range(2):
            found = other(WEIGHTS, CODES)
    assert not compilations
    assert traced == ["values"]
    assert (found.loss != values.loss).all()


@pytest.fixture(scope="module")
def values(one):
    return one(WEIGHTS, CODES)


def test_values_are_those_of_numpy(values):
    expected = np.array([values_by_hand(code, *statistics_by_hand(code)) for code in CODES])
    np.testing.assert_allclose(values.accuracy, expected[:, 0], rtol=1e-6)
    np.testing.assert_allclose(values.loss, expected[:, 1], rtol=1e-4)
    assert len(set(values.accuracy.tolist())) > 3
    assert values.accuracy.min() > 0.34


def test_each_variant_has_a_program(values):
    """Which would value the codes of others wrongly."""
    varied = valuation(devices=2, supernet=VariedSupernet())
    shuffled = np.random.default_rng(0).permutation(len(CODES))
    with counted() as compilations:
        found = varied(WEIGHTS, CODES[shuffled])
    np.testing.assert_allclose(found.accuracy, values.accuracy[shuffled], rtol=1e-6)
    np.testing.assert_allclose(found.loss, values.loss[shuffled], rtol=1e-5)
    assert len(compilations) == len(varied.variants) == 3
    mean, _ = statistics_by_hand(CODES[5])
    statistics = varied.statistics(WEIGHTS, CODES[5])
    np.testing.assert_allclose(statistics["mean"][np.arange(2), CODES[5]], mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("code", CODES[[1, 5]])
def test_statistics_are_means_over_batches(one, code):
    found = one.statistics(WEIGHTS, code)
    mean, var = statistics_by_hand(code)
    np.testing.assert_allclose(found["mean"][np.arange(2), code], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["var"][np.arange(2), code], var, rtol=1e-4, atol=1e-5)


def test_fewer_images_than_a_batch_are_one_batch():
    found = valuation(recalibration=7).statistics(WEIGHTS, CODES[4])
    mean, _ = statistics_by_hand(CODES[4], 7, 7)
    np.testing.assert_allclose(found["mean"][np.arange(2), CODES[4]], mean, rtol=1e-4, atol=1e-5)


def test_without_recalibration_running_statistics_are_used():
    running = valuation(recalibration=0)
    found = running(WEIGHTS, CODES)
    stats = {name: np.asarray(x, np.float64) for name, x in WEIGHTS.batch_stats.items()}
    expected = np.array(
        [values_by_hand(code, *(stats[name][np.arange(2), code] for name in ("mean", "var"))) for code in CODES]
    )
    np.testing.assert_allclose(found.accuracy, expected[:, 0], rtol=1e-6)
    np.testing.assert_allclose(found.loss, expected[:, 1], rtol=1e-4)
    kept = running.statistics(WEIGHTS, CODES[0])
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), kept, WEIGHTS.batch_stats))


def test_four_devices_give_the_values_of_one(values):
    found = valuation(devices=4, per_device=2)(WEIGHTS, CODES)  # two calls, the second of 1 code
    np.testing.assert_array_equal(found.accuracy, values.accuracy)
    np.testing.assert_allclose(found.loss, values.loss, rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class Counting(LinearSupernet):
    """Counts how often a program of it is traced."""

    @functools.cached_property
    def traces(self):
        return []

    def statistics(self, params, code, images):
        self.traces.append(images.shape)
        return super().statistics(params, code, images)


def test_any_number_of_codes_and_weights_by_one_trace(values):
    supernet = Counting()
    counted = valuation(supernet=supernet)
    for n in (1, 3, 4, 5, 9):
        found = counted(WEIGHTS, CODES[:n])
        np.testing.assert_array_equal(found.accuracy, values.accuracy[:n])
    traced = len(supernet.traces)
    counted(weights(1), CODES[::-1])
    assert len(supernet.traces) == traced <= 2  # the loop over batches may trace its body twice


def test_values_that_are_not_finite_are_recognised_by_their_loss(one):
    broken = Weights({"kernel": WEIGHTS.params["kernel"].at[1, 2, 0, 0].set(jnp.inf)}, WEIGHTS.batch_stats)
    found = one(broken, CODES)
    assert np.isfinite(found.loss).tolist() == (CODES[:, 1] != 2).tolist()


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("recalibration", -1, "recalibration must be 0 to 120, the number of training images; got -1"),
        ("recalibration", 121, "recalibration must be 0 to 120, the number of training images; got 121"),
        ("batch_size", 0, "batch_size must be at least 1; got 0"),
        ("per_device", 0, "per_device must be at least 1; got 0"),
    ],
)
def test_bad_settings_are_refused(setting, value, message):
    with pytest.raises(ValueError, match=message):
        valuation(**{setting: value})
