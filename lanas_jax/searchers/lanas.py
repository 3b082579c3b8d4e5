"""LaNAS: Monte Carlo tree search over learned regions (arXiv 1906.06832, algorithm 1).

Learning phase (`tell`): every told trial, a tree of ridge regressions that halve its node's trials. Search phase
(`ask`): the upper confidence bound leads to a leaf, a code is drawn from the leaf's region, and the pending trial is
backed up as a visit, so that the next draw of the same batch sees it.

`LaNAS` and `LaNAS.paper` are the same program with different settings: how targets are formed from values, how often
the tree is learned anew, and how a code is drawn from the leaf's region.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lanas_jax import partition, selection
from lanas_jax.partition import PartitionTree
from lanas_jax.sampling import Inside, Pool, best_of, climb, draw_valid, listed, walk
from lanas_jax.searchers import history as hist
from lanas_jax.searchers.base import register
from lanas_jax.searchers.history import History
from lanas_jax.spaces.base import Codes, SearchSpace, Values
from lanas_jax.surrogate import BayesianRidge, normal_scores, raw_values


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LaNASState:
    """Key, trials, and what was learned from them.

    Attributes:
      key: for the draws to come.
      history: asked and told trials.
      tree: the regions; its visits include pending trials.
      model: weights over all told trials, from which draws inside a region are made.
      learned: number of results that the tree was learned from.
    """

    key: PRNGKeyArray
    history: History
    tree: PartitionTree
    model: BayesianRidge
    learned: Int[Array, ""]


@register
@dataclasses.dataclass(frozen=True)
class LaNAS:
    """Sample-efficient search by learning the action space.

    Attributes:
      space: what is searched.
      pool: explicit codes to draw from; without one, a small space is listed and a large one sampled by chains.
      height: levels of the tree that may split.
      min_samples: results below which a node is not split.
      ridge: penalty of the regressions.
      cp: weight of exploration in the upper confidence bound, in units of the targets.
      relative_cp: whether `cp` is multiplied by the highest target told so far.
      initial: trials drawn uniformly before anything learned is used.
      relearn_every: results between two learning phases.
      rank_targets: whether values are replaced by the normal scores of their ranks.
      thompson: whether a region's best unseen code by weights drawn from the posterior is tried, rather than a uniform
        draw from the region.
      chains: walks in parallel where there is no pool.
      steps: moves of each walk.
      capacity: trials for which the first state has room; it grows by itself.
    """

    space: SearchSpace
    pool: Pool | Codes | None = None
    height: int = 5
    min_samples: int = 10
    ridge: float = 1.0
    cp: float = 0.1
    relative_cp: bool = False
    initial: int = 10
    relearn_every: int = 1
    rank_targets: bool = True
    thompson: bool = True
    chains: int = 64
    steps: int = 64
    capacity: int = 256

    def __post_init__(self) -> None:
        object.__setattr__(self, "pool", listed(self.space, self.pool))

    @classmethod
    def paper(cls, space: SearchSpace, pool: Pool | Codes | None = None) -> "LaNAS":
        """The published algorithm and constants: raw values, 20 selections per learning phase, uniform draws."""
        return cls(
            space,
            pool=pool,
            cp=0.1,
            relative_cp=True,
            relearn_every=20,
            rank_targets=False,
            thompson=False,
        )

    def init(self, key: PRNGKeyArray) -> LaNASState:
        """The state before the first trial. The key is consumed."""
        d = len(self.space.feature_names)
        return LaNASState(
            key=key,
            history=hist.empty(self.space, self.pool, self.capacity),
            tree=partition.lone_root(self.height, d),
            model=BayesianRidge.prior(d, self.ridge),
            learned=jnp.zeros((), jnp.int32),
        )

    def ask(self, state: LaNASState, n: int) -> tuple[LaNASState, Int[Array, "n dims"]]:
        """`n` unseen codes, each drawn from the region the tree recommends; rows of -1 when none are left."""
        return _ask(self, dataclasses.replace(state, history=hist.reserve(state.history, n)), n)

    def tell(self, state: LaNASState, codes: Codes, values: Values) -> LaNASState:
        """Records values (NaN: failed) and learns the regions anew."""
        history, codes, values = hist.receive(state.history, self.space, codes, values)
        return _tell(self, dataclasses.replace(state, history=history), codes, values)


@jax.jit(static_argnames="n")
def _ask(searcher: LaNAS, state: LaNASState, n: int) -> tuple[LaNASState, Array]:
    def one(state: LaNASState, key: Array) -> tuple[LaNASState, Array]:
        if isinstance(searcher.pool, Pool):
            code = _draw_from_pool(searcher, searcher.pool, state, key)
        else:
            code = _draw_from_lattice(searcher, state, key)
        history = hist.add_pending(hist.mark(state.history, searcher.pool, code), code[None])
        return dataclasses.replace(state, history=history, tree=_with_visit(searcher, state.tree, code)), code

    key, subkey = jax.random.split(state.key)
    state, codes = jax.lax.scan(one, state, jax.random.split(subkey, n))
    return dataclasses.replace(state, key=key), codes


def _with_visit(searcher: LaNAS, tree: PartitionTree, code: Int[Array, " dims"]) -> PartitionTree:
    """The tree after a pending trial was backed up; unchanged where there was no code left."""
    visited = partition.backup(tree, partition.route(tree, searcher.space.features(code[None]))[0])
    return dataclasses.replace(tree, visits=jnp.where(code[0] >= 0, visited.visits, tree.visits))


def _warming_up(searcher: LaNAS, state: LaNASState) -> Bool[Array, ""]:
    return state.history.count < searcher.initial


def _search_leaves(
    searcher: LaNAS, state: LaNASState, try_leaf: Callable[[Array], tuple[Array, Array]], size: int
) -> tuple[Int[Array, " size"], Bool[Array, ""]]:
    """Draws from the leaf that UCB leads to; a leaf found without unseen code is closed, and the next one is tried."""
    cp = jnp.float32(searcher.cp)
    if searcher.relative_cp:
        highest = jnp.max(jnp.where(state.history.done, _targets(searcher, state.history), -jnp.inf))
        cp = cp * jnp.where(jnp.isfinite(highest), jnp.abs(highest), 1.0)

    def body(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        is_open, _, _ = carry
        leaf = jnp.where(_warming_up(searcher, state), 0, selection.descend(state.tree, is_open, cp))
        drawn, found = try_leaf(leaf)
        return jnp.where(found, is_open, selection.close(state.tree, is_open, leaf)), drawn, found

    start = (selection.all_open(state.tree), jnp.zeros(size, jnp.int32), jnp.bool_(False))
    _, drawn, found = jax.lax.while_loop(lambda carry: ~carry[2] & carry[0][0], body, start)
    return drawn, found


def _draw_from_pool(searcher: LaNAS, pool: Pool, state: LaNASState, key: PRNGKeyArray) -> Int[Array, " dims"]:
    uniform_key, sample_key = jax.random.split(key)
    scores = jax.random.uniform(uniform_key, pool.codes.shape[:1])
    if searcher.thompson:
        by_weights = pool.features @ state.model.sample(sample_key)
        scores = jnp.where(_warming_up(searcher, state), scores, by_weights)

    def try_leaf(leaf: Array) -> tuple[Array, Array]:
        row, found = best_of(scores, ~state.history.seen & partition.inside(state.tree, leaf, pool.features))
        return row[None], found

    row, found = _search_leaves(searcher, state, try_leaf, 1)
    return jnp.where(found, pool.codes[row[0]], hist.NOTHING)


def _draw_from_lattice(searcher: LaNAS, state: LaNASState, key: PRNGKeyArray) -> Int[Array, " dims"]:
    space, history = searcher.space, state.history
    uniform_key, region_key = jax.random.split(key)

    def unseen(codes: Array) -> Array:
        return ~hist.contains(history, space.canonical(codes))

    def by_region() -> tuple[Array, Array]:
        try_leaf = functools.partial(_draw_from_region, searcher, state, region_key, unseen)
        return _search_leaves(searcher, state, try_leaf, space.dims)

    def nothing() -> tuple[Array, Array]:
        return jnp.zeros(space.dims, jnp.int32), jnp.bool_(False)

    code, found = jax.lax.cond(_warming_up(searcher, state), nothing, by_region)
    # Walks that found nothing are no proof that nothing is left: fall back on the whole space.
    return jax.lax.cond(found, lambda: code, lambda: draw_valid(uniform_key, space, unseen, 1)[0])


def _draw_from_region(
    searcher: LaNAS, state: LaNASState, key: PRNGKeyArray, unseen: Inside, leaf: Int[Array, ""]
) -> tuple[Int[Array, " dims"], Bool[Array, ""]]:
    """Walks from the known codes of a leaf's region; then the best unseen code by weights from the posterior."""
    space, history, tree = searcher.space, state.history, state.tree
    start_key, walk_key, sample_key = jax.random.split(key, 3)
    weights = state.model.sample(sample_key)

    def inside(codes: Array) -> Array:
        return space.valid(codes) & partition.inside(tree, leaf, space.features(codes))

    def score(codes: Array) -> Array:
        return jnp.where(unseen(codes), space.features(codes) @ weights, -jnp.inf)

    known = history.used & partition.inside(tree, leaf, space.features(history.codes))
    logits = jnp.where(known, 0.0, -jnp.inf)
    starts = history.codes[jax.random.categorical(start_key, logits, shape=(searcher.chains,))]
    if searcher.thompson:
        codes, _ = climb(walk_key, space, starts, inside, score, searcher.steps, searcher.steps)
    else:
        codes, _ = walk(walk_key, space, starts, inside, searcher.steps)
    row, found = best_of(score(codes), unseen(codes) & inside(codes))
    return space.canonical(codes[row][None])[0], found


def _targets(searcher: LaNAS, history: History) -> Float[Array, " capacity"]:
    form = normal_scores if searcher.rank_targets else raw_values
    return form(history.values, history.done)


@jax.jit
def _tell(searcher: LaNAS, state: LaNASState, codes: Codes, values: Array) -> LaNASState:
    history = hist.record(state.history, searcher.space, searcher.pool, codes, values)
    features = searcher.space.features(history.codes)
    targets = _targets(searcher, history)
    results = jnp.sum(history.done, dtype=jnp.int32)

    def learn() -> PartitionTree:
        shape = {"height": searcher.height, "min_samples": searcher.min_samples}
        return partition.learn_splits(features, targets, history.done, ridge=searcher.ridge, **shape)

    due = results - state.learned >= jnp.where(state.learned == 0, searcher.initial, searcher.relearn_every)
    tree = jax.lax.cond(due, learn, lambda: state.tree)
    tree = partition.count(tree, features, targets, history.done, history.used)
    learned = jnp.where(due, results, state.learned)
    model = BayesianRidge.fit(features, targets, history.done, searcher.ridge)
    return dataclasses.replace(state, history=history, tree=tree, model=model, learned=learned)
