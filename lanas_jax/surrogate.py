"""Predicting the value of codes nobody has tried: a Gaussian process over a space's embedding.

The tree's regressions say on which side of a cut a code lies; this model, over all told trials, says how good it may be
inside a region. Values are normal scores of ranks, `z`. With ``s = embed(a) @ embed(b)`` and ``r`` the squared distance
of the two embeddings, the prior covariance of two codes' values is

    k(a, b) = scale (ADDITIVE s + (1 - ADDITIVE) exp(-DECAY dims r / 2)),

an additive effect of every choice and a smooth interaction between them, plus a residual of variance ``scale NOISE``
that belongs to the code alone: what a particular network gains or loses beyond what its neighbours tell. It is part of
the value that is maximised, not an error of measurement, so it stays in the predictive variance of unseen codes;
without it, search circles around what the smooth part likes best. `scale` is estimated in closed form.

Pending and failed trials are in the model with an innovation of zero, as if told at their own prediction: they leave
the mean as it is and take the variance around them away.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

ADDITIVE = 0.7
DECAY = 0.5
NOISE = 0.2
JITTER = 1e-6
RIDGE = NOISE + 0.5 * (1 - ADDITIVE)  # to the additive part alone, interactions look like noise


def normal_scores(values: Float[Array, " n"], done: Bool[Array, " n"]) -> Float[Array, " n"]:
    """Values replaced by the normal quantiles of their ranks (ties share a rank); 0 where not `done`.

    Makes targets independent of the scale and the tails of values: one very bad network does not bend the regression.
    """
    return jnp.where(done, jax.scipy.special.ndtri(jnp.clip(rank_shares(values, done), 1e-6, 1 - 1e-6)), 0.0)


def rank_shares(values: Float[Array, " n"], done: Bool[Array, " n"]) -> Float[Array, " n"]:
    """The share of results below each value, half of its equals included: in (0, 1); 0 where not `done`."""
    less = jnp.sum((values[None] < values[:, None]) & done[None], axis=1)
    equal = jnp.sum((values[None] == values[:, None]) & done[None], axis=1)
    count = jnp.maximum(jnp.sum(done), 1).astype(jnp.float32)
    return jnp.where(done, (less.astype(jnp.float32) + 0.5 * equal.astype(jnp.float32)) / count, 0.0)


def covariance(a: Float[Array, "n e"], b: Float[Array, "m e"], dims: int) -> Float[Array, "n m"]:
    """Prior covariance between two sets of embedded codes, in units of `scale`, without the residual."""
    inner = jnp.matmul(a, b.T, precision="highest")
    norms = 0.5 * (jnp.sum(a * a, axis=1)[:, None] + jnp.sum(b * b, axis=1)[None])
    return ADDITIVE * inner + (1 - ADDITIVE) * jnp.exp(-DECAY * dims * jnp.maximum(norms - inner, 0.0))


def prior_variance(a: Float[Array, "n e"]) -> Float[Array, " n"]:
    """Diagonal of the covariance of embedded codes."""
    return ADDITIVE * jnp.sum(a * a, axis=1) + (1 - ADDITIVE)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GaussianProcess:
    """What told and pending trials say about all others; rows beyond `count` are empty.

    Attributes:
      embedded: where the trials lie.
      factor: lower Cholesky factor of their covariance, residual included; identity in empty rows.
      innovations: targets whitened by it; 0 for trials without value.
      count: rows in use.
      scale: estimated variance of the prior.
      incumbent: highest target.
      weights: of the additive part alone, so that ``embed @ weights`` ranks any number of codes cheaply.
      weights_factor: lower Cholesky factor of the precision of `weights`, in units of ``1 / (scale RIDGE)``.
    """

    embedded: Float[Array, "m e"]
    factor: Float[Array, "m m"]
    innovations: Float[Array, " m"]
    count: Int[Array, ""]
    scale: Float[Array, ""]
    incumbent: Float[Array, ""]
    weights: Float[Array, " e"]
    weights_factor: Float[Array, "e e"]

    def sample_weights(self, key: PRNGKeyArray, n: int) -> Float[Array, "n e"]:
        """Additive effects drawn from their posterior. The key is consumed."""
        noise = jax.random.normal(key, (self.weights.shape[0], n))
        spread = jax.scipy.linalg.solve_triangular(self.weights_factor, noise, trans=1, lower=True)
        return self.weights[None] + jnp.sqrt(self.scale * RIDGE) * spread.T


def prior(rows: int, e: int) -> GaussianProcess:
    """What is believed before the first trial, with room for `rows`."""
    return GaussianProcess(
        embedded=jnp.zeros((rows, e)),
        factor=jnp.eye(rows),
        innovations=jnp.zeros(rows),
        count=jnp.zeros((), jnp.int32),
        scale=jnp.ones(()),
        incumbent=jnp.zeros(()),
        weights=jnp.zeros(e),
        weights_factor=jnp.eye(e),
    )


def fit(
    embedded: Float[Array, "m e"],
    targets: Float[Array, " m"],
    results: Int[Array, ""],
    count: Int[Array, ""],
    dims: int,
) -> GaussianProcess:
    """The posterior given `count` trials, of which the first `results` have targets."""
    rows = jnp.arange(embedded.shape[0])
    used, told = rows < count, rows < results
    both = used[:, None] & used[None]
    kernel = jnp.where(both, covariance(embedded, embedded, dims), 0.0)
    factor = jnp.linalg.cholesky(kernel + jnp.diag(jnp.where(used, NOISE + JITTER, 1.0)))
    targets = jnp.where(told, targets, 0.0)
    innovations = jnp.where(told, jax.scipy.linalg.solve_triangular(factor, targets, lower=True), 0.0)
    n = jnp.maximum(results, 1).astype(jnp.float32)
    weights, weights_factor = _additive_effects(jnp.where(told[:, None], embedded, 0.0), targets)
    return GaussianProcess(
        embedded=jnp.where(used[:, None], embedded, 0.0),
        factor=factor,
        innovations=innovations,
        count=count,
        scale=jnp.where(results > 0, jnp.sum(jnp.square(innovations)) / n, 1.0),
        incumbent=jnp.max(jnp.where(told, targets, -jnp.inf), initial=-10.0),
        weights=weights,
        weights_factor=weights_factor,
    )


def _additive_effects(
    embedded: Float[Array, "m e"], targets: Float[Array, " m"]
) -> tuple[Float[Array, " e"], Float[Array, "e e"]]:
    """Ridge regression on the embedding, and the Cholesky factor of its precision."""
    gram = jnp.matmul(embedded.T, embedded, precision="highest")
    factor = jnp.linalg.cholesky(gram + RIDGE * jnp.eye(gram.shape[0]))
    return jax.scipy.linalg.cho_solve((factor, True), embedded.T @ targets), factor


def whiten(model: GaussianProcess, embedded: Float[Array, "n e"], dims: int) -> Float[Array, "m n"]:
    """Covariances of other codes with the model's trials, whitened by its factor."""
    used = jnp.arange(model.embedded.shape[0]) < model.count
    cross = jnp.where(used[:, None], covariance(model.embedded, embedded, dims), 0.0)
    return jax.scipy.linalg.solve_triangular(model.factor, cross, lower=True)


def predict(
    model: GaussianProcess, embedded: Float[Array, "n e"], dims: int
) -> tuple[Float[Array, " n"], Float[Array, " n"], Float[Array, "m n"]]:
    """Posterior means of other codes, their variances in units of `scale` (without the residual), and `whiten`."""
    whitened = whiten(model, embedded, dims)
    return model.innovations @ whitened, prior_variance(embedded) - jnp.sum(jnp.square(whitened), axis=0), whitened


def add_pending(model: GaussianProcess, embedded: Float[Array, " e"], whitened: Float[Array, " m"]) -> GaussianProcess:
    """The model after one more trial that has no value yet; `whitened` is its own column of `whiten`.

    Without room left, the model stays as it is.
    """
    row = model.count
    diagonal = prior_variance(embedded[None])[0] + NOISE + JITTER - jnp.sum(jnp.square(whitened))
    new = jnp.where(jnp.arange(whitened.shape[0]) == row, jnp.sqrt(jnp.maximum(diagonal, JITTER)), whitened)
    return dataclasses.replace(
        model,
        embedded=model.embedded.at[row].set(embedded, mode="drop"),
        factor=model.factor.at[row].set(new, mode="drop"),
        count=jnp.minimum(row + 1, model.embedded.shape[0]),
    )


def log_expected_improvement(
    mean: Float[Array, " n"], variance: Float[Array, " n"], incumbent: Float[Array, ""], scale: Float[Array, ""]
) -> Float[Array, " n"]:
    """Logarithm of how much each code's value, residual included, is expected to exceed the incumbent's.

    Args:
      mean: posterior mean.
      variance: posterior variance in units of `scale`, without the residual.
      incumbent: highest target so far.
      scale: variance of the prior.
    """
    deviation = jnp.sqrt(scale * (jnp.maximum(variance, JITTER) + NOISE))
    u = (mean - incumbent) / deviation
    gain = u * jax.scipy.special.ndtr(u) + jnp.exp(-0.5 * u * u) / jnp.sqrt(2 * jnp.pi)
    # For very negative u the sum cancels; its logarithm behaves like that of the normal density there.
    return jnp.log(deviation) + jnp.where(
        u > -5, jnp.log(jnp.maximum(gain, 1e-12)), -0.5 * u * u - 2 * jnp.log(jnp.maximum(-u, 1.0)) - 0.92
    )
