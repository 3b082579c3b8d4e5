"""Drawing a batch from an explicit pool: one leaf per draw, then the most promising unseen code of its region.

All codes of the pool are routed once. The Gaussian process scores a shortlist: the codes an additive model ranks
highest, the neighbours of the best trials, and some random codes.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lanas_jax.searchers import history as hist
from lanas_jax.searchers import partition, selection, surrogate
from lanas_jax.searchers.history import History
from lanas_jax.searchers.known import Known
from lanas_jax.searchers.partition import PartitionTree
from lanas_jax.searchers.sampling import Pool, best_of, best_per_bucket, neighbours
from lanas_jax.spaces.base import SearchSpace

LIKED = 127  # shortlisted codes chosen by the additive model, each the best of its bucket; a prime
BEST, NEAR = 4, 128  # number of best trials whose neighbours are shortlisted; most neighbours
RANDOM = 33  # shortlisted random codes


def draw_from_pool(
    key: PRNGKeyArray,
    space: SearchSpace,
    pool: Pool,
    known: Known,
    cp: Float[Array, ""],
    n: int,
    *,
    by_model: bool,
) -> tuple[Known, Int[Array, "n dims"]]:
    """Draws `n` unseen codes of the pool, each from the leaf the tree selects; rows of -1 when none are left.

    Args:
      key: PRNG key; consumed.
      space: search space.
      pool: codes to draw from.
      known: trials, partition tree and surrogate model.
      cp: exploration weight of the upper confidence bound.
      n: number of draws.
      by_model: choice by greatest expected improvement instead of uniformly.
    """
    history, tree, model = known
    leaf_of = partition.route(tree, pool.features)
    tree, leaves = _leaves(tree, partition.subtotals(tree, leaf_of, ~history.seen), cp, n)
    if by_model:
        rows = _by_model(key, space, pool, known, leaf_of, leaves)
    else:
        rows = _uniformly(key, history, leaf_of, leaves)
    codes = jnp.where(rows[:, None] >= 0, pool.codes[rows], hist.NOTHING)
    history = dataclasses.replace(history, seen=hist.with_rows(history.seen, rows))
    return Known(hist.add_pending(history, codes), tree, model), codes


def _leaves(
    tree: PartitionTree, unseen: Int[Array, " nodes"], cp: Float[Array, ""], n: int
) -> tuple[PartitionTree, Int[Array, " n"]]:
    """Selects a leaf per draw and backs up each pending draw before the next; -1 once no code is left anywhere."""

    def one(carry: tuple[PartitionTree, Array], _: None) -> tuple[tuple[PartitionTree, Array], Array]:
        tree, unseen = carry
        leaf = selection.descend(tree, unseen > 0, cp)
        visited = partition.backup(tree, leaf)
        taken = visited.visits - tree.visits
        left = unseen[0] > 0
        tree = dataclasses.replace(tree, visits=jnp.where(left, visited.visits, tree.visits))
        return (tree, unseen - taken), jnp.where(left, leaf, -1)

    (tree, _), leaves = jax.lax.scan(one, (tree, unseen), None, length=n)
    return tree, leaves


def _uniformly(
    key: PRNGKeyArray, history: History, leaf_of: Int[Array, " m"], leaves: Int[Array, " n"]
) -> Int[Array, " n"]:
    def one(seen: Array, draw: tuple[Array, Array]) -> tuple[Array, Array]:
        key, leaf = draw
        row, found = best_of(jax.random.uniform(key, seen.shape), ~seen & (leaf_of == leaf))
        row = jnp.where(found, row, -1)
        return hist.with_rows(seen, row[None]), row

    return jax.lax.scan(one, history.seen, (jax.random.split(key, leaves.shape[0]), leaves))[1]


def _by_model(
    key: PRNGKeyArray,
    space: SearchSpace,
    pool: Pool,
    known: Known,
    leaf_of: Int[Array, " m"],
    leaves: Int[Array, " n"],
) -> Int[Array, " n"]:
    """Returns, for each leaf in order, the shortlisted row of greatest expected improvement."""
    history, _, model = known
    free = ~history.seen & jnp.any(leaf_of[:, None] == leaves[None], axis=1)
    liked = pool.embedded @ model.weights
    shortlist, real = _shortlist(key, space, pool, history, liked, free)
    embedded, leaf_of_listed = pool.embedded[shortlist], leaf_of[shortlist]
    mean, variance, whitened = surrogate.predict_embedded(model, embedded, space.dims)
    conditions = jnp.zeros((leaves.shape[0], shortlist.shape[0]))

    def one(carry: tuple, draw: tuple[Array, Array]) -> tuple[tuple, Array]:
        variance, conditions, taken = carry
        i, leaf = draw
        gain = surrogate.log_expected_improvement(mean, surrogate.deviation(variance, model.scale), model.incumbent)
        place, listed = best_of(gain, real & (leaf_of_listed == leaf) & ~jnp.any(shortlist[:, None] == taken, axis=1))
        unlisted, found = _best_unlisted(liked, ~history.seen & (leaf_of == leaf), taken, listed)
        row = jnp.where(listed, shortlist[place], jnp.where(found, unlisted, -1))
        # The shortlisted code is now pending: means are unchanged, variances around it shrink.
        cross = surrogate.covariance(embedded, embedded[place][None], space.dims)[:, 0]
        cross = cross - whitened[:, place] @ whitened - conditions[:, place] @ conditions
        condition = jnp.where(listed, cross / surrogate.deviation(variance[place]), 0.0)
        taken = jnp.roll(taken, 1, axis=1).at[0, 0].set(row)
        return (variance - jnp.square(condition), conditions.at[i].set(condition), taken), row

    taken = jnp.full((1, leaves.shape[0]), -1, jnp.int32)
    draws = (jnp.arange(leaves.shape[0]), leaves)
    return jax.lax.scan(one, (variance, conditions, taken), draws)[1]


def _best_unlisted(
    liked: Float[Array, " m"], allowed: Bool[Array, " m"], taken: Int[Array, "1 n"], listed: Bool[Array, ""]
) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """Returns the best code by the additive model of a leaf without shortlisted codes; computed only if needed."""

    def look() -> tuple[Array, Array]:
        return best_of(liked, allowed & ~hist.with_rows(jnp.zeros_like(allowed), taken[0]))

    return jax.lax.cond(listed, lambda: (jnp.int32(0), jnp.bool_(False)), look)


def _shortlist(
    key: PRNGKeyArray,
    space: SearchSpace,
    pool: Pool,
    history: History,
    liked: Float[Array, " m"],
    free: Bool[Array, " m"],
) -> tuple[Int[Array, " k"], Bool[Array, " k"]]:
    """Returns the pool rows that the Gaussian process scores, and which of them may be drawn."""
    near_key, random_key = jax.random.split(key)
    by_effects, real = best_per_bucket(liked, free, LIKED)
    near = _near_the_best(near_key, space, pool, history)
    m = free.shape[0]
    anywhere = jnp.minimum((jax.random.uniform(random_key, (RANDOM,)) * m).astype(jnp.int32), m - 1)
    others = jnp.concatenate([near, anywhere])
    return jnp.concatenate([by_effects, jnp.maximum(others, 0)]), jnp.concatenate([real, (others >= 0) & free[others]])


def _near_the_best(key: PRNGKeyArray, space: SearchSpace, pool: Pool, history: History) -> Int[Array, " near"]:
    """Returns the pool rows of the neighbours of the best trials; -1 for a neighbour that is not in the pool."""
    moves = int(np.sum(space.cardinalities - 1))
    best = min(BEST, max(NEAR // max(moves, 1), 1), history.capacity)
    _, rows = jax.lax.top_k(jnp.where(history.done, history.values, -jnp.inf), best)
    codes = neighbours(space, jnp.maximum(history.codes[rows], 0))
    if moves > NEAR:
        codes = codes[:, jax.random.permutation(key, moves)[:NEAR]]
    codes = codes.reshape(-1, space.dims)
    return jnp.where(space.valid(codes), pool.find(space, space.canonical(codes)), -1)
