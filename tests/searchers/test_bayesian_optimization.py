"""Bayesian optimization: the model against NumPy, the acquisition against integrals, batches, learning."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import lanas_jax as lx
from lanas_jax.searchers import bayesian_optimization as bo

EFFECTS = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)


def product(dims, options=4):
    return lx.SearchSpace([lx.Choice(f"c{i}", range(options)) for i in range(dims)])


def additive(codes):
    return EFFECTS[np.arange(codes.shape[1]), np.asarray(codes)].sum(axis=1)


def search(searcher, batches, n=1, seed=0, value=additive):
    state, values = searcher.init(jax.random.key(seed)), []
    for _ in range(batches):
        state, codes = searcher.ask(state, n)
        values.append(value(np.asarray(codes)))
        state = searcher.tell(state, codes, values[-1])
    return state, np.concatenate(values)


def kernel(a, b, lengthscale):
    return np.exp(-np.mean(np.asarray(a)[:, None] != np.asarray(b)[None], axis=2, dtype=np.float64) / lengthscale)


def brute_force(codes, values, unseen, lengthscale, noise):
    """Mean, variance and log marginal likelihood by inverses in float64."""
    targets = stats.norm.ppf((stats.rankdata(values) - 0.5) / len(values))
    total = kernel(codes, codes, lengthscale) + (noise + bo.JITTER) * np.eye(len(codes))
    inverse, cross = np.linalg.inv(total), kernel(codes, unseen, lengthscale)
    scale = targets @ inverse @ targets / len(values)
    variance = scale * (1 + noise + bo.JITTER - np.einsum("ik,ij,jk->k", cross, inverse, cross))
    likelihood = stats.multivariate_normal(np.zeros(len(values)), scale * total).logpdf(targets)
    return targets, cross.T @ inverse @ targets, variance, likelihood


@pytest.fixture(scope="module")
def searched():
    searcher = lx.BayesianOptimization(product(4), capacity=32)
    return searcher, search(searcher, 10)[0]


def test_the_posterior_is_that_of_brute_force(searched):
    searcher, state = searched
    unseen = searcher.space.enumerate()[::7]
    codes, values = state.history.codes[:10], state.history.values[:10]
    prior = bo.Prior(jnp.float32(0.8), jnp.float32(0.03), jnp.int32(10))

    @jax.jit
    def predict(history, unseen):
        model = bo.condition(searcher.space, history, bo._modelled(history), prior)
        return bo.predict_codes(searcher.space, model, unseen)

    mean, variance, _ = predict(state.history, unseen)
    _, expected_mean, expected_variance, _ = brute_force(codes, values, unseen, 0.8, 0.03)
    np.testing.assert_allclose(mean, expected_mean, atol=1e-4)
    np.testing.assert_allclose(variance, expected_variance, rtol=1e-3)


def test_hyper_parameters_are_the_most_likely_of_the_grid(searched):
    _, state = searched
    codes, values = state.history.codes[:10], state.history.values[:10]
    likelihoods = [brute_force(codes, values, codes, *pair)[3] for pair in bo.GRID]
    best = bo.GRID[int(np.argmax(likelihoods))]
    np.testing.assert_array_equal([state.prior.lengthscale, state.prior.noise], best)
    assert int(state.prior.fitted) == 10


def test_the_first_proposal_after_the_design_has_the_greatest_expected_improvement(searched):
    searcher, state = searched
    history = state.history
    seen = {tuple(code) for code in np.asarray(history.codes).tolist()}
    unseen = np.array([code for code in searcher.space.enumerate().tolist() if tuple(code) not in seen])
    prior = float(state.prior.lengthscale), float(state.prior.noise)
    targets, mean, variance, _ = brute_force(history.codes[:10], history.values[:10], unseen, *prior)
    deviation = np.sqrt(variance)
    u = (mean - targets.max()) / deviation
    gain = deviation * (u * stats.norm.cdf(u) + stats.norm.pdf(u))
    _, codes = searcher.ask(state, 1)
    chosen = np.flatnonzero((unseen == np.asarray(codes)).all(axis=1))
    assert len(chosen) == 1
    assert gain[chosen[0]] == pytest.approx(gain.max(), rel=1e-3)
    assert gain.max() > 2 * np.median(gain)


@pytest.mark.slow
def test_a_pending_trial_is_believed_at_its_prediction(searched):
    """The mean stays, the variance is that of a trial told there, and the same batch asked one by one is the same."""
    searcher, state = searched
    unseen = jnp.asarray(searcher.space.enumerate()[::7])
    prior = state.prior
    after, codes = searcher.ask(state, 1)
    means, variances = [], []
    for history in (state.history, after.history):
        model = bo.condition(searcher.space, history, bo._modelled(history), prior)
        mean, variance, _ = bo.predict_codes(searcher.space, model, unseen)
        means.append(mean)
        variances.append(variance / model.scale)
    np.testing.assert_allclose(*means, atol=1e-5)
    everything = jnp.concatenate([state.history.codes[:10], codes])
    expected = brute_force(everything, np.arange(11), unseen, float(prior.lengthscale), float(prior.noise))
    scale = (
        expected[0]
        @ np.linalg.inv(
            kernel(everything, everything, float(prior.lengthscale)) + (float(prior.noise) + bo.JITTER) * np.eye(11)
        )
        @ expected[0]
        / 11
    )
    np.testing.assert_allclose(variances[1], expected[2] / scale, rtol=1e-3)

    together = np.asarray(searcher.ask(state, 4)[1])
    one_by_one = []
    for _ in range(4):
        state, code = searcher.ask(state, 1)
        one_by_one.append(np.asarray(code)[0])
    np.testing.assert_array_equal(together, one_by_one)


@pytest.mark.slow
def test_a_long_search_models_the_best_the_pending_and_the_latest_trials():
    searcher = lx.BayesianOptimization(product(6))
    codes = searcher.space.enumerate()[:1000]
    values = np.random.default_rng(0).permutation(1000).astype(np.float32)
    state = searcher.tell(searcher.init(jax.random.key(0)), codes, values)
    state, _ = searcher.ask(state, 4)
    rows = np.asarray(bo._modelled(state.history))
    assert len(np.unique(rows)) == bo.MODEL_TRIALS
    assert set(rows[-4:]) == {1000, 1001, 1002, 1003}
    assert set(np.flatnonzero(values >= 1000 - 256)) <= set(rows)
    assert set(range(850, 1000)) <= set(rows)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [7, 20], ids=["pool of more codes than candidates", "lattice"])
def test_learning_beats_random_search(dims):
    """Mean best of 40 over 6 seeds; equal searchers would differ this much with probability below 1e-4."""
    space = product(dims)
    best = {
        make.__name__: [search(make(space, capacity=64), 10, 4, seed)[1].max() for seed in range(6)]
        for make in (lx.BayesianOptimization, lx.RandomSearch)
    }
    gap = np.mean(best["BayesianOptimization"]) - np.mean(best["RandomSearch"])
    assert gap > 4 * np.std(best["RandomSearch"], ddof=1) * math.sqrt(2 / 6)


def test_a_design_of_nothing_is_refused():
    with pytest.raises(ValueError, match="initial must be at least 1"):
        lx.BayesianOptimization(product(3), initial=0)
