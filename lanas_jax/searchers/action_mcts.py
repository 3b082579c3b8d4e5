"""Monte Carlo tree search over a fixed action space, as in AlphaX (Wang et al., arXiv 1805.07440).

The choices of a space are decided one after the other. A node of the tree is a prefix of decisions; its children are
the options of the next choice. LaNAS learns the order and the meaning of the splits; here both are fixed.

A simulation descends by upper confidence bounds to the first child without visits, expands that child, and decides
the remaining choices at random. The value of the code is backed up along the whole prefix. With values ``v``
normalised to [0, 1] as rank shares::

    ucb(child) = mean(v of child) + 2 cp sqrt(2 ln visits(parent) / visits(child))

Visits include pending trials (virtual loss) and failed trials. A child is closed if no unseen code is found below it.
The tree is not stored: the statistics of a prefix are sums over the history rows that share the prefix.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lanas_jax.runtime.numbers import set_whole_numbers
from lanas_jax.searchers import history as hist
from lanas_jax.searchers.base import register
from lanas_jax.searchers.history import History
from lanas_jax.searchers.random_search import uniform_unseen
from lanas_jax.searchers.sampling import Pool, best_of, listed
from lanas_jax.searchers.selection import upper_confidence
from lanas_jax.searchers.surrogate import rank_shares
from lanas_jax.spaces.base import Codes, SearchSpace, Values

ROLLOUTS = 64  # random completions per child in spaces that are not enumerated


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ActionMCTSState:
    """PRNG key and trial history."""

    key: PRNGKeyArray
    history: History


@register("cp")
@dataclasses.dataclass(frozen=True)
class ActionMCTS:
    """Upper confidence bounds on a tree of decisions.

    Attributes:
      space: search space; its choices are decided in their order.
      pool: explicit codes to draw from; without a pool, a small space is enumerated and a large one sampled by
        roll-outs.
      cp: exploration weight of the upper confidence bound, for values normalised to [0, 1].
      capacity: number of trials the initial state can hold; the state grows as needed.

    Raises:
      ValueError: if `capacity` is not a whole number or is too small, or the pool has a code out of range or no valid
        code.
    """

    space: SearchSpace
    pool: Pool | Codes | None = None
    cp: float = 0.1
    capacity: int = 256

    def __post_init__(self) -> None:
        set_whole_numbers(self, capacity=1)
        object.__setattr__(self, "pool", listed(self.space, self.pool))

    def init(self, key: PRNGKeyArray) -> ActionMCTSState:
        """Returns the state before the first trial. Consumes the key."""
        return ActionMCTSState(key, hist.empty(self.space, self.pool, self.capacity))

    def ask(self, state: ActionMCTSState, n: int) -> tuple[ActionMCTSState, Int[Array, "n dims"]]:
        """Returns `n` unseen codes, one simulation per code; rows of -1 when none are left."""
        return _ask(self, dataclasses.replace(state, history=hist.reserve(state.history, n)), n)

    def tell(self, state: ActionMCTSState, codes: Codes, values: Values) -> ActionMCTSState:
        """Records values; NaN marks a failed trial."""
        history, codes, values = hist.receive(state.history, self.space, codes, values)
        return _tell(self, dataclasses.replace(state, history=history), codes, values)


class Children(NamedTuple):
    """Statistics of the options of the next choice."""

    visits: Int[Array, " options"]
    mean: Float[Array, " options"]  # mean of normalised values; the parent's mean for a child without results
    parent_visits: Int[Array, ""]


class Node(NamedTuple):
    """Current position of a simulation in the tree."""

    prefix: Int[Array, " dims"]  # decisions; 0 beyond `depth`
    depth: Int[Array, ""]  # number of decisions
    inner: Bool[Array, ""]  # True if the descent continues below this node
    found: Bool[Array, ""]  # True if an unseen code is known to lie below this node


@jax.jit(static_argnames="n")
def _ask(searcher: ActionMCTS, state: ActionMCTSState, n: int) -> tuple[ActionMCTSState, Array]:
    def one(history: History, key: Array) -> tuple[History, Array]:
        simulation_key, uniform_key = jax.random.split(key)
        code, found = _simulate(simulation_key, searcher, history)

        def simulated() -> tuple[History, Array]:
            return hist.add_code(history, searcher.space, searcher.pool, code), code

        def uniform() -> tuple[History, Array]:
            drawn, codes = uniform_unseen(uniform_key, searcher.space, searcher.pool, history, 1)
            return drawn, codes[0]

        return jax.lax.cond(found, simulated, uniform)

    key, subkey = jax.random.split(state.key)
    history, codes = jax.lax.scan(one, state.history, jax.random.split(subkey, n))
    return ActionMCTSState(key, history), codes


def _simulate(key: PRNGKeyArray, searcher: ActionMCTS, history: History) -> tuple[Int[Array, " dims"], Bool[Array, ""]]:
    """Returns the code reached by a descent and a roll-out, and whether an unseen code was found."""
    values = rank_shares(history.values, history.done)
    look_key, tie_key, pick_key = jax.random.split(key, 3)

    def descend(node: Node) -> Node:
        is_open = _open_children(jax.random.fold_in(look_key, node.depth), searcher, history, node)
        children = statistics(history, values, node.prefix, node.depth, is_open.shape[0])
        bound = upper_confidence(children.mean, children.visits, children.parent_visits, jnp.float32(searcher.cp))
        # All children without visits have an infinite bound; choose one of them at random.
        ties = jax.random.uniform(jax.random.fold_in(tie_key, node.depth), bound.shape)
        option, found = best_of(jnp.where(children.visits > 0, bound, 1e6 * (1 + ties)), is_open)
        depth = node.depth + 1
        inner = found & (children.visits[option] > 0) & (depth < searcher.space.dims)
        return Node(node.prefix.at[node.depth].set(option), depth, inner, found)

    root = Node(jnp.zeros(searcher.space.dims, jnp.int32), jnp.int32(0), jnp.bool_(True), jnp.bool_(False))
    node = jax.lax.while_loop(lambda node: node.inner, descend, root)
    if isinstance(searcher.pool, Pool):
        below = shares_prefix(searcher.pool.codes, node.prefix, node.depth) & ~history.seen
        codes = searcher.pool.codes[best_of(jax.random.uniform(pick_key, below.shape), below)[0]]
        return codes, node.found
    depth = node.depth - 1
    codes, fresh = _roll_outs(jax.random.fold_in(look_key, depth), searcher.space, history, node.prefix, depth)
    option = node.prefix[depth]
    return codes[
        option, jnp.argmax(fresh[option])
    ], node.found  # the same key as in `_open_children`, so the same roll-outs


def shares_prefix(codes: Int[Array, "n dims"], prefix: Int[Array, " dims"], depth: Int[Array, ""]) -> Bool[Array, " n"]:
    """Returns which codes share the first `depth` decisions of a prefix."""
    return jnp.all((codes == prefix[None]) | (jnp.arange(prefix.shape[0]) >= depth)[None], axis=1)


def statistics(
    history: History,
    values: Float[Array, " capacity"],
    prefix: Int[Array, " dims"],
    depth: Int[Array, ""],
    options: int,
) -> Children:
    """Returns the visits and mean values of the children of a prefix, backed up from all trials below each child."""
    below = history.used & shares_prefix(history.codes, prefix, depth)
    child = below[None] & (history.codes[:, depth][None] == jnp.arange(options)[:, None])
    results = jnp.sum(child & history.done[None], axis=1)
    total = jnp.sum(jnp.where(child, values[None], 0.0), axis=1)
    mean = jnp.sum(total) / jnp.maximum(jnp.sum(results), 1).astype(jnp.float32)
    means = jnp.where(results > 0, total / jnp.maximum(results, 1).astype(jnp.float32), mean)
    return Children(jnp.sum(child, axis=1), means, jnp.sum(below))


def _open_children(key: PRNGKeyArray, searcher: ActionMCTS, history: History, node: Node) -> Bool[Array, " options"]:
    """Returns the options under which an unseen code is known to lie."""
    if not isinstance(searcher.pool, Pool):
        return jnp.any(_roll_outs(key, searcher.space, history, node.prefix, node.depth)[1], axis=1)
    codes = searcher.pool.codes
    below = shares_prefix(codes, node.prefix, node.depth) & ~history.seen
    options = jnp.arange(int(searcher.space.cardinalities.max()))
    return jnp.any(below[None] & (codes[:, node.depth][None] == options[:, None]), axis=1)


def _roll_outs(
    key: PRNGKeyArray, space: SearchSpace, history: History, prefix: Int[Array, " dims"], depth: Int[Array, ""]
) -> tuple[Int[Array, "options k dims"], Bool[Array, "options k"]]:
    """Returns `ROLLOUTS` random completions of a prefix per option of the next choice, and which may be tried."""
    options, dims = int(space.cardinalities.max()), space.dims
    drawn = space.random(key, options * ROLLOUTS)
    option = jnp.repeat(jnp.arange(options, dtype=jnp.int32), ROLLOUTS)
    raw = jnp.where((jnp.arange(dims) < depth)[None], prefix[None], drawn).at[:, depth].set(option)
    codes = space.canonical(raw)
    # A code is backed up along its canonical form, which must lie below the same child.
    kept = shares_prefix(codes, prefix, depth) & (codes[:, depth] == option)
    fresh = space.valid(raw) & kept & ~hist.contains(history, codes)
    return codes.reshape(options, ROLLOUTS, dims), fresh.reshape(options, ROLLOUTS)


@jax.jit
def _tell(searcher: ActionMCTS, state: ActionMCTSState, codes: Codes, values: Array) -> ActionMCTSState:
    history, _ = hist.record(state.history, searcher.space, searcher.pool, codes, values)
    return dataclasses.replace(state, history=history)
