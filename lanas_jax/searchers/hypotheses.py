"""Gaussian processes of the same trials under priors with different constants, of which the most probable is used.

No single prior fits all tables: some values vary slowly over a space, some quickly, and some hardly follow a smooth
function. So each search chooses among a few constants by the evidence of its own trials: the marginal likelihood of
their values, times the prior probability of the constants.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lanas_jax.searchers import surrogate
from lanas_jax.searchers.surrogate import Constants, GaussianProcess


class Hypothesis(NamedTuple):
    """Constants of a prior, and how probable it is."""

    additive: float
    decay: float
    noise: float
    sizes: float = 0.0  # share of the sizes of networks in the embedding
    log_prior: float = 0.0  # log of the prior probability, up to a common constant


TYPICAL = Hypothesis(additive=0.3, decay=0.35, noise=0.2, log_prior=2.0)
HYPOTHESES = (
    TYPICAL,
    Hypothesis(additive=0.15, decay=0.25, noise=0.05),
    Hypothesis(additive=0.5, decay=2.0, noise=0.05),
    Hypothesis(additive=0.3, decay=0.35, noise=0.2, sizes=0.15),
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hypotheses:
    """Gaussian processes of the same trials.

    Attributes:
      processes: the processes, stacked along the first axis of every array.
      log_prior: log of the prior probability of each process, up to a common constant.
    """

    processes: GaussianProcess
    log_prior: Float[Array, " k"]

    @property
    def rows(self) -> int:
        """Number of trials that the processes can hold."""
        return self.processes.embedded.shape[1]

    @property
    def embedding_size(self) -> int:
        """Number of columns of embeddings."""
        return self.processes.embedded.shape[2]

    @property
    def count(self) -> Int[Array, ""]:
        """Number of trials."""
        return self.processes.count[0]

    @property
    def chosen(self) -> Int[Array, ""]:
        """Index of the most probable process."""
        return jnp.argmax(jax.vmap(surrogate.log_evidence)(self.processes) + self.log_prior)

    @property
    def best(self) -> GaussianProcess:
        """The most probable process."""
        chosen = self.chosen
        return jax.tree.map(lambda leaf: leaf[chosen], self.processes)

    def grow(self, rows: int) -> "Hypotheses":
        """Returns the same processes with room for at least `rows` trials."""
        return dataclasses.replace(self, processes=jax.vmap(lambda one: surrogate.grow(one, rows))(self.processes))

    def without_trials(self, empty: Bool[Array, ""]) -> "Hypotheses":
        """Returns the processes without any trial if `empty`, and with all of them otherwise."""
        count = jnp.where(empty, 0, self.processes.count)
        return dataclasses.replace(self, processes=dataclasses.replace(self.processes, count=count))

    def extend(self, embedded: Float[Array, " e"], new: Bool[Array, ""], dims: int) -> "Hypotheses":
        """Returns the processes with one more trial, as `surrogate.extend`."""
        processes = jax.vmap(lambda one: surrogate.extend(one, embedded, new, dims))(self.processes)
        return dataclasses.replace(self, processes=processes)

    def learn(self, targets: Float[Array, " m"]) -> "Hypotheses":
        """Returns the posteriors given a target for each trial; ignores rows beyond `count`."""
        processes = jax.vmap(lambda one: surrogate.learn(one, targets))(self.processes)
        return dataclasses.replace(self, processes=processes)


def prior(rows: int, e: int, sizes: int, hypotheses: Sequence[Hypothesis] = HYPOTHESES) -> Hypotheses:
    """Returns a process before the first trial for each of the hypotheses.

    Args:
      rows: least number of trials that the processes can hold.
      e: number of columns of embeddings.
      sizes: number of the last of them that are sizes; without any, hypotheses with sizes are left out.
      hypotheses: constants of the processes.
    """
    hypotheses = [one for one in hypotheses if sizes or not one.sizes]
    is_size = np.arange(e) >= e - sizes
    factors = [np.sqrt(np.where(is_size, one.sizes / max(sizes, 1), 1 - one.sizes)) for one in hypotheses]
    constants = Constants(*np.array(hypotheses, np.float32).T[: len(Constants._fields)])
    processes = _processes(rows, *jax.device_put((constants, np.stack(factors).astype(np.float32))))
    return Hypotheses(processes, jax.device_put(np.array([one.log_prior for one in hypotheses], np.float32)))


@jax.jit(static_argnames="rows")
def _processes(rows: int, constants: Constants, columns: Float[Array, "k e"]) -> GaussianProcess:
    """Returns the processes before the first trial: one program compiles faster than many small ones."""
    return jax.vmap(lambda constants, columns: surrogate.prior(rows, constants, columns))(constants, columns)
