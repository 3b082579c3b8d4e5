"""The Gaussian process against dense linear algebra in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import lanas_jax as lx
from lanas_jax import surrogate

SPACE = lx.SearchSpace([*(lx.Choice(f"op{i}", "abcd") for i in range(4)), lx.Choice("width", (8, 16, 32, 64))])
ROWS, RESULTS, COUNT = 24, 15, 19


def kernel(a, b):
    """The covariance of the module's docstring."""
    inner = a @ b.T
    distance = ((a[:, None] - b[None]) ** 2).sum(2)
    decay = surrogate.DECAY * SPACE.dims * distance / 2
    return surrogate.ADDITIVE * inner + (1 - surrogate.ADDITIVE) * np.exp(-decay)


@pytest.fixture(scope="module")
def data():
    codes = np.unique(np.random.default_rng(0).integers(0, 4, (60, 5)), axis=0)[:44].astype(np.int32)
    embedded = np.asarray(SPACE.embed(codes), np.float64)
    targets = np.random.default_rng(1).normal(size=ROWS)
    return embedded[:ROWS], embedded[ROWS:], targets


@pytest.fixture(scope="module")
def model(data):
    trials, _, targets = data
    return fit(jnp.asarray(trials, jnp.float32), jnp.asarray(targets, jnp.float32), COUNT)


@jax.jit
def fit(trials, targets, count):
    return surrogate.fit(trials, targets, jnp.int32(RESULTS), jnp.asarray(count, jnp.int32), SPACE.dims)


def dense(trials, others, targets, count):
    """Posterior mean from the results alone, variance from all trials, scale from the results."""
    residual = surrogate.NOISE + surrogate.JITTER
    told, used = trials[:RESULTS], trials[:count]
    told_kernel = kernel(told, told) + residual * np.eye(RESULTS)
    mean = kernel(others, told) @ np.linalg.solve(told_kernel, targets[:RESULTS])
    cross = kernel(others, used)
    explained = cross @ np.linalg.solve(kernel(used, used) + residual * np.eye(count), cross.T)
    scale = targets[:RESULTS] @ np.linalg.solve(told_kernel, targets[:RESULTS]) / RESULTS
    return mean, np.diag(kernel(others, others) - explained), scale


def predict(model, others):
    return surrogate.predict(model, jnp.asarray(others, jnp.float32), SPACE.dims)[:2]


def test_posterior_is_that_of_dense_algebra_and_pending_trials_move_variances_only(data, model):
    trials, others, targets = data
    mean, variance, scale = dense(trials, others, targets, COUNT)
    got_mean, got_variance = predict(model, others)
    np.testing.assert_allclose(got_mean, mean, atol=1e-4)
    np.testing.assert_allclose(got_variance, variance, atol=1e-4)
    assert float(model.scale) == pytest.approx(scale, rel=1e-4)
    without_pending = predict(fit(model.embedded, jnp.asarray(targets, jnp.float32), RESULTS), others)
    np.testing.assert_allclose(without_pending[0], got_mean, atol=1e-4)
    assert (np.asarray(without_pending[1]) > np.asarray(got_variance)).any()


def test_adding_a_pending_trial_is_fitting_with_it(data, model):
    trials, others, targets = data
    new = jnp.asarray(trials[COUNT], jnp.float32)
    grown = surrogate.add_pending(model, new, surrogate.whiten(model, new[None], SPACE.dims)[:, 0])
    again = fit(jnp.asarray(trials, jnp.float32), jnp.asarray(targets, jnp.float32), COUNT + 1)
    np.testing.assert_allclose(grown.factor, again.factor, atol=1e-5)
    for got, expected in zip(predict(grown, others), predict(again, others), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_a_full_model_takes_no_more_pending_trials(data):
    trials, _, targets = data
    full = fit(jnp.asarray(trials, jnp.float32), jnp.asarray(targets, jnp.float32), ROWS)
    same = surrogate.add_pending(full, full.embedded[0], jnp.zeros(ROWS))
    for got, expected in zip(jax.tree.leaves(same), jax.tree.leaves(full), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_expected_improvement_is_that_of_a_normal_value_with_its_residual():
    mean, variance, scale = np.array([-3.0, 0.0, 1.0, 2.5]), np.array([0.1, 0.5, 0.0, 0.9]), 0.7
    deviation = np.sqrt(scale * (np.maximum(variance, surrogate.JITTER) + surrogate.NOISE))
    expected = [
        stats.norm(m, s).expect(lambda value: value - 1.2, lb=1.2, ub=40) for m, s in zip(mean, deviation, strict=True)
    ]
    got = surrogate.log_expected_improvement(
        jnp.asarray(mean, jnp.float32), jnp.asarray(variance, jnp.float32), jnp.float32(1.2), jnp.float32(scale)
    )
    np.testing.assert_allclose(np.exp(got[1:]), expected[1:], rtol=1e-3)
    assert float(got[0]) == pytest.approx(np.log(expected[0]), abs=0.15)  # far in the tail, by an asymptotic form


def test_log_improvement_keeps_rising_with_the_mean_however_poor():
    mean = jnp.linspace(-60.0, 3.0, 500)
    gain = surrogate.log_expected_improvement(mean, jnp.full(500, 0.2), jnp.float32(1.0), jnp.float32(1.0))
    assert bool(jnp.isfinite(gain).all())
    u = (np.asarray(mean) - 1.0) / np.sqrt(0.4)
    away = np.abs(u[:-1] + 5) > 0.3  # the two forms meet at -5 with a small step
    assert (np.diff(np.asarray(gain))[away] > 0).all()


def test_normal_scores_share_ranks_and_ignore_what_has_no_value():
    values = jnp.array([3.0, 1.0, 3.0, 100.0, 2.0])
    done = jnp.array([True, True, True, False, True])
    np.testing.assert_allclose(surrogate.rank_shares(values, done), [0.75, 0.125, 0.75, 0, 0.375], atol=1e-6)
    scores = surrogate.normal_scores(values, done)
    np.testing.assert_allclose(scores, [*stats.norm.ppf([0.75, 0.125, 0.75]), 0, stats.norm.ppf(0.375)], atol=1e-5)


def test_sampled_effects_have_the_posterior_mean_and_covariance(model, data):
    trials, _, targets = data
    told = trials[:RESULTS]
    precision = told.T @ told + surrogate.RIDGE * np.eye(told.shape[1])
    draws = np.asarray(model.sample_weights(jax.random.key(0), 40_000))
    np.testing.assert_allclose(model.weights, np.linalg.solve(precision, told.T @ targets[:RESULTS]), atol=1e-4)
    covariance = float(model.scale) * surrogate.RIDGE * np.linalg.inv(precision)
    # Entries have standard errors below 0.01 x the variances; 0.05 is exceeded with probability below 1e-5.
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.05 * covariance.max())
