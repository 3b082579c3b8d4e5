"""The model of a search for a front: objectives in common units, their Gaussian processes, and what a code would gain.

Objectives are compared in units of the model: normal scores of ranks, and negative costs for exact objectives, both
divided by the distance of the best from the reference. There is a Gaussian process per objective that is not exact, all
over the same trials. `pareto_lanas` selects the region; this file values the codes in it.

The residual of these processes is smaller than that of `hypotheses.TYPICAL`: with it, the likelihood of the accuracies,
latencies, energies and training times of uniform trials is greater, and searches leave less of the hypervolume.

Some draws seek an end of the front, the best value of one learned objective, without regard to the others. The networks
at the ends are unlike the rest, so the model, in which ranks are compressed there, expects little of them; a search for
the hypervolume alone may not try any.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lanas_jax.searchers import history as hist
from lanas_jax.searchers import partition, surrogate
from lanas_jax.searchers.history import History
from lanas_jax.searchers.hypervolume_improvement import Front, expected_improvement
from lanas_jax.searchers.hypotheses import Hypothesis
from lanas_jax.searchers.modelled import outstanding
from lanas_jax.searchers.objectives import traced_costs
from lanas_jax.searchers.partition import PartitionTree
from lanas_jax.searchers.sampling import Pool
from lanas_jax.searchers.surrogate import GaussianProcess
from lanas_jax.spaces.base import SearchSpace

MARGIN = 1.0  # distance of the reference below the worst values, as a share of the range; if small, ends are not found
PRIOR = Hypothesis(additive=0.5, decay=0.5, noise=0.05)  # of each learned objective
ENDS = 0.2  # share of draws that seek an end of the front
LEAST = 1e-30  # expected improvement below which codes are ordered by their distance from the front


class Units(NamedTuple):
    """The units in which objectives are compared."""

    scores: Float[Array, "capacity k"]  # normal scores of learned objectives, negative costs of exact ones
    reference: Float[Array, " k"]
    scale: Float[Array, " k"]

    def of(self, scores: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """Returns scores minus the reference, divided by the scale."""
        return (scores - self.reference[None]) / self.scale[None]


class Beliefs(NamedTuple):
    """What is known of tried and untried codes while a batch is drawn."""

    history: History
    tree: PartitionTree
    model: GaussianProcess  # extended by trials without values
    points: Float[Array, "capacity k"]  # scores; of pending trials, predicted ones
    counted: Bool[Array, " capacity"]  # rows that have points


def units_of(history: History, is_exact: Sequence[bool], reference: Sequence[float] | None) -> Units:
    """Returns the units in which the results of a search are compared.

    Args:
      history: trials; `values` has a column per objective.
      is_exact: whether each objective is known before training.
      reference: values of the objectives below which a trial is of no use; None for a `MARGIN` below the worst.
    """
    values, done = history.values, history.done
    learned = [surrogate.normal_scores(column, done) for column in values.T]
    scores = jnp.stack([values[:, i] if exact else learned[i] for i, exact in enumerate(is_exact)], axis=1)
    best = jnp.max(jnp.where(done[:, None], scores, -jnp.inf), axis=0)
    worst = jnp.min(jnp.where(done[:, None], scores, jnp.inf), axis=0)
    some = jnp.any(done)
    extent = jnp.where(some & (best > worst), best - worst, 1.0)
    lowest = jnp.where(some, worst, 0.0) - MARGIN * extent
    if reference is not None:
        given = jnp.stack([jnp.asarray(value, jnp.float32) for value in reference])
        below = jnp.sum((values < given[None]) & done[:, None], axis=0) / jnp.maximum(jnp.sum(done), 1)
        as_scores = jax.scipy.special.ndtri(jnp.clip(below.astype(jnp.float32), 1e-3, 1 - 1e-3))
        lowest = jnp.where(jnp.array(is_exact), given, as_scores)
    return Units(scores, lowest, jnp.where(some & (best > lowest), best - lowest, 1.0))


class FrontModel(NamedTuple):
    """The posteriors of all objectives, given the results of a search.

    Attributes:
      space: search space.
      objectives: names of the objectives.
      is_exact: whether each objective is known before training.
      pool: pool of codes that is searched, if any.
      costs: exact objectives of each code of the pool.
      units: units of the objectives.
      posteriors: Gaussian process of each objective that is not exact, without trials that have no values.
    """

    space: SearchSpace
    objectives: tuple[str, ...]
    is_exact: tuple[bool, ...]
    pool: Pool | None
    costs: Float[Array, "m exact"]
    units: Units
    posteriors: tuple[GaussianProcess, ...]

    def predict(
        self, model: GaussianProcess, embedded: Float[Array, "n e"], costs: Float[Array, "n exact"]
    ) -> tuple[Float[Array, "n k"], Float[Array, "n k"]]:
        """Returns means and standard deviations of scores; an exact objective has no deviation.

        Args:
          model: Gaussian process of the embeddings of all trials, those without values included.
          embedded: embeddings of the codes.
          costs: exact objectives of the codes.
        """
        _, variance, whitened = surrogate.predict_embedded(model, embedded, self.space.dims)
        learned, known = iter(self.posteriors), iter(costs.T)
        means, deviations = [], []
        for exact in self.is_exact:
            if exact:
                means.append(next(known))
                deviations.append(jnp.zeros(embedded.shape[0]))
            else:
                posterior = next(learned)
                means.append(jnp.matmul(posterior.innovations, whitened, precision="highest"))
                deviations.append(surrogate.deviation(posterior, variance))
        return jnp.stack(means, axis=1), jnp.stack(deviations, axis=1)

    def optimistic(self) -> Float[Array, "m k"]:
        """Returns optimistic scores of all pool codes: those of the additive effects, and one deviation more."""
        assert isinstance(self.pool, Pool)
        learned, known = iter(self.posteriors), iter(self.costs.T)
        columns = []
        for exact in self.is_exact:
            if exact:
                columns.append(next(known))
            else:
                posterior = next(learned)
                residual = surrogate.deviation(posterior, jnp.float32(0.0))
                effects = jnp.matmul(self.pool.embedded, posterior.weights, precision="highest")
                columns.append(effects + residual)
        return jnp.stack(columns, axis=1)

    def exact_of(self, codes: Int[Array, "n dims"]) -> Float[Array, "n exact"]:
        """Returns the exact objectives of codes; those of codes outside a pool are unknown and count as lowest."""
        if not any(self.is_exact):
            return jnp.zeros((codes.shape[0], 0))
        if self.pool is None:
            costs = traced_costs(self.space, self.objectives, codes)
            assert costs is not None
            return costs
        rows = self.pool.find(self.space, codes)
        return jnp.where(rows[:, None] >= 0, self.costs[rows], jnp.min(self.costs, axis=0)[None])

    def draw_end(self, key: PRNGKeyArray) -> Int[Array, ""]:
        """Returns the objective of which a draw seeks the end of the front, a learned one; mostly -1, for no end."""
        ends_key, objective_key = jax.random.split(key)
        learned = jnp.array([i for i, exact in enumerate(self.is_exact) if not exact])
        return jnp.where(jax.random.uniform(ends_key) < ENDS, jax.random.choice(objective_key, learned), -1)

    def log_gain(
        self,
        beliefs: Beliefs,
        front: Front,
        embedded: Float[Array, "n e"],
        costs: Float[Array, "n exact"],
        end: Int[Array, ""] | int = -1,
    ) -> Float[Array, " n"]:
        """Returns the log of the expected improvement of codes.

        Args:
          beliefs: trials, partition tree, model and points.
          front: front of their points.
          embedded: embeddings of the codes.
          costs: exact objectives of the codes.
          end: objective whose best value is to be improved; -1 for the hypervolume. Codes of no expected improvement
            of the hypervolume come below the others, the nearest to the front first.
        """
        mean, deviation = self.predict(beliefs.model, embedded, costs)
        spread = jnp.where(deviation[:, end] > 0, deviation[:, end], 1.0)
        best = jnp.max(jnp.where(beliefs.history.done, beliefs.points[:, end], -jnp.inf))
        alone = surrogate.log_expected_improvement(mean[:, end], spread, best)
        mean, deviation = self.units.of(mean), deviation / self.units.scale[None]
        gain = expected_improvement(front, mean, deviation)
        near = jnp.log(LEAST) + jnp.minimum(jnp.min(mean, axis=1) - 10.0, 0.0)
        return jnp.where(end >= 0, alone, jnp.where(gain > LEAST, jnp.log(jnp.maximum(gain, LEAST)), near))

    def with_outstanding(self, beliefs: Beliefs) -> Beliefs:
        """Returns the beliefs with trials without values (pending or failed): the latest, if not all fit."""
        rows, number = outstanding(beliefs.history, beliefs.model)
        pending = beliefs.history.status == hist.PENDING

        def add(i: Array, beliefs: Beliefs) -> Beliefs:
            return self._with_trial(beliefs, rows[i], pending[rows[i]])

        return jax.lax.fori_loop(0, number, add, beliefs)

    def with_drawn(self, beliefs: Beliefs, code: Int[Array, " dims"], leaf: Int[Array, ""]) -> Beliefs:
        """Returns the beliefs with one more pending trial, drawn from a leaf; unchanged for a row of -1."""

        def add() -> Beliefs:
            history = hist.add_pending(beliefs.history, code[None])
            after = beliefs._replace(history=history, tree=partition.backup(beliefs.tree, leaf))
            return self._with_trial(after, beliefs.history.count, jnp.bool_(True))

        return jax.lax.cond(code[0] >= 0, add, lambda: beliefs)

    def _with_trial(self, beliefs: Beliefs, row: Int[Array, ""], pending: Bool[Array, ""]) -> Beliefs:
        """Returns the beliefs with the trial of a row without values: less uncertainty, and a point if pending."""
        code = jnp.maximum(beliefs.history.codes[row], 0)[None]
        embedded = self.space.embed(code)
        point, _ = self.predict(beliefs.model, embedded, self.exact_of(code))
        return beliefs._replace(
            model=surrogate.extend(beliefs.model, embedded[0], jnp.bool_(True), self.space.dims),
            points=beliefs.points.at[row].set(jnp.where(pending, point[0], beliefs.points[row])),
            counted=beliefs.counted.at[row].set(beliefs.counted[row] | pending),
        )
