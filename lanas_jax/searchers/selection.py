"""Search phase: the leaf that the tree selects, and a code drawn from its region (section 3.2 of arXiv 1906.06832).

Starting at the root, the child of higher upper confidence bound is selected until a leaf is reached::

    ucb(child) = mean(child) + 2 cp sqrt(2 ln visits(parent) / visits(child))

Visits include pending trials (virtual loss), so that the draws of a batch spread out. A node whose region is known to
hold no unseen code is closed and never selected.

A code is drawn from the leaf's region in one of two ways:

- From a pool (`draw_from_pool`), whose codes are all routed to their leaves once. With the model, the Gaussian process
  scores a shortlist: the codes an additive model ranks highest, the neighbours of the best trials, and some random
  codes.
- From a lattice too large to enumerate (`draw_from_lattice`), by Markov chains that start from trials in the region.
  With the model, each chain climbs on additive effects sampled from their posterior, and the Gaussian process chooses
  among the end points of the chains and the codes of a local search, which starts from the best end points and the best
  trials. If the chains reach no unseen code, the region is closed for this draw and the next best leaf is tried. If all
  leaves are closed, the code is drawn from the whole space.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lanas_jax.searchers import history as hist
from lanas_jax.searchers import partition, surrogate
from lanas_jax.searchers.history import History
from lanas_jax.searchers.partition import PartitionTree
from lanas_jax.searchers.sampling import (
    DRAWS,
    Inside,
    Pool,
    Score,
    best_of,
    best_per_bucket,
    climb,
    draw_valid,
    embed,
    neighbours,
    propose,
    walk,
)
from lanas_jax.searchers.sizes import sizes
from lanas_jax.searchers.surrogate import GaussianProcess
from lanas_jax.spaces.base import SearchSpace

LIKED = 127  # number of codes shortlisted by the additive model, each the best of its bucket; a prime
BEST, NEAR = 4, 128  # number of best trials whose neighbours are shortlisted; maximum number of neighbours
RANDOM = 33  # number of shortlisted random codes
PARENTS = 16  # number of chain end points, and of best trials, that start the local search of a lattice
MOVES = 8  # moves per code and round of the local search
ROUNDS = 3  # rounds of the local search


FromRegion = Callable[[PRNGKeyArray, Inside, Int[Array, ""]], tuple[Array, Array, Array]]


class Known(NamedTuple):
    """Trials, partition tree and surrogate model; drawn codes are added to all three as pending."""

    history: History  # seen codes
    tree: PartitionTree  # regions
    model: GaussianProcess  # predicted values of codes


def upper_confidence(
    mean: Float[Array, " children"],
    visits: Int[Array, " children"],
    parent_visits: Int[Array, ""],
    cp: Float[Array, ""],
) -> Float[Array, " children"]:
    """Returns the upper confidence bound of each child; infinite for a child without visits."""
    parent = jnp.log(jnp.maximum(parent_visits, 1).astype(jnp.float32))
    width = 2.0 * cp * jnp.sqrt(2.0 * parent / jnp.maximum(visits, 1).astype(jnp.float32))
    return jnp.where(visits > 0, mean + width, jnp.inf)


def close(tree: PartitionTree, is_open: Bool[Array, " nodes"], leaf: Int[Array, ""]) -> Bool[Array, " nodes"]:
    """Closes a leaf and every ancestor whose children are both closed."""
    is_open = is_open.at[leaf].set(False)
    node = leaf
    for _ in range(tree.height):
        parent = jnp.maximum((node - 1) // 2, 0)
        shut = ~is_open[2 * parent + 1] & ~is_open[2 * parent + 2]
        is_open = is_open.at[parent].set(jnp.where(node > 0, is_open[parent] & ~shut, is_open[parent]))
        node = parent
    return is_open


def descend(tree: PartitionTree, is_open: Bool[Array, " nodes"], cp: Float[Array, ""]) -> Int[Array, ""]:
    """Returns the leaf selected by the upper confidence bounds. Ties go to the good child.

    A child without results uses its parent's mean.
    """
    node = jnp.int32(0)
    for _ in range(tree.height):
        split = jnp.minimum(node, tree.is_split.shape[0] - 1)
        children = 2 * split + 1 + jnp.arange(2)
        mean = jnp.where(tree.results[children] > 0, tree.means[children], tree.means[split])
        bound = upper_confidence(mean, tree.visits[children], tree.visits[split], cp)
        # An open child outranks a closed one even if its bound is lower.
        better = jnp.argmax(jnp.where(is_open[children], bound, -jnp.inf))
        inner = (node < tree.is_split.shape[0]) & tree.is_split[split]
        node = jnp.where(inner, children[better], node)
    return node


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
      by_model: True to choose by greatest expected improvement, False to draw uniformly.
    """
    history, tree, model = known
    leaf_of = partition.route(tree, pool.features)
    tree, leaves = _leaf_per_draw(tree, partition.subtotals(tree, leaf_of, ~history.seen), cp, n)
    if by_model:
        rows = _by_model(key, space, pool, known, leaf_of, leaves)
    else:
        rows = _uniformly(key, history, leaf_of, leaves)
    codes = jnp.where(rows[:, None] >= 0, pool.codes[rows], hist.NOTHING)
    history = dataclasses.replace(history, seen=hist.with_rows(history.seen, rows))
    return Known(hist.add_pending(history, codes), tree, model), codes


def _leaf_per_draw(
    tree: PartitionTree, unseen: Int[Array, " nodes"], cp: Float[Array, ""], n: int
) -> tuple[PartitionTree, Int[Array, " n"]]:
    """Selects a leaf per draw and backs up each pending draw before the next; -1 once no unseen code is left."""

    def one(carry: tuple[PartitionTree, Array], _: None) -> tuple[tuple[PartitionTree, Array], Array]:
        tree, unseen = carry
        leaf = descend(tree, unseen > 0, cp)
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
    liked = jnp.matmul(pool.embedded, model.weights, precision="highest")
    shortlist, real = _shortlist(key, space, pool, history, liked, free)
    embedded, leaf_of_listed = pool.embedded[shortlist], leaf_of[shortlist]
    mean, variance, whitened = surrogate.predict_embedded(model, embedded, space.dims)
    conditions = jnp.zeros((leaves.shape[0], shortlist.shape[0]))

    def one(carry: tuple, draw: tuple[Array, Array]) -> tuple[tuple, Array]:
        variance, conditions, taken = carry
        i, leaf = draw
        gain = surrogate.log_expected_improvement(mean, surrogate.deviation(model, variance), model.incumbent)
        place, listed = best_of(gain, real & (leaf_of_listed == leaf) & ~jnp.any(shortlist[:, None] == taken, axis=1))
        unlisted, found = _best_unlisted(liked, ~history.seen & (leaf_of == leaf), taken, listed)
        row = jnp.where(listed, shortlist[place], jnp.where(found, unlisted, -1))
        # The shortlisted code is now pending: means are unchanged, variances around it shrink.
        shrinkage = surrogate.shrinkage(model, embedded, whitened, conditions, place, variance[place], space.dims)
        condition = jnp.where(listed, shrinkage, 0.0)
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
    worth = jnp.where(history.done, history.values, -jnp.inf)
    near = near_the_best(near_key, space, pool, history, worth)
    m = free.shape[0]
    anywhere = jnp.minimum((jax.random.uniform(random_key, (RANDOM,)) * m).astype(jnp.int32), m - 1)
    others = jnp.concatenate([near, anywhere])
    return jnp.concatenate([by_effects, jnp.maximum(others, 0)]), jnp.concatenate([real, (others >= 0) & free[others]])


def near_the_best(
    key: PRNGKeyArray, space: SearchSpace, pool: Pool, history: History, worth: Float[Array, " capacity"]
) -> Int[Array, " near"]:
    """Returns the pool rows of the neighbours of the trials of highest worth; -1 for a neighbour outside the pool."""
    moves = int(np.sum(space.cardinalities - 1))
    best = min(BEST, max(NEAR // max(moves, 1), 1), history.capacity)
    _, rows = jax.lax.top_k(worth, best)
    codes = neighbours(space, jnp.maximum(history.codes[rows], 0))
    if moves > NEAR:
        codes = codes[:, jax.random.permutation(key, moves)[:NEAR]]
    codes = codes.reshape(-1, space.dims)
    return jnp.where(space.valid(codes), pool.find(space, space.canonical(codes)), -1)


@dataclasses.dataclass(frozen=True)
class Walks:
    """Settings of the chains: number of chains, moves per chain, and use of the model to choose among end points."""

    chains: int
    steps: int
    by_model: bool


def draw_from_lattice(
    key: PRNGKeyArray,
    space: SearchSpace,
    known: Known,
    cp: Float[Array, ""],
    n: int,
    walks: Walks,
) -> tuple[Known, Int[Array, "n dims"], Float[Array, ""]]:
    """Draws `n` unseen valid codes, each from the leaf the tree selects; rows of -1 if none was found.

    Args:
      key: PRNG key; consumed.
      space: search space.
      known: trials, partition tree and surrogate model.
      cp: exploration weight of the upper confidence bound.
      n: number of draws.
      walks: settings of the chains.

    Returns:
      The updated trials, tree and model; the codes; and the share of moves the chains accepted.
    """

    def one(known: Known, key: Array) -> tuple[Known, tuple[Array, Array]]:
        def from_region(key: Array, unseen: Inside, leaf: Array) -> tuple[Array, Array, Array]:
            return _from_region(key, space, known, unseen, walks, leaf)

        history, tree, model = known
        code, rate = draw_from_leaves(key, space, history, tree, cp, from_region)
        real = code[0] >= 0
        visited = partition.backup(tree, partition.route(tree, space.features(code[None]))[0])
        tree = dataclasses.replace(tree, visits=jnp.where(real, visited.visits, tree.visits))
        if walks.by_model:
            embedded = embed(space, None, jnp.maximum(code, 0)[None], len(model.columns))
            model = surrogate.extend(model, embedded[0], real, space.dims)
        return Known(hist.add_pending(history, code[None]), tree, model), (code, rate)

    known, (codes, rates) = jax.lax.scan(one, known, jax.random.split(key, n))
    return known, codes, jnp.mean(rates)


def code_fingerprints(codes: Int[Array, "n dims"]) -> Int[Array, " n"]:
    """Returns a 32-bit hash per code, so that comparing two codes takes one operation instead of `dims`.

    Equal codes have equal hashes. Codes that differ in one choice have different hashes. Other pairs collide with
    probability 2**-32; an unseen code that collides with a seen one is skipped. The hash 0 occurs only by chance.
    """
    factors = np.random.default_rng(0).integers(2**31, size=codes.shape[1], dtype=np.uint32) * np.uint32(2) + 1
    number = jnp.sum((codes.astype(jnp.uint32) + 1) * factors[None].astype(np.uint32), axis=1, dtype=jnp.uint32)
    return jax.lax.bitcast_convert_type(number, jnp.int32)


def draw_from_leaves(
    key: PRNGKeyArray,
    space: SearchSpace,
    history: History,
    tree: PartitionTree,
    cp: Float[Array, ""],
    from_region: FromRegion,
) -> tuple[Int[Array, " dims"], Float[Array, ""]]:
    """Returns a code, and the share of moves accepted by the chains of the last region.

    Leaves without unseen codes are closed, one after another, until a code is found.

    Args:
      key: PRNG key; consumed.
      space: search space.
      history: trials, whose codes are not drawn again.
      tree: partition tree.
      cp: exploration weight of the upper confidence bound.
      from_region: function of a key, of a function that returns which codes are unseen, and of a leaf; returns a code
        of the leaf's region, whether one was found, and the share of moves accepted.
    """
    uniform_key, region_key = jax.random.split(key)
    fingerprints = jnp.where(history.used, code_fingerprints(history.codes), 0)

    def unseen(codes: Array) -> Array:
        prints = code_fingerprints(space.canonical(codes))
        return ~jnp.any(prints[:, None] == fingerprints[None], axis=1)

    def try_leaf(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        is_open, *_ = carry
        leaf = descend(tree, is_open, cp)
        code, found, rate = from_region(region_key, unseen, leaf)
        return jnp.where(found, is_open, close(tree, is_open, leaf)), code, found, rate

    all_open = jnp.ones(tree.visits.shape[0], bool)
    start = (all_open, jnp.zeros(space.dims, jnp.int32), jnp.bool_(False), jnp.float32(0.0))
    _, code, found, rate = jax.lax.while_loop(lambda carry: ~carry[2] & carry[0][0], try_leaf, start)
    # Chains may miss unseen codes: fall back to the whole space.
    return jax.lax.cond(found, lambda: code, lambda: draw_valid(uniform_key, space, unseen, 1)[0]), rate


def _from_region(
    key: PRNGKeyArray,
    space: SearchSpace,
    known: Known,
    unseen: Inside,
    walks: Walks,
    leaf: Int[Array, ""],
) -> tuple[Int[Array, " dims"], Bool[Array, ""], Float[Array, ""]]:
    """Returns one unseen code of a leaf's region, whether one was found, and the share of moves accepted."""
    history, tree, model = known
    start_key, walk_key, choice_key = jax.random.split(key, 3)

    def inside(codes: Array) -> Array:
        return space.valid(codes) & partition.inside(tree, leaf, space.features(codes))

    members = history.used & partition.inside(tree, leaf, space.features(history.codes))
    logits = jnp.where(members, 0.0, -jnp.inf)
    starts = history.codes[jax.random.categorical(start_key, logits, shape=(walks.chains,))]
    if not walks.by_model:
        codes, rate = walk(walk_key, space, starts, inside, walks.steps)
        row, found = best_of(jax.random.uniform(choice_key, (walks.chains,)), unseen(codes) & inside(codes))
        return space.canonical(codes[row][None])[0], found, rate
    weights = model.sample_weights(choice_key, walks.chains)
    effects = jnp.matmul(weights[:, : space.embedding_size], space.term_embedding.T, precision="highest")
    size_effects = weights[:, space.embedding_size :]

    def liked(codes: Array) -> Array:
        predicted = jnp.sum(space.terms(codes) * effects, axis=1)
        if size_effects.shape[1]:
            predicted += jnp.sum(sizes(space, codes) * size_effects, axis=1)
        return jnp.where(unseen(codes), predicted, -jnp.inf)

    climb_key, local_key = jax.random.split(walk_key)
    codes, rate = climb(climb_key, space, starts, inside, liked, walks.steps, walks.steps)

    def gain(codes: Array) -> Array:
        mean, variance, _ = surrogate.predict_embedded(model, embed(space, None, codes, len(model.columns)), space.dims)
        deviation = surrogate.deviation(model, variance)
        improvement = surrogate.log_expected_improvement(mean, deviation, model.incumbent)
        return jnp.where(unseen(codes) & inside(codes), improvement, -jnp.inf)

    value = jnp.where(members & history.done, history.values, -jnp.inf)
    best = history.codes[jax.lax.top_k(value, min(PARENTS, history.capacity))[1]]
    code, score = look_around(local_key, space, gain, codes, best)
    return space.canonical(code[None])[0], score > -jnp.inf, rate


def look_around(
    key: PRNGKeyArray, space: SearchSpace, gain: Score, codes: Int[Array, "k dims"], others: Int[Array, "p dims"]
) -> tuple[Int[Array, " dims"], Float[Array, ""]]:
    """Returns the best code of a local search from the best of `codes` and all `others`, and the gain of that code."""

    def best(codes: Array, scores: Array) -> tuple[Array, Array]:
        scores, rows = jax.lax.top_k(scores, min(PARENTS, scores.shape[0]))
        return codes[rows], scores

    def look(carry: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], None]:
        codes, scores = carry
        parents = jnp.repeat(codes, MOVES, axis=0)
        moved = propose(jax.random.uniform(key, (parents.shape[0], DRAWS)), space, parents)
        all_scores = jnp.concatenate([scores, gain(moved)])
        scores, rows = jax.lax.top_k(all_scores, scores.shape[0])
        return (jnp.concatenate([codes, moved])[rows], scores), None

    codes, scores = best(codes, gain(codes))
    start = (jnp.concatenate([codes, others]), jnp.concatenate([scores, jnp.full(others.shape[0], -jnp.inf)]))
    (codes, scores), _ = jax.lax.scan(look, start, jax.random.split(key, ROUNDS))
    return codes[0], scores[0]
