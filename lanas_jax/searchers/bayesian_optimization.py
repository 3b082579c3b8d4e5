"""Bayesian optimization: a Gaussian process over codes and expected improvement.

The covariance of two codes' targets is that of categorical choices of equal weight (the exponentiated Hamming distance
of Ru et al., arXiv 1906.08878, and of SMAC), plus noise that is independent between codes::

    k(a, b) = scale (exp(-hamming(a, b) / (dims lengthscale)) + noise [a = b])

Targets are normal scores of ranks. Lengthscale and noise maximise the marginal likelihood over a small grid; `scale`
maximises it in closed form. They are refitted whenever the number of results has grown by a tenth. Values have no
measurement error, so the incumbent is the highest observed value, and the noise is part of an untried code's value.

Pending and failed trials are assigned their predicted value (the kriging believer of Ginsbourger et al., 2010), which
spreads out a batch. The candidates are the whole pool if it is small, and otherwise neighbours of the best trials and
uniform draws.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lanas_jax.runtime.numbers import set_whole_numbers
from lanas_jax.searchers import history as hist
from lanas_jax.searchers.base import register
from lanas_jax.searchers.history import History
from lanas_jax.searchers.random_search import uniform_unseen
from lanas_jax.searchers.sampling import Pool, best_of, listed, reached
from lanas_jax.searchers.surrogate import log_expected_improvement, normal_scores
from lanas_jax.spaces.base import Codes, SearchSpace, Values

MODEL_TRIALS = 512  # maximum number of trials in the Gaussian process: the best, the pending and the latest
CANDIDATES = 512  # half near the best trials, half drawn uniformly
PARENTS = 5  # number of best trials whose neighbours are candidates
LENGTHSCALES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
NOISES = (1e-3, 0.03, 0.2)
GRID = np.array([(a, b) for a in LENGTHSCALES for b in NOISES], np.float32)
JITTER = 1e-5


class Prior(NamedTuple):
    """Hyper-parameters of the covariance."""

    lengthscale: Float[Array, ""]
    noise: Float[Array, ""]
    fitted: Int[Array, ""]  # number of results used in the last fit


class Posterior(NamedTuple):
    """Gaussian process conditioned on trials, in units of targets; unused rows are empty."""

    prior: Prior
    codes: Int[Array, "m dims"]  # those with a result first
    used: Bool[Array, " m"]
    factor: Float[Array, "m m"]  # lower Cholesky factor of the covariance in units of `scale`; identity in empty rows
    innovations: Float[Array, " m"]  # targets whitened by `factor`; 0 for trials without a result
    scale: Float[Array, ""]
    log_likelihood: Float[Array, ""]  # log likelihood of the targets, without constants


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BayesianOptimizationState:
    """PRNG key, trial history and fitted hyper-parameters."""

    key: PRNGKeyArray
    history: History
    prior: Prior


@register("initial")
@dataclasses.dataclass(frozen=True)
class BayesianOptimization:
    """Expected improvement under a Gaussian process.

    Attributes:
      space: search space.
      pool: explicit codes to draw from; without a pool, a small space is enumerated and a large one sampled.
      initial: number of results from uniform draws before the model is used.
      capacity: number of trials the initial state can hold; the state grows as needed.

    Raises:
      ValueError: if `initial` or `capacity` is not a whole number or is too small, or the pool has a code out of range
        or no valid code.
    """

    space: SearchSpace
    pool: Pool | Codes | None = None
    initial: int = 10
    capacity: int = 256

    def __post_init__(self) -> None:
        set_whole_numbers(self, initial=1, capacity=1)
        object.__setattr__(self, "pool", listed(self.space, self.pool))

    def init(self, key: PRNGKeyArray) -> BayesianOptimizationState:
        """Returns the state before the first trial. Consumes the key."""
        prior = Prior(jnp.float32(LENGTHSCALES[0]), jnp.float32(NOISES[0]), jnp.int32(0))
        return BayesianOptimizationState(key, hist.empty(self.space, self.pool, self.capacity), prior)

    def ask(self, state: BayesianOptimizationState, n: int) -> tuple[BayesianOptimizationState, Int[Array, "n dims"]]:
        """Returns the `n` unseen codes of greatest expected improvement; rows of -1 when none are left."""
        return _ask(self, dataclasses.replace(state, history=hist.reserve(state.history, n)), n)

    def tell(self, state: BayesianOptimizationState, codes: Codes, values: Values) -> BayesianOptimizationState:
        """Records values (NaN marks a failed trial) and refits the hyper-parameters when due."""
        history, codes, values = hist.receive(state.history, self.space, codes, values)
        return _tell(self, dataclasses.replace(state, history=history), codes, values)


@jax.jit(static_argnames="n")
def _ask(
    searcher: BayesianOptimization, state: BayesianOptimizationState, n: int
) -> tuple[BayesianOptimizationState, Array]:
    key, subkey = jax.random.split(state.key)
    history, codes = jax.lax.cond(
        jnp.sum(state.history.done) < searcher.initial,
        lambda: uniform_unseen(subkey, searcher.space, searcher.pool, state.history, n),
        lambda: _improving(subkey, searcher, state, n),
    )
    return dataclasses.replace(state, key=key, history=history), codes


def _improving(
    key: PRNGKeyArray, searcher: BayesianOptimization, state: BayesianOptimizationState, n: int
) -> tuple[History, Int[Array, "n dims"]]:
    """Draws `n` candidates one by one, each of greatest expected improvement given the predictions for the previous."""
    space, pool = searcher.space, searcher.pool
    candidate_key, uniform_key = jax.random.split(key)
    codes, real = _candidates(candidate_key, searcher, state.history)
    rows = _modelled(state.history)
    model = condition(space, state.history, rows, state.prior)
    mean, variance, whitened = predict_codes(space, model, codes)
    predicted = jnp.matmul(model.factor, model.innovations, precision="highest")
    believed = jnp.where(state.history.status[rows] == hist.FAILED, -jnp.inf, predicted)
    incumbent = jnp.max(jnp.where(model.used, believed, -jnp.inf))

    def one(carry: tuple, step: tuple[Array, Array]) -> tuple[tuple, Array]:
        history, incumbent, variance, whitened, real = carry
        i, key = step
        place, found = best_of(log_expected_improvement(mean, jnp.sqrt(jnp.maximum(variance, JITTER)), incumbent), real)
        history, code = jax.lax.cond(
            found,
            lambda: (hist.add_code(history, space, pool, codes[place]), codes[place]),
            lambda: _first(uniform_unseen(key, space, pool, history, 1)),
        )
        real = real & jnp.any(codes != code[None], axis=1)
        cross = covariance(space, codes, code[None], state.prior.lengthscale)[:, 0]
        cross = cross - jnp.matmul(whitened[:, place], whitened, precision="highest")
        deviation = jnp.sqrt(jnp.maximum(variance[place] / model.scale, JITTER))
        row = jnp.where(found, cross / deviation, 0.0)
        whitened = whitened.at[-n + i].set(row)
        variance = variance - model.scale * jnp.square(row)
        return (
            history,
            jnp.where(found, jnp.maximum(incumbent, mean[place]), incumbent),
            variance,
            whitened,
            real,
        ), code

    whitened = jnp.pad(whitened, ((0, n), (0, 0)))  # one row per draw
    steps = (jnp.arange(n), jax.random.split(uniform_key, n))
    (history, *_), drawn = jax.lax.scan(one, (state.history, incumbent, variance, whitened, real), steps)
    return history, drawn


def _first(drawn: tuple[History, Int[Array, "1 dims"]]) -> tuple[History, Int[Array, " dims"]]:
    return drawn[0], drawn[1][0]


def covariance(
    space: SearchSpace, a: Int[Array, "n dims"], b: Int[Array, "m dims"], lengthscale: Float[Array, ""]
) -> Float[Array, "n m"]:
    """Returns the prior covariance of two sets of codes in units of `scale`, without noise."""
    choice = np.repeat(np.arange(space.dims), space.cardinalities)
    option = np.concatenate([np.arange(n) for n in space.cardinalities])
    one_hot_a, one_hot_b = (jnp.asarray(codes[:, choice] == option[None], jnp.float32) for codes in (a, b))
    differing = 1.0 - jnp.matmul(one_hot_a, one_hot_b.T, precision="highest") / space.dims
    return jnp.exp(-differing / lengthscale)


def condition(space: SearchSpace, history: History, rows: Int[Array, " m"], prior: Prior) -> Posterior:
    """Returns the posterior given history rows, ordered with results first."""
    used, done = history.used[rows], history.done[rows]
    codes = history.codes[rows]
    kernel = jnp.where(used[:, None] & used[None], covariance(space, codes, codes, prior.lengthscale), 0.0)
    factor = jnp.linalg.cholesky(kernel + jnp.diag(jnp.where(used, prior.noise + JITTER, 1.0)))
    targets = jnp.where(done, normal_scores(history.values, history.done)[rows], 0.0)
    # Rows with results come first, so their whitened targets do not depend on the later rows, whose innovation is 0.
    whitened = jax.scipy.linalg.solve_triangular(factor, targets, lower=True)
    innovations = jnp.where(done, whitened, 0.0)
    n = jnp.maximum(jnp.sum(done), 1).astype(jnp.float32)
    scale = jnp.maximum(jnp.sum(jnp.square(innovations)) / n, JITTER)
    log_determinant = 2 * jnp.sum(jnp.where(done, jnp.log(jnp.diag(factor)), 0.0))
    log_likelihood = -0.5 * (n * jnp.log(scale) + log_determinant)
    return Posterior(prior, codes, used, factor, innovations, scale, log_likelihood)


def predict_codes(
    space: SearchSpace, model: Posterior, codes: Int[Array, "k dims"]
) -> tuple[Float[Array, " k"], Float[Array, " k"], Float[Array, "m k"]]:
    """Returns mean and variance (noise included) of untried codes, and their whitened covariances with the trials."""
    cross = jnp.where(model.used[:, None], covariance(space, model.codes, codes, model.prior.lengthscale), 0.0)
    whitened = jax.scipy.linalg.solve_triangular(model.factor, cross, lower=True)
    variance = 1.0 + model.prior.noise + JITTER - jnp.sum(jnp.square(whitened), axis=0)
    return jnp.matmul(model.innovations, whitened, precision="highest"), model.scale * variance, whitened


def _modelled(history: History) -> Int[Array, " m"]:
    """Returns the history rows to model (the best, the pending and the latest), ordered with results first."""
    rows = min(history.capacity, MODEL_TRIALS)
    rank = jnp.argsort(jnp.argsort(jnp.where(history.done, -history.values, jnp.inf)))
    vital = (history.done & (rank < rows // 2)) | (history.status == hist.PENDING)
    order = jnp.arange(history.capacity) + jnp.where(vital, history.capacity, 0)
    chosen = jax.lax.top_k(jnp.where(history.used, order, -1), rows)[1]
    return chosen[jnp.argsort(~history.done[chosen], stable=True)]


def _candidates(
    key: PRNGKeyArray, searcher: BayesianOptimization, history: History
) -> tuple[Int[Array, "k dims"], Bool[Array, " k"]]:
    """Returns candidate codes, and which of them are valid and unseen."""
    best = history.codes[jax.lax.top_k(jnp.where(history.done, history.values, -jnp.inf), PARENTS)[1]]
    if isinstance(searcher.pool, Pool):
        return _from_pool(key, searcher.pool, history, best)
    return _from_lattice(key, searcher.space, history, best)


def _from_pool(
    key: PRNGKeyArray, pool: Pool, history: History, best: Int[Array, "p dims"]
) -> tuple[Int[Array, "k dims"], Bool[Array, " k"]]:
    if pool.codes.shape[0] <= CANDIDATES:
        return pool.codes, ~history.seen
    distance = jnp.min(jnp.sum(pool.codes[:, None] != best[None], axis=2), axis=1).astype(jnp.float32)
    order = jax.random.uniform(key, distance.shape)
    near = jax.lax.top_k(jnp.where(history.seen, -jnp.inf, order - distance), CANDIDATES // 2)[1]
    others = jax.lax.top_k(jnp.where(history.seen, -jnp.inf, order), CANDIDATES // 2)[1]
    rows = jnp.concatenate([near, others])
    return pool.codes[rows], ~history.seen[rows]


def _from_lattice(
    key: PRNGKeyArray, space: SearchSpace, history: History, best: Int[Array, "p dims"]
) -> tuple[Int[Array, "k dims"], Bool[Array, " k"]]:
    """Returns codes that change one choice of one of the best trials, and uniform draws."""
    parent_key, choice_key, drawn_key = jax.random.split(key, 3)
    drawn, half = space.random(drawn_key, CANDIDATES), CANDIDATES // 2
    if len(space.starting_codes()):  # random codes of such a space are rarely valid
        drawn = drawn.at[half:].set(reached(jax.random.fold_in(drawn_key, 1), space, half))
    parents = best[jax.random.randint(parent_key, (half,), 0, best.shape[0])]
    choice = jax.random.randint(choice_key, (half,), 0, space.dims)
    changed = jnp.arange(space.dims)[None] == choice[:, None]
    raw = drawn.at[:half].set(jnp.where(changed, drawn[:half], parents))
    codes = space.canonical(raw)
    return codes, space.valid(raw) & ~hist.contains(history, codes)


@jax.jit
def _tell(
    searcher: BayesianOptimization, state: BayesianOptimizationState, codes: Codes, values: Array
) -> BayesianOptimizationState:
    history, _ = hist.record(state.history, searcher.space, searcher.pool, codes, values)
    results, fitted = jnp.sum(history.done, dtype=jnp.int32), state.prior.fitted
    due = (results >= searcher.initial) & (10 * results >= 11 * fitted)
    prior = jax.lax.cond(due, lambda: fit_prior(searcher.space, history), lambda: state.prior)
    return dataclasses.replace(state, history=history, prior=prior)


def fit_prior(space: SearchSpace, history: History) -> Prior:
    """Returns the hyper-parameters of the grid that maximise the likelihood of the results."""
    rows, results = _modelled(history), jnp.sum(history.done, dtype=jnp.int32)

    def log_likelihood(pair: Float[Array, "2"]) -> Float[Array, ""]:
        return condition(space, history, rows, Prior(pair[0], pair[1], results)).log_likelihood

    best = jnp.asarray(GRID)[jnp.argmax(jax.lax.map(log_likelihood, jnp.asarray(GRID)))]
    return Prior(best[0], best[1], results)
