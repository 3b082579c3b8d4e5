"""Drawing a batch from a space too large to enumerate: one leaf per draw, then Markov chains inside its region.

The chains start from trials in the region. With `by_model`, each chain climbs on additive effects sampled from their
posterior, and the Gaussian process chooses among the end points of the chains, the surroundings of the best of these,
and the surroundings of the best trials.

If the chains reach no unseen code, the region is closed for this draw and the next best leaf is tried. If all leaves
are closed, the code is drawn from the whole space.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lanas_jax.searchers import history as hist
from lanas_jax.searchers import partition, selection, surrogate
from lanas_jax.searchers.known import Known
from lanas_jax.searchers.partition import PartitionTree
from lanas_jax.searchers.sampling import DRAWS, Inside, Score, best_of, climb, draw_valid, propose, walk
from lanas_jax.searchers.surrogate import GaussianProcess
from lanas_jax.spaces.base import SearchSpace

PARENTS = 16  # number of chain end points, and of best trials, that start the local search
MOVES = 8  # moves per code and round of the local search
ROUNDS = 3  # rounds of the local search


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
        code, rate = _draw_one(key, space, known, cp, walks)
        history, tree, model = known
        real = code[0] >= 0
        visited = partition.backup(tree, partition.route(tree, space.features(code[None]))[0])
        tree = dataclasses.replace(tree, visits=jnp.where(real, visited.visits, tree.visits))
        if walks.by_model:
            model = surrogate.extend(model, space.embed(jnp.maximum(code, 0)[None])[0], real, space.dims)
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


def _draw_one(
    key: PRNGKeyArray,
    space: SearchSpace,
    known: Known,
    cp: Float[Array, ""],
    walks: Walks,
) -> tuple[Int[Array, " dims"], Float[Array, ""]]:
    """Returns a code, and the share of moves accepted by the chains of the last region."""
    uniform_key, region_key = jax.random.split(key)

    fingerprints = jnp.where(known.history.used, code_fingerprints(known.history.codes), 0)

    def unseen(codes: Array) -> Array:
        prints = code_fingerprints(space.canonical(codes))
        return ~jnp.any(prints[:, None] == fingerprints[None], axis=1)

    try_leaf = functools.partial(_from_region, region_key, space, known, unseen, walks)
    code, found, rate = _search_leaves(known.tree, cp, try_leaf, space.dims)
    # Chains may miss unseen codes: fall back to the whole space.
    return jax.lax.cond(found, lambda: code, lambda: draw_valid(uniform_key, space, unseen, 1)[0]), rate


def _search_leaves(
    tree: PartitionTree, cp: Float[Array, ""], try_leaf: Callable[[Array], tuple[Array, Array, Array]], dims: int
) -> tuple[Int[Array, " dims"], Bool[Array, ""], Float[Array, ""]]:
    """Draws from the leaf selected by UCB; closes a leaf without unseen codes and tries the next one."""

    def body(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        is_open, *_ = carry
        leaf = selection.descend(tree, is_open, cp)
        code, found, rate = try_leaf(leaf)
        return jnp.where(found, is_open, selection.close(tree, is_open, leaf)), code, found, rate

    start = (selection.all_open(tree), jnp.zeros(dims, jnp.int32), jnp.bool_(False), jnp.float32(0.0))
    _, code, found, rate = jax.lax.while_loop(lambda carry: ~carry[2] & carry[0][0], body, start)
    return code, found, rate


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
    effects = model.sample_weights(choice_key, walks.chains) @ space.term_embedding.T

    def liked(codes: Array) -> Array:
        return jnp.where(unseen(codes), jnp.sum(space.terms(codes) * effects, axis=1), -jnp.inf)

    climb_key, local_key = jax.random.split(walk_key)
    codes, rate = climb(climb_key, space, starts, inside, liked, walks.steps, walks.steps)

    def gain(codes: Array) -> Array:
        return jnp.where(unseen(codes) & inside(codes), _improvement(space, model, codes), -jnp.inf)

    value = jnp.where(members & history.done, history.values, -jnp.inf)
    best = history.codes[jax.lax.top_k(value, min(PARENTS, history.capacity))[1]]
    code, score = _look_around(local_key, space, gain, codes, best)
    return space.canonical(code[None])[0], score > -jnp.inf, rate


def _look_around(
    key: PRNGKeyArray, space: SearchSpace, gain: Score, codes: Int[Array, "k dims"], others: Int[Array, "p dims"]
) -> tuple[Int[Array, " dims"], Float[Array, ""]]:
    """Returns the best code, and its gain, of a local search from the best of `codes` and from all `others`."""

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


def _improvement(space: SearchSpace, model: GaussianProcess, codes: Int[Array, "k dims"]) -> Float[Array, " k"]:
    mean, variance, _ = surrogate.predict_embedded(model, space.embed(codes), space.dims)
    return surrogate.log_expected_improvement(mean, surrogate.deviation(variance, model.scale), model.incumbent)
