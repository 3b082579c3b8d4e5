"""Predicting the value of codes nobody has tried: Bayesian linear regression on features.

The tree's regressions say on which side of a cut a code lies; this one, over all told trials, says how good it may be
inside a region. With prior ``w ~ N(0, I / ridge)`` and unit noise, the posterior of the weights given features ``Phi``
and targets ``y`` is ``N(A^-1 Phi^T y, A^-1)``, ``A = Phi^T Phi + ridge I``; the posterior mean is ridge regression.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray


def normal_scores(values: Float[Array, " n"], done: Bool[Array, " n"]) -> Float[Array, " n"]:
    """Values replaced by the normal quantiles of their ranks (ties share a rank); 0 where not `done`.

    Makes targets independent of the scale and the tails of values: one very bad network does not bend the regression.
    """
    less = jnp.sum((values[None] < values[:, None]) & done[None], axis=1)
    equal = jnp.sum((values[None] == values[:, None]) & done[None], axis=1)
    count = jnp.maximum(jnp.sum(done), 1).astype(jnp.float32)
    rank = less.astype(jnp.float32) + 0.5 * equal.astype(jnp.float32)
    return jnp.where(done, jax.scipy.special.ndtri(jnp.clip(rank / count, 1e-6, 1 - 1e-6)), 0.0)


def raw_values(values: Float[Array, " n"], done: Bool[Array, " n"]) -> Float[Array, " n"]:
    """Values as they are; 0 where not `done`."""
    return jnp.where(done, values, 0.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BayesianRidge:
    """Posterior of the weights: its mean and the lower Cholesky factor of its precision."""

    mean: Float[Array, " d"]
    factor: Float[Array, "d d"]

    @classmethod
    def prior(cls, d: int, ridge: float) -> "BayesianRidge":
        """What is believed before the first result."""
        return cls(jnp.zeros(d), ridge**0.5 * jnp.eye(d))

    @classmethod
    def fit(
        cls, features: Float[Array, "n d"], targets: Float[Array, " n"], done: Bool[Array, " n"], ridge: float
    ) -> "BayesianRidge":
        """The posterior given the rows that are `done`."""
        told = jnp.where(done[:, None], features, 0.0)
        precision = jnp.matmul(told.T, told, precision="highest") + ridge * jnp.eye(features.shape[1])
        factor = jnp.linalg.cholesky(precision)
        return cls(jax.scipy.linalg.cho_solve((factor, True), told.T @ targets), factor)

    def sample(self, key: PRNGKeyArray) -> Float[Array, " d"]:
        """Weights drawn from the posterior. The key is consumed."""
        noise = jax.random.normal(key, self.mean.shape)
        return self.mean + jax.scipy.linalg.solve_triangular(self.factor, noise, trans=1, lower=True)
