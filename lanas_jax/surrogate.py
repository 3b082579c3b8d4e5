"""Predicting the value of codes nobody has tried: a Gaussian process over a space's embedding.

The tree's regressions say on which side of a cut a code lies; this model, over all told trials, says how good it may be
inside a region. Values are normal scores of ranks, `z`. With ``s = embed(a) @ embed(b)`` and ``r`` the squared distance
of the two embeddings, the prior covariance of two codes' values is

    k(a, b) = scale (ADDITIVE s + (1 - ADDITIVE) exp(-DECAY dims r / 2)),

an additive effect of every choice and a smooth interaction between them, plus a residual of variance ``scale NOISE``
that belongs to the code alone: what a particular network gains or loses beyond what its neighbours tell. It is part of
the value that is maximised, not an error of measurement, so it stays in the predictive variance of unseen codes;
without it, search circles around what the smooth part likes best. `scale` is estimated in closed form.

A trial without value, pending or failed, takes part with an innovation of zero, as if told at its own prediction: it
leaves the mean as it is and takes the variance around it away.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

ADDITIVE = 0.7
DECAY = 0.5
NOISE = 0.2
JITTER = 1e-6
BLOCK = 64  # rows and columns of the whitener multiplied at a time
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
    """What trials say about all other codes; rows beyond `count` are empty.

    Attributes:
      embedded: where the trials lie.
      whitener: inverse of the lower Cholesky factor of their covariance, residual included; 0 in empty rows. It grows
        by a row per trial, and makes predictions matrix products.
      innovations: targets times the whitener; 0 for trials without value.
      count: rows in use.
      scale: estimated variance of the prior.
      incumbent: highest target.
      weights: of the additive part alone, so that ``embed @ weights`` ranks any number of codes cheaply.
      weights_factor: lower Cholesky factor of the precision of `weights`, in units of ``1 / (scale RIDGE)``.
    """

    embedded: Float[Array, "m e"]
    whitener: Float[Array, "m m"]
    innovations: Float[Array, " m"]
    count: Int[Array, ""]
    scale: Float[Array, ""]
    incumbent: Float[Array, ""]
    weights: Float[Array, " e"]
    weights_factor: Float[Array, "e e"]

    @property
    def rows(self) -> int:
        """Number of trials for which there is room."""
        return self.embedded.shape[0]

    def sample_weights(self, key: PRNGKeyArray, n: int) -> Float[Array, "n e"]:
        """Additive effects drawn from their posterior. The key is consumed."""
        noise = jax.random.normal(key, (self.weights.shape[0], n))
        spread = jax.scipy.linalg.solve_triangular(self.weights_factor, noise, trans=1, lower=True)
        return self.weights[None] + jnp.sqrt(self.scale * RIDGE) * spread.T


def prior(rows: int, e: int) -> GaussianProcess:
    """What is believed before the first trial, with room for at least `rows`."""
    rows = -(-rows // BLOCK) * BLOCK
    return GaussianProcess(
        embedded=jnp.zeros((rows, e)),
        whitener=jnp.zeros((rows, rows)),
        innovations=jnp.zeros(rows),
        count=jnp.zeros((), jnp.int32),
        scale=jnp.ones(()),
        incumbent=jnp.float32(-10.0),
        weights=jnp.zeros(e),
        weights_factor=jnp.sqrt(RIDGE) * jnp.eye(e),
    )


def grow(model: GaussianProcess, rows: int) -> GaussianProcess:
    """The same model with room for at least `rows` trials."""
    more = max(-(-rows // BLOCK) * BLOCK - model.rows, 0)
    return dataclasses.replace(
        model,
        embedded=jnp.pad(model.embedded, ((0, more), (0, 0))),
        whitener=jnp.pad(model.whitener, ((0, more), (0, more))),
        innovations=jnp.pad(model.innovations, (0, more)),
    )


def extend(model: GaussianProcess, embedded: Float[Array, "n e"], new: Bool[Array, " n"], dims: int) -> GaussianProcess:
    """The model after more trials that have no target yet: means stay, variances around them shrink.

    Args:
      model: of the trials so far.
      embedded: where the trials lie.
      new: which of them to add, in order; those for which no room is left are not.
      dims: length of a code.
    """
    place = model.count + jnp.cumsum(new, dtype=jnp.int32) - 1
    new = new & (place < model.rows)
    rows = jnp.where(new, place, model.rows)
    whitened = jnp.where(new[None], whiten(model, embedded, dims), 0.0)
    inner = jnp.where(new[:, None] & new[None], covariance(embedded, embedded, dims), 0.0)
    inner = inner - jnp.matmul(whitened.T, whitened, precision="highest")
    factor = jnp.linalg.cholesky(inner + jnp.diag(jnp.where(new, NOISE + JITTER, 1.0)))
    inverse = jax.scipy.linalg.solve_triangular(factor, jnp.eye(new.shape[0]), lower=True)
    below = -jnp.matmul(inverse, jnp.matmul(whitened.T, model.whitener, precision="highest"), precision="highest")
    whitener = model.whitener.at[rows].set(below, mode="drop")
    return dataclasses.replace(
        model,
        embedded=model.embedded.at[rows].set(embedded, mode="drop"),
        whitener=whitener.at[rows[:, None], rows[None]].set(inverse, mode="drop"),
        count=model.count + jnp.sum(new, dtype=jnp.int32),
    )


def learn(model: GaussianProcess, targets: Float[Array, " m"]) -> GaussianProcess:
    """The posterior given a target for each of the model's trials; rows beyond `count` are ignored."""
    told = jnp.arange(model.rows) < model.count
    targets = jnp.where(told, targets, 0.0)
    innovations = jnp.matmul(model.whitener, targets, precision="highest")
    n = jnp.maximum(model.count, 1).astype(jnp.float32)
    weights, weights_factor = _additive_effects(model.embedded, targets)
    return dataclasses.replace(
        model,
        innovations=innovations,
        scale=jnp.where(model.count > 0, jnp.sum(jnp.square(innovations)) / n, 1.0),
        incumbent=jnp.max(jnp.where(told, targets, -10.0)),
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
    """Covariances of other codes with the model's trials, times the whitener.

    Only blocks of rows in use, on and below the diagonal, are computed.
    """
    blocks = -(-model.count // BLOCK)

    def column(j: Array, whitened: Array) -> Array:
        trials = jax.lax.dynamic_slice_in_dim(model.embedded, j * BLOCK, BLOCK)
        used = (j * BLOCK + jnp.arange(BLOCK) < model.count)[:, None]
        cross = jnp.where(used, covariance(trials, embedded, dims), 0.0)

        def row(i: Array, whitened: Array) -> Array:
            factor = jax.lax.dynamic_slice(model.whitener, (i * BLOCK, j * BLOCK), (BLOCK, BLOCK))
            so_far = jax.lax.dynamic_slice_in_dim(whitened, i * BLOCK, BLOCK)
            product = so_far + jnp.matmul(factor, cross, precision="highest")
            return jax.lax.dynamic_update_slice_in_dim(whitened, product, i * BLOCK, axis=0)

        return jax.lax.fori_loop(j, blocks, row, whitened)

    return jax.lax.fori_loop(0, blocks, column, jnp.zeros((model.rows, embedded.shape[0])))


def predict(
    model: GaussianProcess, embedded: Float[Array, "n e"], dims: int
) -> tuple[Float[Array, " n"], Float[Array, " n"], Float[Array, "m n"]]:
    """Posterior means of other codes, their variances in units of `scale` (without the residual), and `whiten`."""
    whitened = whiten(model, embedded, dims)
    return model.innovations @ whitened, prior_variance(embedded) - jnp.sum(jnp.square(whitened), axis=0), whitened


def deviation(variance: Float[Array, "..."], scale: Float[Array, ""] | float = 1.0) -> Float[Array, "..."]:
    """Standard deviation of a value, its residual included, from a variance that `predict` gave."""
    return jnp.sqrt(scale * (jnp.maximum(variance, JITTER) + NOISE))


def log_expected_improvement(
    mean: Float[Array, " n"], deviation: Float[Array, " n"], incumbent: Float[Array, ""]
) -> Float[Array, " n"]:
    """Logarithm of ``E[max(value - incumbent, 0)]`` for normal values of given means and standard deviations."""
    u = (mean - incumbent) / deviation
    density = -0.5 * u * u - 0.5 * np.log(2 * np.pi)
    gain = u * jax.scipy.special.ndtr(u) + jnp.exp(density)
    # For very negative u the sum cancels; there stand the first terms of its asymptotic series.
    square = jnp.square(jnp.minimum(u, -5.0))
    tail = density - jnp.log(square) + jnp.log1p(-3 / square + 15 / jnp.square(square))
    return jnp.log(deviation) + jnp.where(u > -5, jnp.log(jnp.maximum(gain, 1e-12)), tail)
