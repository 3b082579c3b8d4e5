"""The recipe: what it comes to at each step, against closed forms; what it refuses."""

import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lanas_jax.trainer.recipe import Recipe, average_decay, drop_path
from lanas_jax.training.sgd import learning_rate


def test_defaults_are_the_published_final_training():
    """Arguments of train.py in the code of DARTS: 0.025, 0.9, 3e-4, 600, 5, 96, 0.4, 0.2; no Nesterov."""
    recipe = Recipe()
    assert (recipe.learning_rate, recipe.momentum, recipe.weight_decay, recipe.epochs) == (0.025, 0.9, 3e-4, 600)
    assert (recipe.clip, recipe.batch_size, recipe.auxiliary_weight, recipe.drop_path) == (5.0, 96, 0.4, 0.2)
    assert not recipe.sgd.nesterov
    assert recipe.sgd.steps(50_000) == 312_500
    assert recipe.train_on == "all"


@pytest.mark.parametrize("step", [0, 1, 250, 999])
def test_schedules_follow_their_closed_forms(step):
    recipe, total = Recipe(drop_path=0.3), jnp.int32(1000)
    rate = learning_rate(recipe.sgd, jnp.int32(step), total)
    np.testing.assert_allclose(rate, 0.025 * (1 + math.cos(math.pi * step / 1000)) / 2, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(drop_path(recipe, jnp.int32(step), total), 0.3 * step / 1000, rtol=1e-6)


@pytest.mark.parametrize("last", [0.0, 0.001, 0.025])
def test_learning_rate_falls_to_the_last_one(last):
    """Half a cosine: ``last + (first - last) * (1 + cos(pi * step / total)) / 2``."""
    recipe, total = Recipe(final_learning_rate=last), jnp.int32(1000)
    for step, share in ((0, 1.0), (250, (1 + math.sqrt(0.5)) / 2), (500, 0.5), (1000, 0.0)):
        rate = learning_rate(recipe.sgd, jnp.int32(step), total)
        np.testing.assert_allclose(rate, last + (0.025 - last) * share, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("last", [0.0, 0.01])
def test_learning_rate_warms_up_linearly(last):
    """As optax's schedule of that name has it, told in steps: 50 of 1000 are 5 epochs of 100."""
    recipe = Recipe(epochs=100, learning_rate=0.4, final_learning_rate=last, warm_up=5.0)
    expected = optax.warmup_cosine_decay_schedule(0.0, 0.4, 50, 1000, last)
    for step in (0, 1, 25, 49, 50, 51, 500, 1000):
        rate = learning_rate(recipe.sgd, jnp.int32(step), jnp.int32(1000))
        np.testing.assert_allclose(rate, expected(step), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    ("optimizer", "setting", "message"),
    [
        ("adamw", {"momentum": 0.8}, "momentum .* adamw, only with sgd or rmsprop: expected its default 0.9; got 0.8"),
        ("lamb", {"nesterov": True}, "nesterov .* lamb, only with sgd or rmsprop: .* default False; got True"),
        ("sgd", {"rmsprop_decay": 0.8}, "rmsprop_decay .* sgd, only with rmsprop: expected its default 0.9; got 0.8"),
        ("rmsprop", {"betas": (0.8, 0.9)}, r"betas .* rmsprop, only with adamw or lamb: .* default \(0.9, 0.999\)"),
        ("sgd", {"epsilon": 0.1}, "epsilon .* sgd, only with rmsprop or adamw or lamb: .* default None; got 0.1"),
        ("rmsprop", {"rmsprop_decay": 1.0}, r"rmsprop_decay must be in \[0, 1\); got 1.0"),
        ("adamw", {"betas": (0.9, 1.0)}, r"betas must be in \[0, 1\); got \(0.9, 1.0\)"),
        ("adamw", {"epsilon": 0.0}, "epsilon must be positive, or None for the optimizer's own; got 0.0"),
    ],
)
def test_settings_that_do_not_go_with_the_optimizer(optimizer, setting, message):
    with pytest.raises(ValueError, match=message):
        Recipe(optimizer=optimizer, **setting)


def test_the_end_is_constant():
    """10 of 100 epochs: the cosine, from 5 to 90 epochs, reaches the last rate where they begin."""
    recipe = Recipe(epochs=100, learning_rate=0.4, final_learning_rate=0.02, warm_up=5.0, constant_epochs=10.0)
    falling = optax.warmup_cosine_decay_schedule(0.0, 0.4, 50, 900, 0.02)
    for step in (0, 25, 50, 475, 899, 900, 901, 999):
        rate = learning_rate(recipe.sgd, jnp.int32(step), jnp.int32(1000), recipe.constant_epochs)
        np.testing.assert_allclose(rate, falling(step) if step < 900 else 0.02, rtol=1e-4, atol=1e-8)


def test_drop_path_may_be_constant():
    recipe = Recipe(drop_path=0.3, drop_path_schedule="constant")
    assert [float(drop_path(recipe, jnp.int32(step), jnp.int32(10))) for step in (0, 9)] == pytest.approx([0.3, 0.3])


def test_validation_is_read_where_it_is_not_trained_on_and_only_if_wanted():
    assert Recipe(train_on="train", validate_every=7).reading_period == 7
    assert Recipe(train_on="train", validate_every=None).reading_period is None
    assert Recipe(train_on="all", validate_every=7).reading_period is None


def test_average_gives_up_its_beginnings():
    decays = [float(average_decay(0.9999, jnp.int32(step))) for step in (0, 1, 90, 10**6)]
    np.testing.assert_allclose(decays, [1 / 10, 2 / 11, 91 / 100, 0.9999], rtol=1e-6)
    assert average_decay(0.5, jnp.int32(90)) == 0.5


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("epochs", 0, "epochs must be positive; got 0"),
        ("batch_size", 0, "batch_size must be positive; got 0"),
        ("learning_rate", -1.0, "learning_rate must be positive; got -1.0"),
        ("learning_rate", math.nan, "learning_rate must be positive; got nan"),
        ("final_learning_rate", 0.03, "final_learning_rate must be from 0 to learning_rate, 0.025; got 0.03"),
        ("final_learning_rate", -0.001, "final_learning_rate must be from 0 to learning_rate, 0.025; got -0.001"),
        ("momentum", 1.0, r"momentum must be in \[0, 1\); got 1.0"),
        ("weight_decay", -1.0, "weight_decay must not be negative; got -1.0"),
        ("clip", 0.0, "clip must be positive, or None not to clip; got 0.0"),
        ("label_smoothing", 1.0, r"label_smoothing must be in \[0, 1\); got 1.0"),
        ("auxiliary_weight", -0.4, "auxiliary_weight must not be negative; got -0.4"),
        ("drop_path", 1.0, r"drop_path must be in \[0, 1\); got 1.0"),
        ("ema", 1.0, r"ema must be in \[0, 1\), or None for no average; got 1.0"),
        ("warm_up", 600.0, "warm_up must be from 0 to less than epochs, 600; got 600.0"),
        ("constant_epochs", 600.0, "constant_epochs must be from 0 to less than epochs - warm_up, 600.0; got 600.0"),
        ("constant_epochs", -1.0, "constant_epochs must be from 0 to less than epochs - warm_up, 600.0; got -1.0"),
        ("warm_up", -1.0, "warm_up must be from 0 to less than epochs, 600; got -1.0"),
        ("distillation", 1.5, r"distillation must be in \[0, 1\]; got 1.5"),
        ("temperature", 0.0, "temperature must be positive and finite; got 0.0"),
        ("temperature", 2.0, "temperature must be 1 when distillation is 0, since it has no effect then; got 2.0"),
        ("validate_every", 0, "validate_every must be at least 1; got 0"),
        ("passes", 0, "passes must be at least 1; got 0"),
        ("steps_per_dispatch", 0, "steps_per_dispatch must be at least 1; got 0"),
        ("checkpoint_seconds", -1.0, "checkpoint_seconds must not be negative; got -1.0"),
    ],
)
def test_settings_out_of_range(setting, value, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**{setting: value})


def test_unknown_optimizer():
    """As below."""
    recipe = Recipe()
    object.__setattr__(recipe, "optimizer", "adam")
    with pytest.raises(ValueError, match="optimizer must be one of sgd, rmsprop, adamw, lamb; got 'adam'"):
        recipe.__post_init__()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"normalize_over": "host"}, "'all', 'device' or a positive number of devices; got 'host'"),
        ({"normalize_over": 0}, "a positive number of devices; got 0"),
        ({"normalize_over": True}, "a positive number of devices; got True"),
        ({"gradient_sum": "bfloat16"}, "'float32' unless normalize_over is 'device'; got 'bfloat16'"),
        ({"normalize_over": "device", "gradient_sum": "float16"}, "'float32' or 'bfloat16'; got 'float16'"),
        ({"clip_by": "layer"}, "clip_by must be 'norm' or 'value'; got 'layer'"),
        ({"drop_path_schedule": "cosine"}, "drop_path_schedule must be 'linear' or 'constant'; got 'cosine'"),
        ({"matmul_precision": "exact"}, "one of default, high, highest; got 'exact'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_settings_of_arithmetic(setting, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**setting)


def test_unknown_images_to_train_on():
    """Said by the recipe itself, which the type check of the test run would otherwise forestall."""
    recipe = Recipe()
    object.__setattr__(recipe, "train_on", "test")
    with pytest.raises(ValueError, match="train_on must be 'all' or 'train'; got 'test'"):
        recipe.__post_init__()
