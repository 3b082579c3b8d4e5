"""Drawing a batch from an explicit pool: a leaf for each draw, then the most promising unseen code of its region.

All codes of the pool are routed once. The Gaussian process looks at a shortlist of them: those that an additive model
likes best, some near the best trials, some at random.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lanas_jax import partition, selection, surrogate
from lanas_jax.partition import PartitionTree
from lanas_jax.sampling import Pool, best_of, best_per_bucket
from lanas_jax.searchers import history as hist
from lanas_jax.searchers.history import History
from lanas_jax.searchers.known import Known
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.surrogate import GaussianProcess

LIKED, NEAR, RANDOM = 257, 67, 67  # codes on the shortlist, each the best of its bucket; primes


def draw(
    key: PRNGKeyArray,
    space: SearchSpace,
    pool: Pool,
    known: Known,
    cp: Float[Array, ""],
    n: int,
    *,
    by_model: bool,
) -> tuple[Known, Int[Array, "n dims"]]:
    """`n` unseen codes of the pool, each from the leaf the tree recommends; rows of -1 when none are left.

    Args:
      key: consumed.
      space: what is searched.
      pool: the codes there are.
      known: trials, regions and model.
      cp: weight of exploration.
      n: number of draws.
      by_model: whether to draw the greatest expected improvement rather than uniformly.
    """
    history, tree, model = known
    leaf_of = partition.route(tree, pool.features)
    tree, leaves = _leaves(tree, partition.subtotals(tree, leaf_of, (~history.seen).astype(jnp.int32)), cp, n)
    if by_model:
        model, rows = _by_model(key, space, pool, history, model, leaf_of, leaves)
    else:
        rows = _uniformly(key, history, leaf_of, leaves)
    codes = jnp.where(rows[:, None] >= 0, pool.codes[rows], hist.NOTHING)
    history = dataclasses.replace(history, seen=_mark(history.seen, rows))
    return Known(hist.add_pending(history, codes), tree, model), codes


def _mark(seen: Bool[Array, " m"], rows: Int[Array, " n"]) -> Bool[Array, " m"]:
    return seen.at[jnp.where(rows >= 0, rows, seen.shape[0])].set(True, mode="drop")


def _leaves(
    tree: PartitionTree, unseen: Int[Array, " nodes"], cp: Float[Array, ""], n: int
) -> tuple[PartitionTree, Int[Array, " n"]]:
    """A leaf per draw, each pending draw backed up before the next; -1 once no code is left anywhere."""

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
        return _mark(seen, row[None]), row

    return jax.lax.scan(one, history.seen, (jax.random.split(key, leaves.shape[0]), leaves))[1]


def _by_model(
    key: PRNGKeyArray,
    space: SearchSpace,
    pool: Pool,
    history: History,
    model: GaussianProcess,
    leaf_of: Int[Array, " m"],
    leaves: Int[Array, " n"],
) -> tuple[GaussianProcess, Int[Array, " n"]]:
    """For each leaf in turn, the row of the greatest expected improvement on the shortlist."""
    free = ~history.seen & jnp.any(leaf_of[:, None] == leaves[None], axis=1)
    liked = pool.embedded @ model.weights
    shortlist, real = _shortlist(key, pool, model, liked, free)
    embedded, leaf_of_listed = pool.embedded[shortlist], leaf_of[shortlist]
    mean, variance, whitened = surrogate.predict(model, embedded, space.dims)

    def one(carry: tuple, leaf: Array) -> tuple[tuple, Array]:
        model, whitened, variance, taken = carry
        gain = surrogate.log_expected_improvement(mean, variance, model.incumbent, model.scale)
        place, listed = best_of(gain, real & (leaf_of_listed == leaf) & ~jnp.any(shortlist[:, None] == taken, axis=1))
        unlisted, found = _best_unlisted(liked, ~history.seen & (leaf_of == leaf), taken, listed)
        row = jnp.where(listed, shortlist[place], jnp.where(found, unlisted, -1))
        taken = jnp.roll(taken, 1, axis=1).at[0, 0].set(row)
        model, whitened, variance = _condition(space, model, embedded, whitened, variance, place, listed)
        return (model, whitened, variance, taken), row

    taken = jnp.full((1, leaves.shape[0]), -1, jnp.int32)
    start: tuple = (model, whitened, variance, taken)
    (model, *_), rows = jax.lax.scan(one, start, leaves)
    return model, rows


def _best_unlisted(
    liked: Float[Array, " m"], allowed: Bool[Array, " m"], taken: Int[Array, "1 n"], listed: Bool[Array, ""]
) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """The best code of a leaf of which nothing stands on the shortlist, by the additive model; looked for only then."""

    def look() -> tuple[Array, Array]:
        return best_of(liked, allowed & ~_mark(jnp.zeros_like(allowed), taken[0]))

    return jax.lax.cond(listed, lambda: (jnp.int32(0), jnp.bool_(False)), look)


def _shortlist(
    key: PRNGKeyArray, pool: Pool, model: GaussianProcess, liked: Float[Array, " m"], free: Bool[Array, " m"]
) -> tuple[Int[Array, " k"], Bool[Array, " k"]]:
    """Rows of the pool for the Gaussian process to look at, and which of them are real."""
    targets = model.factor @ model.innovations  # of pending trials: their prediction
    best = jnp.argsort(-targets)[:4]
    near = jnp.max(pool.embedded @ model.embedded[best].T, axis=1)
    parts = (
        best_per_bucket(liked, free, LIKED),
        best_per_bucket(near, free, NEAR),
        best_per_bucket(jax.random.uniform(key, free.shape), free, RANDOM),
    )
    rows, real = zip(*parts, strict=True)
    return jnp.concatenate(rows), jnp.concatenate(real)


def _condition(
    space: SearchSpace,
    model: GaussianProcess,
    embedded: Float[Array, "k e"],
    whitened: Float[Array, "m k"],
    variance: Float[Array, " k"],
    place: Int[Array, ""],
    listed: Bool[Array, ""],
) -> tuple[GaussianProcess, Float[Array, "m k"], Float[Array, " k"]]:
    """Model and shortlist after one of the listed codes became pending: means stay, variances around it shrink."""
    own, new = whitened[:, place], embedded[place]
    room = model.count < whitened.shape[0]
    deviation = jnp.sqrt(jnp.maximum(variance[place], surrogate.JITTER) + surrogate.NOISE)
    cross = surrogate.covariance(embedded, new[None], space.dims)[:, 0] - own @ whitened
    row = jnp.where(listed & room, cross / deviation, 0.0)
    grown = jax.tree.map(lambda a, b: jnp.where(listed, a, b), surrogate.add_pending(model, new, own), model)
    whitened = whitened.at[jnp.where(listed, model.count, whitened.shape[0])].set(row, mode="drop")
    return grown, whitened, variance - jnp.square(row)
