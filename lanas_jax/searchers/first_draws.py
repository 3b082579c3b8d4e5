"""The first codes of a search: uniform draws, or draws from which the surrogate model learns most."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lanas_jax.searchers import history as hist
from lanas_jax.searchers import partition, surrogate
from lanas_jax.searchers.history import History
from lanas_jax.searchers.partition import PartitionTree
from lanas_jax.searchers.random_search import uniform_unseen
from lanas_jax.searchers.sampling import Pool, best_of, embed
from lanas_jax.searchers.selection import Known
from lanas_jax.spaces.base import Codes, SearchSpace

CANDIDATES = 64  # least number of uniform draws among which codes are chosen


def draw_uniformly(
    key: PRNGKeyArray, space: SearchSpace, pool: Pool | Codes | None, history: History, tree: PartitionTree, n: int
) -> tuple[History, PartitionTree, Float[Array, ""], Int[Array, "n dims"]]:
    """Draws `n` unseen codes uniformly, as pending trials; returns history, tree, an acceptance of 1, and the codes."""
    drawn, codes = uniform_unseen(key, space, pool, history, n)
    return drawn, partition.with_visits(tree, space.features(codes), codes[:, 0] >= 0), jnp.float32(1.0), codes


def draw_apart(
    key: PRNGKeyArray, space: SearchSpace, pool: Pool | Codes | None, known: Known, n: int
) -> tuple[History, PartitionTree, Float[Array, ""], Int[Array, "n dims"]]:
    """Draws `n` unseen codes that tell the model most; rows of -1 when none are left.

    Each is the one of greatest predictive variance among unseen codes that were drawn uniformly. Variances depend on
    which codes were tried, not on their values, so the codes of one draw spread as those of several do. Without any
    trial, the first code is uniform.

    Args:
      key: PRNG key; consumed.
      space: search space.
      pool: codes to draw from, if any.
      known: trials, partition tree and surrogate model; the model includes trials without a value.
      n: number of draws.

    Returns:
      The history and the tree with pending trials, an acceptance of 1, and the codes.
    """
    history, tree, model = known
    _, codes = uniform_unseen(key, space, pool, history, max(CANDIDATES, 4 * n))
    embedded = embed(space, pool, jnp.maximum(codes, 0), len(model.columns))
    _, variance, whitened = surrogate.predict_embedded(model, embedded, space.dims)

    def one(carry: tuple[Array, Array, Array], i: Array) -> tuple[tuple[Array, Array, Array], Array]:
        variance, conditions, free = carry
        place, found = best_of(jnp.where(model.count + i > 0, variance, 0.0), free)
        condition = surrogate.shrinkage(model, embedded, whitened, conditions, place, variance[place], space.dims)
        carry = variance - jnp.square(condition), conditions.at[i].set(condition), free.at[place].set(False)
        return carry, jnp.where(found, codes[place], hist.NOTHING)

    start = variance, jnp.zeros((n, codes.shape[0])), codes[:, 0] >= 0
    _, codes = jax.lax.scan(one, start, jnp.arange(n))
    tree = partition.with_visits(tree, space.features(codes), codes[:, 0] >= 0)
    return hist.add_pending(hist.mark(history, space, pool, codes), codes), tree, jnp.float32(1.0), codes
