"""Prediction of the values of untried codes: a Gaussian process over a space's embedding.

The tree's regressions predict on which side of a split a code lies. This model of all trials with a value predicts
how good a code is inside a region. Values are normal scores of ranks, `z`. With ``s = embed(a) @ embed(b)`` and ``r``
the squared distance of the two embeddings, the prior covariance of two codes' values is

    k(a, b) = scale (additive s + (1 - additive) exp(-decay min(dims, FAR) r / 2)),

an additive effect of every choice and a smooth interaction between them, with constants of `hypotheses`, plus an
independent residual of variance ``scale noise`` per code: the part of its value that its neighbours do not predict. The
residual is part of the value that is maximised, not measurement error, so it is included in the predictive variance of
unseen codes. Without it, search circles around the maximum of the smooth part. `scale` is estimated in closed form.

A trial without a value (pending or failed) has an innovation of zero, as if its value were its own prediction: the
mean is unchanged and the variance around it shrinks.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

FAR = 6  # number of choices above which the decay no longer grows
JITTER = 1e-6
BLOCK = 64  # rows and columns of the whitener multiplied at a time


def normal_scores(values: Float[Array, " n"], done: Bool[Array, " n"]) -> Float[Array, " n"]:
    """Returns the normal quantiles of the ranks of values (ties share a rank); 0 where not `done`.

    Targets become independent of the scale and the tails of values: one very bad network does not bias the regression.
    """
    return jnp.where(done, jax.scipy.special.ndtri(jnp.clip(rank_shares(values, done), 1e-6, 1 - 1e-6)), 0.0)


def rank_shares(values: Float[Array, " n"], done: Bool[Array, " n"]) -> Float[Array, " n"]:
    """Returns the share of results below each value, counting ties as half, in (0, 1); 0 where not `done`."""
    ordered = jnp.sort(jnp.where(done, values, jnp.inf))
    less, no_more = (jnp.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    count = jnp.maximum(jnp.sum(done), 1).astype(jnp.float32)
    return jnp.where(done, 0.5 * (less + no_more).astype(jnp.float32) / count, 0.0)


class Constants(NamedTuple):
    """Constants of a prior covariance."""

    additive: Float[Array, ""]  # share of the additive effects
    decay: Float[Array, ""]  # decay of the interactions with the squared distance
    noise: Float[Array, ""]  # variance of the residual


def covariance(constants: Constants, a: Float[Array, "n e"], b: Float[Array, "m e"], dims: int) -> Float[Array, "n m"]:
    """Returns the prior covariance of two sets of embedded codes in units of `scale`, without the residual."""
    inner = jnp.matmul(a, b.T, precision="highest")
    norms = 0.5 * (jnp.sum(a * a, axis=1)[:, None] + jnp.sum(b * b, axis=1)[None])
    interactions = jnp.exp(-constants.decay * min(dims, FAR) * jnp.maximum(norms - inner, 0.0))
    return constants.additive * inner + (1 - constants.additive) * interactions


def prior_variance(constants: Constants, a: Float[Array, "n e"]) -> Float[Array, " n"]:
    """Returns the diagonal of the prior covariance of embedded codes."""
    return constants.additive * jnp.sum(a * a, axis=1) + (1 - constants.additive)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GaussianProcess:
    """Gaussian process conditioned on trials; rows beyond `count` are meaningless.

    Attributes:
      embedded: embeddings of the trials, times `columns`.
      whitener: inverse of the lower Cholesky factor of the trials' covariance, residual included. It grows by one row
        per trial and turns predictions into matrix products.
      innovations: whitener times targets; 0 for trials without a value.
      count: number of rows in use.
      scale: estimated variance of the prior.
      incumbent: highest target; without targets, 0, the median of normal scores.
      weights: posterior mean of the additive effects; ``embed @ weights`` ranks any number of codes cheaply.
      constants: constants of the prior covariance.
      columns: factor of each column of the embeddings.
    """

    embedded: Float[Array, "*k m e"]  # `hypotheses` stacks processes along k
    whitener: Float[Array, "*k m m"]
    innovations: Float[Array, "*k m"]
    count: Int[Array, "*k"]
    scale: Float[Array, "*k"]
    incumbent: Float[Array, "*k"]
    weights: Float[Array, "*k e"]
    constants: Constants
    columns: Float[Array, "*k e"]

    @property
    def rows(self) -> int:
        """Number of trials the model can hold."""
        return self.embedded.shape[0]

    @property
    def used(self) -> Bool[Array, " m"]:
        """Mask of the rows that hold a trial."""
        return jnp.arange(self.rows) < self.count

    def sample_weights(self, key: PRNGKeyArray, n: int) -> Float[Array, "n e"]:
        """Draws additive effects from their posterior. Consumes the key.

        Effects and trials are drawn from the prior, and the effects are corrected by the difference between drawn and
        actual innovations (Matheron's rule). In these draws the interactions of different trials are independent.
        """
        effects_key, residual_key = jax.random.split(key)
        additive, _, noise = self.constants
        effects = jnp.sqrt(self.scale * additive) * jax.random.normal(effects_key, (n, self.weights.shape[0]))
        residual = jnp.sqrt(self.scale * (1 - additive + noise)) * jax.random.normal(residual_key, (n, self.rows))
        trials = jnp.matmul(effects, self.embedded.T, precision="highest") + residual
        corrected = effects - additive * self._explained(self._whitened(trials.T)).T
        return self.weights[None] + self.columns[None] * corrected

    def _whitened(self, targets: Float[Array, "m k"]) -> Float[Array, "m k"]:
        """Returns the whitener times the targets of trials."""
        targets = jnp.where(self.used[:, None], targets, 0.0)
        return jnp.where(self.used[:, None], jnp.matmul(self.whitener, targets, precision="highest"), 0.0)

    def _explained(self, innovations: Float[Array, "m k"]) -> Float[Array, "e k"]:
        """Returns the trials' embeddings times the inverse covariance times their targets, summed over trials."""
        precise = jnp.matmul(self.whitener.T, innovations, precision="highest")
        return jnp.matmul(self.embedded.T, jnp.where(self.used[:, None], precise, 0.0), precision="highest")


def prior(rows: int, constants: Constants, columns: Float[Array, " e"]) -> GaussianProcess:
    """Returns the model before the first trial, with room for at least `rows` trials."""
    rows = -(-rows // BLOCK) * BLOCK
    return GaussianProcess(
        embedded=jnp.zeros((rows, columns.shape[0])),
        whitener=jnp.zeros((rows, rows)),
        innovations=jnp.zeros(rows),
        count=jnp.zeros((), jnp.int32),
        scale=jnp.ones(()),
        incumbent=jnp.float32(0.0),
        weights=jnp.zeros(columns.shape[0]),
        constants=constants,
        columns=columns,
    )


def grow(model: GaussianProcess, rows: int) -> GaussianProcess:
    """Returns the same model with room for at least `rows` trials."""
    more = max(-(-rows // BLOCK) * BLOCK - model.rows, 0)
    return dataclasses.replace(
        model,
        embedded=jnp.pad(model.embedded, ((0, more), (0, 0))),
        whitener=jnp.pad(model.whitener, ((0, more), (0, more))),
        innovations=jnp.pad(model.innovations, (0, more)),
    )


def extend(model: GaussianProcess, embedded: Float[Array, " e"], new: Bool[Array, ""], dims: int) -> GaussianProcess:
    """Returns the model with one more trial without a target: means are unchanged, variances around it shrink.

    Args:
      model: model of the trials so far.
      embedded: embedding of the trial.
      new: condition for adding the trial; it is also not added if no room is left.
      dims: length of a code.
    """
    noise, embedded = model.constants.noise, embedded * model.columns
    place = jnp.where(new & (model.count < model.rows), model.count, model.rows)
    cross = jnp.where(model.used, covariance(model.constants, model.embedded, embedded[None], dims)[:, 0], 0.0)
    whitened = jnp.where(model.used, jnp.matmul(model.whitener, cross, precision="highest"), 0.0)
    variance = prior_variance(model.constants, embedded[None])[0] - jnp.sum(jnp.square(whitened)) + noise + JITTER
    row = -jnp.matmul(whitened, model.whitener, precision="highest")
    row = row.at[place].set(1.0, mode="drop") / jnp.sqrt(jnp.maximum(variance, noise))
    return dataclasses.replace(
        model,
        embedded=model.embedded.at[place].set(embedded, mode="drop"),
        whitener=model.whitener.at[place].set(row, mode="drop"),
        count=model.count + jnp.where(place < model.rows, 1, 0),
    )


def extend_by_block(
    model: GaussianProcess, embedded: Float[Array, "b e"], new: Bool[Array, " b"], dims: int
) -> GaussianProcess:
    """Returns the model with several more trials without a target, to rounding as by `extend` for one after another.

    It reads and writes the whitener once for all, by matrix products.

    Args:
      model: model of the trials so far.
      embedded: embeddings of the trials.
      new: conditions for adding each trial; those are not added either for which no room is left.
      dims: length of a code.
    """
    embedded = embedded * model.columns[None]
    new = new & (model.count + jnp.cumsum(new) <= model.rows)
    place = jnp.where(new, model.count + jnp.cumsum(new) - 1, model.rows)
    cross = jnp.where(model.used[:, None] & new[None], covariance(model.constants, model.embedded, embedded, dims), 0.0)
    whitened = jnp.where(model.used[:, None], jnp.matmul(model.whitener, cross, precision="highest"), 0.0)
    inner = covariance(model.constants, embedded, embedded, dims) - jnp.matmul(
        whitened.T, whitened, precision="highest"
    )
    identity = jnp.eye(len(new))
    inner = jnp.where(new[:, None] & new[None], inner + (model.constants.noise + JITTER) * identity, identity)
    factor = jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(inner), identity, lower=True)
    product = jnp.matmul(whitened.T, model.whitener, precision="highest")
    rows = -jnp.matmul(factor, product, precision="highest").at[:, place].add(-factor, mode="drop")
    return dataclasses.replace(
        model,
        embedded=model.embedded.at[place].set(embedded, mode="drop"),
        whitener=model.whitener.at[place].set(rows, mode="drop"),
        count=model.count + jnp.sum(new, dtype=model.count.dtype),
    )


def learn(model: GaussianProcess, targets: Float[Array, " m"]) -> GaussianProcess:
    """Returns the posterior given a target for each of the model's trials; ignores rows beyond `count`."""
    innovations = model._whitened(targets[:, None])
    n = jnp.maximum(model.count, 1).astype(jnp.float32)
    return dataclasses.replace(
        model,
        innovations=innovations[:, 0],
        # Not 0, so that of equal values the least certain code is chosen next.
        scale=jnp.where(model.count > 0, jnp.maximum(jnp.sum(jnp.square(innovations)) / n, JITTER), 1.0),
        incumbent=jnp.where(model.count > 0, jnp.max(jnp.where(model.used, targets, -jnp.inf)), 0.0),
        weights=model.columns * model.constants.additive * model._explained(innovations)[:, 0],
    )


def log_evidence(model: GaussianProcess) -> Float[Array, ""]:
    """Returns the log of the marginal likelihood of the targets at the best `scale`, without terms of `count` alone."""
    logs = jnp.where(model.used, jnp.log(jnp.maximum(jnp.diagonal(model.whitener), 1e-12)), 0.0)
    return jnp.sum(logs) - 0.5 * model.count.astype(jnp.float32) * jnp.log(model.scale)


def whiten(model: GaussianProcess, embedded: Float[Array, "n e"], dims: int) -> Float[Array, "m n"]:
    """Returns the whitener times the covariances of the model's trials with other codes.

    Computes only the blocks of used rows on and below the diagonal.
    """
    embedded = embedded * model.columns[None]
    blocks = -(-model.count // BLOCK)

    def column(j: Array, whitened: Array) -> Array:
        trials = jax.lax.dynamic_slice_in_dim(model.embedded, j * BLOCK, BLOCK)
        used = (j * BLOCK + jnp.arange(BLOCK) < model.count)[:, None]
        cross = jnp.where(used, covariance(model.constants, trials, embedded, dims), 0.0)

        def row(i: Array, whitened: Array) -> Array:
            factor = jax.lax.dynamic_slice(model.whitener, (i * BLOCK, j * BLOCK), (BLOCK, BLOCK))
            factor = jnp.where((i * BLOCK + jnp.arange(BLOCK) < model.count)[:, None], factor, 0.0)
            so_far = jax.lax.dynamic_slice_in_dim(whitened, i * BLOCK, BLOCK)
            product = so_far + jnp.matmul(factor, cross, precision="highest")
            return jax.lax.dynamic_update_slice_in_dim(whitened, product, i * BLOCK, axis=0)

        return jax.lax.fori_loop(j, blocks, row, whitened)

    return jax.lax.fori_loop(0, blocks, column, jnp.zeros((model.rows, embedded.shape[0])))


def predict_embedded(
    model: GaussianProcess, embedded: Float[Array, "n e"], dims: int
) -> tuple[Float[Array, " n"], Float[Array, " n"], Float[Array, "m n"]]:
    """Returns posterior means of other codes, variances in units of `scale` (without the residual), and `whiten`."""
    whitened = whiten(model, embedded, dims)
    prior = prior_variance(model.constants, embedded * model.columns[None])
    mean = jnp.matmul(model.innovations, whitened, precision="highest")
    return mean, prior - jnp.sum(jnp.square(whitened), axis=0), whitened


def shrinkage(
    model: GaussianProcess,
    embedded: Float[Array, "n e"],
    whitened: Float[Array, "m n"],
    earlier: Float[Array, "k n"],
    place: Int[Array, ""],
    variance: Float[Array, ""],
    dims: int,
) -> Float[Array, " n"]:
    """Returns roots of the amounts by which variances shrink once one of the predicted codes is pending.

    Args:
      model: model of the trials so far.
      embedded: embeddings of the predicted codes.
      whitened: third result of `predict_embedded` for them.
      earlier: shrinkages by the codes that became pending since; 0 in unused rows.
      place: row of the code that becomes pending.
      variance: its variance before that, as `predict_embedded` returns it.
      dims: length of a code.
    """
    scaled = embedded * model.columns[None]
    cross = covariance(model.constants, scaled, scaled[place][None], dims)[:, 0]
    for rows in (whitened, earlier):
        cross = cross - jnp.matmul(rows[:, place], rows, precision="highest")
    return cross / jnp.sqrt(jnp.maximum(variance, JITTER) + model.constants.noise)


def deviation(model: GaussianProcess, variance: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns the standard deviation of a value, residual included, from a variance returned by `predict_embedded`."""
    return jnp.sqrt(model.scale * (jnp.maximum(variance, JITTER) + model.constants.noise))


def log_expected_improvement(
    mean: Float[Array, "..."], deviation: Float[Array, "..."], incumbent: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Returns ``log E[max(value - incumbent, 0)]`` for normal values of given means and standard deviations."""
    u = (mean - incumbent) / deviation
    density = -0.5 * u * u - 0.5 * np.log(2 * np.pi)
    gain = u * jax.scipy.special.ndtr(u) + jnp.exp(density)
    # For very negative u the sum cancels; use the first terms of its asymptotic series instead.
    square = jnp.square(jnp.minimum(u, -5.0))
    tail = density - jnp.log(square) + jnp.log1p(-3 / square + 15 / jnp.square(square))
    return jnp.log(deviation) + jnp.where(u > -5, jnp.log(jnp.maximum(gain, 1e-12)), tail)
