"""The Gaussian process against dense linear algebra in double precision."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import lanas_jax as lx
from lanas_jax.searchers import surrogate

SPACE = lx.SearchSpace([*(lx.Choice(f"op{i}", "abcd") for i in range(4)), lx.Choice("width", (8, 16, 32, 64))])
RESULTS, PENDING = 79, 9
ADDITIVE, DECAY, NOISE = 0.4, 0.7, 0.1
CONSTANTS = surrogate.Constants(*map(jnp.float32, (ADDITIVE, DECAY, NOISE)))
COLUMNS = np.linspace(0.5, 1.5, SPACE.embedding_size, dtype=np.float32)


def kernel(a, b):
    """The covariance of the module's docstring."""
    a, b = a * COLUMNS, b * COLUMNS
    inner = a @ b.T
    distance = ((a[:, None] - b[None]) ** 2).sum(2)
    decay = DECAY * min(SPACE.dims, surrogate.FAR) * distance / 2
    return ADDITIVE * inner + (1 - ADDITIVE) * np.exp(-decay)


def prior(rows):
    return surrogate.prior(rows, CONSTANTS, jnp.asarray(COLUMNS))


@pytest.fixture(scope="module")
def data():
    codes = np.unique(np.random.default_rng(0).integers(0, 4, (200, 5)), axis=0)[:120].astype(np.int32)
    codes = np.random.default_rng(2).permutation(codes)
    embedded = np.asarray(SPACE.embed(codes), np.float64)
    return embedded[:100], embedded[100:], np.random.default_rng(1).normal(size=RESULTS)


@pytest.fixture(scope="module")
def model(data):
    trials, _, targets = data
    return told(trials, targets)


@jax.jit
def add(model, embedded, new):
    def one(model, trial):
        return surrogate.extend(model, *trial, SPACE.dims), None

    return jax.lax.scan(one, model, (embedded, new))[0]


def extend(model, trials):
    embedded = jnp.asarray(trials, jnp.float32)
    return add(model, embedded, jnp.ones(len(embedded), bool))


def told(trials, targets, parts=(1, 5, 64, 9)):
    """The model after trials that came in parts."""
    model = prior(RESULTS + PENDING)
    ends = np.cumsum(parts)
    for start, end in zip(ends - parts, ends, strict=True):
        model = extend(model, trials[start:end])
    padded = np.full(model.rows, 7.0, np.float32)
    padded[: len(targets)] = targets
    return jax.jit(surrogate.learn)(model, jnp.asarray(padded))


def dense(trials, others, targets, count):
    """Posterior mean from the results alone, variance from all trials, scale from the results."""
    residual = NOISE + surrogate.JITTER
    told, used = trials[:RESULTS], trials[:count]
    told_kernel = kernel(told, told) + residual * np.eye(RESULTS)
    mean = kernel(others, told) @ np.linalg.solve(told_kernel, targets)
    cross = kernel(others, used)
    explained = cross @ np.linalg.solve(kernel(used, used) + residual * np.eye(count), cross.T)
    scale = targets @ np.linalg.solve(told_kernel, targets) / RESULTS
    return mean, np.diag(kernel(others, others) - explained), scale


def predict(model, others):
    return surrogate.predict_embedded(model, jnp.asarray(others, jnp.float32), SPACE.dims)[:2]


def test_posterior_is_that_of_dense_algebra_and_pending_trials_move_variances_only(data, model):
    trials, others, targets = data
    assert float(model.scale) == pytest.approx(dense(trials, others, targets, RESULTS)[2], rel=1e-4)
    assert float(model.incumbent) == pytest.approx(targets.max())
    extended = extend(model, trials[RESULTS : RESULTS + PENDING])
    for got, count in ((model, RESULTS), (extended, RESULTS + PENDING)):
        assert int(got.count) == count
        mean, variance, _ = dense(trials, others, targets, count)
        got_mean, got_variance = predict(got, others)
        np.testing.assert_allclose(got_mean, mean, atol=2e-4)
        np.testing.assert_allclose(got_variance, variance, atol=2e-4)
    assert (np.asarray(predict(extended, others)[1]) < np.asarray(predict(model, others)[1]) - 1e-3).any()


def test_trials_that_are_not_new_are_passed_over(data):
    trials, others, _ = data
    new = np.array([True, False, True, True, False])
    start = extend(prior(8), trials[5:8])
    got = add(start, jnp.asarray(trials[:5], jnp.float32), jnp.asarray(new))
    assert int(got.count) == 6
    expected = extend(start, trials[:5][new])
    for a, b in zip(predict(got, others), predict(expected, others), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_model_takes_in_as_many_trials_as_it_has_room_for(data):
    trials, others, _ = data
    empty = prior(60)
    assert empty.rows == 64
    full, expected = extend(empty, trials[:70]), extend(empty, trials[:64])
    assert int(full.count) == 64
    np.testing.assert_allclose(predict(full, others)[1], predict(expected, others)[1], atol=2e-4)
    same = extend(full, trials[70:71])
    for got, expected in zip(jax.tree.leaves(same), jax.tree.leaves(full), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("present", [20, 60], ids=["room for all", "room for four"])
def test_a_block_of_trials_is_added_as_one_after_another(data, present):
    trials, _, _ = data
    start = extend(prior(64), trials[:present])
    block, new = jnp.asarray(trials[60:70], jnp.float32), jnp.asarray([True, False] + 8 * [True])
    got = jax.jit(surrogate.extend_by_block, static_argnames="dims")(start, block, new, dims=SPACE.dims)
    assert int(got.count) == min(present + 9, 64)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(add(start, block, new)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_grown_model_says_the_same(data, model):
    _, others, _ = data
    grown = surrogate.grow(model, 300)
    assert (grown.rows, surrogate.grow(grown, 10).rows) == (320, 320)
    for got, expected in zip(predict(grown, others), predict(model, others), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_prior_knows_nothing(data):
    _, others, _ = data
    mean, variance = predict(prior(10), others)
    np.testing.assert_array_equal(mean, np.zeros(20))
    np.testing.assert_allclose(variance, np.diag(kernel(others, others)), atol=1e-6)


@pytest.mark.parametrize("u", [2.0, 0.0, -3.0, -4.9, -5.1, -8.0])
def test_expected_improvement_is_its_integral(u):
    spread = 0.3
    gain, _ = integrate.quad(lambda x: x * stats.norm.pdf(x, u * spread, spread), 0, 3, epsabs=0, epsrel=1e-10)
    found = surrogate.log_expected_improvement(jnp.float32([1.2 + u * spread]), jnp.float32([spread]), jnp.float32(1.2))
    assert float(found[0]) == pytest.approx(np.log(gain), abs=1e-2)


def test_log_improvement_keeps_rising_with_the_mean_however_poor():
    gain = surrogate.log_expected_improvement(jnp.linspace(-60.0, 3.0, 500), jnp.full(500, 0.6), jnp.float32(1.0))
    assert bool(jnp.isfinite(gain).all())
    assert bool((jnp.diff(gain) > 0).all())


def test_a_value_deviates_by_variance_and_residual():
    model = dataclasses.replace(prior(1), scale=jnp.float32(2.0))
    got = surrogate.deviation(model, jnp.float32([0.3, -1e-9]))
    np.testing.assert_allclose(got, np.sqrt(2 * (np.array([0.3, surrogate.JITTER]) + NOISE)), rtol=1e-6)


def test_normal_scores_share_ranks_and_ignore_what_has_no_value():
    values = jnp.array([3.0, 1.0, 3.0, 100.0, 2.0])
    done = jnp.array([True, True, True, False, True])
    np.testing.assert_allclose(surrogate.rank_shares(values, done), [0.75, 0.125, 0.75, 0, 0.375], atol=1e-6)
    scores = surrogate.normal_scores(values, done)
    np.testing.assert_allclose(scores, [*stats.norm.ppf([0.75, 0.125, 0.75]), 0, stats.norm.ppf(0.375)], atol=1e-5)


@pytest.mark.slow
def test_effects_have_the_posterior_mean_and_draws_the_covariance_of_independent_interactions(model, data):
    trials, _, targets = data
    told = trials[:RESULTS]
    total = kernel(told, told) + (NOISE + surrogate.JITTER) * np.eye(RESULTS)
    told = told * COLUMNS
    gain = ADDITIVE * np.linalg.solve(total, told).T
    np.testing.assert_allclose(model.weights, COLUMNS * (gain @ targets), atol=1e-4)
    left = np.eye(told.shape[1]) - gain @ told
    residual = 1 - ADDITIVE + NOISE
    covariance = float(model.scale) * (ADDITIVE * left @ left.T + residual * gain @ gain.T) * np.outer(COLUMNS, COLUMNS)
    draws = np.asarray(model.sample_weights(jax.random.key(0), 40_000))
    np.testing.assert_allclose(draws.mean(axis=0), model.weights, atol=0.03 * np.sqrt(covariance.max()))
    # Entries have standard errors below 0.01 x the variances; 0.05 is exceeded with probability below 1e-5.
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.05 * covariance.max())


def test_equal_values_leave_some_uncertainty(model, data):
    """Otherwise the expected improvement is not a number, and codes are chosen by their place in a list."""
    equal = jax.jit(surrogate.learn)(model, jnp.zeros(model.rows))
    mean, variance, _ = surrogate.predict_embedded(equal, jnp.asarray(data[1], jnp.float32), SPACE.dims)
    gain = surrogate.log_expected_improvement(mean, surrogate.deviation(equal, variance), equal.incumbent)
    assert int(jnp.argmax(gain)) == int(jnp.argmax(variance))


def test_evidence_is_the_likelihood_at_the_best_scale(model, data):
    """Up to terms of the number of results alone, which cancel in the difference of two models."""
    trials, _, targets = data

    def likelihood(factor):
        told = factor * trials[:RESULTS]
        total = kernel(told, told) + (NOISE + surrogate.JITTER) * np.eye(RESULTS)
        return stats.multivariate_normal.logpdf(
            targets, cov=targets @ np.linalg.solve(total, targets) / RESULTS * total
        )

    other = extend(surrogate.prior(RESULTS + PENDING, CONSTANTS, jnp.asarray(0.2 * COLUMNS)), trials[:RESULTS])
    padded = np.pad(targets.astype(np.float32), (0, other.rows - RESULTS))
    other = jax.jit(surrogate.learn)(other, jnp.asarray(padded))
    got = float(surrogate.log_evidence(model) - surrogate.log_evidence(other))
    assert got == pytest.approx(likelihood(1.0) - likelihood(0.2), abs=1e-2)
    assert abs(got) > 0.5
