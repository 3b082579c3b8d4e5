"""LaNAS: Monte Carlo tree search over learned regions (arXiv 1906.06832, algorithm 1).

Learning phase (`tell`): a tree of ridge regressions is fitted to the trials with a value. Each regression splits the
trials of its node in two. If a search stops improving, a new round begins (`LaNAS.patience`): in every second round,
the tree and the model learn only from the trials of the round.

Search phase (`ask`): the upper confidence bound selects a leaf, a code is drawn from the leaf's region, and the
pending trial is backed up as a visit, so that the next draw of the same batch takes it into account.

`LaNAS` and `LaNAS.paper` are the same program with different settings: how targets are computed from values, how often
the tree is relearned, and how a code is drawn from the leaf's region: uniformly, or by greatest expected improvement
under a Gaussian process over the same trials.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lanas_jax.runtime.arithmetic import in_32_bits, nan_is_data
from lanas_jax.runtime.numbers import set_whole_numbers
from lanas_jax.searchers import history as hist
from lanas_jax.searchers import hypotheses, partition, surrogate
from lanas_jax.searchers.base import register
from lanas_jax.searchers.first_draws import draw_apart, draw_uniformly
from lanas_jax.searchers.history import History
from lanas_jax.searchers.hypotheses import Hypotheses
from lanas_jax.searchers.modelled import MODEL_TRIALS, outstanding, with_history, with_results
from lanas_jax.searchers.partition import PartitionTree
from lanas_jax.searchers.sampling import Pool, embed, embedding_size, listed
from lanas_jax.searchers.selection import Known, Walks, draw_from_lattice, draw_from_pool
from lanas_jax.searchers.surrogate import GaussianProcess
from lanas_jax.spaces.base import Codes, SearchSpace, Values

TOGETHER = 32  # number of trials without a value that are added to the model at a time


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LaNASState:
    """PRNG key, trials, partition tree and surrogate model.

    Attributes:
      key: PRNG key for future draws.
      history: trials from all asks and tells.
      tree: partition tree; its visits include pending trials.
      model: Gaussian processes that predict the values of codes inside a region, learned from trials with a value.
      modelled: history row of each model row.
      learned: number of results the tree was last learned from.
      start: history row at which the current round began.
      acceptance: share of moves accepted by the lattice chains in the last ask; 1 if no chains were run.
    """

    key: PRNGKeyArray
    history: History
    tree: PartitionTree
    model: Hypotheses
    modelled: Int[Array, " rows"]
    learned: Int[Array, ""]
    start: Int[Array, ""]
    acceptance: Float[Array, ""]


@register("min_samples", "ridge", "cp", "relative_cp", "initial", "relearn_every", "rank_targets", "patience")
@dataclasses.dataclass(frozen=True)
class LaNAS:
    """Sample-efficient search by learning the action space.

    Attributes:
      space: search space.
      pool: explicit codes to draw from; without a pool, a small space is enumerated and a large one sampled by chains.
      height: number of tree levels that may split.
      min_samples: minimum number of results in a node that is split.
      ridge: ridge penalty of the tree's regressions.
      cp: exploration weight of the upper confidence bound, in units of the mean targets.
      relative_cp: True to multiply `cp` by the absolute value of the highest value so far.
      initial: number of initial trials, not counting failed ones. Each is the least certain one of 64 or more uniform
        draws, by the model; without `expected_improvement`, it is a uniform draw. While these are pending, further
        draws go where the model is least certain.
      relearn_every: number of new results between two learning phases.
      rank_targets: True to fit the tree to ranks instead of values.
      patience: minimum number of results without a new best trial after which a round ends; 0 for a single endless
        round. A round whose best trial came after n of its results ends only after n further ones. Rounds alternate: in
        the first, third, ... the tree and the model learn from all results; in the others only from those of the
        round, as if the search had just begun.
      expected_improvement: True to choose a region's code by greatest expected improvement, False to draw it uniformly.
      chains: number of parallel random walks per draw in a space without a pool.
      steps: number of moves per walk.
      capacity: number of trials the initial state can hold; the state grows as needed.

    Raises:
      ValueError: if a setting that counts is not a whole number or is too small, a code of the pool is out of range, or
        the pool has no valid code.
    """

    space: SearchSpace
    pool: Pool | Codes | None = None
    height: int = 3
    min_samples: int = 10
    ridge: float = 20.0
    cp: float = 0.1
    relative_cp: bool = False
    initial: int = 10
    relearn_every: int = 1
    rank_targets: bool = True
    patience: int = 150
    expected_improvement: bool = True
    chains: int = 64
    steps: int = 64
    capacity: int = 256

    def __post_init__(self) -> None:
        least = {"height": 1, "min_samples": 1, "initial": 0, "relearn_every": 1, "patience": 0}
        set_whole_numbers(self, **least, chains=1, steps=1, capacity=1)
        pool = listed(self.space, self.pool)
        if pool is not None and self.expected_improvement:
            pool = pool.with_functions_and_sizes(self.space)
        object.__setattr__(self, "pool", pool)

    @classmethod
    def paper(cls, space: SearchSpace, pool: Pool | Codes | None = None) -> "LaNAS":
        """Returns the searcher with the published algorithm and constants (arXiv 1906.06832).

        A tree of height 5 is fitted to raw values, first to those of 10 uniform draws, then again after every 20
        results. Codes are drawn uniformly from the selected region, without a model. `cp` is a tenth of the highest
        value so far. The search is a single round.

        Args:
          space: search space.
          pool: explicit codes to draw from, as in `LaNAS`.
        """
        return cls(
            space,
            pool=pool,
            height=5,
            ridge=1.0,
            cp=0.1,
            relative_cp=True,
            initial=10,
            relearn_every=20,
            rank_targets=False,
            patience=0,
            expected_improvement=False,
        )

    def init(self, key: PRNGKeyArray) -> LaNASState:
        """Returns the state before the first trial. Consumes the key."""
        e = embedding_size(self.space, self.pool) if self.expected_improvement else self.space.embedding_size
        model = hypotheses.prior(min(self.capacity, MODEL_TRIALS), e, e - self.space.embedding_size)
        return LaNASState(
            key=key,
            history=hist.empty(self.space, self.pool, self.capacity),
            tree=partition.lone_root(self.height, len(self.space.feature_names)),
            model=model,
            modelled=jnp.zeros(model.rows, jnp.int32),
            learned=jnp.zeros((), jnp.int32),
            start=jnp.zeros((), jnp.int32),
            acceptance=jnp.ones(()),
        )

    def ask(self, state: LaNASState, n: int) -> tuple[LaNASState, Int[Array, "n dims"]]:
        """Returns `n` unseen codes, each drawn from the region the tree selects; rows of -1 when none are left."""
        history = hist.reserve(state.history, n)
        return _ask(self, with_history(state, history), n) if n else (state, hist.no_codes(self.space))

    @in_32_bits
    @nan_is_data
    def add_pending(self, state: LaNASState, codes: Codes) -> LaNASState:
        """Records codes as pending that were not asked for: trials that another process or person started.

        Codes that are already known, and rows of -1, are skipped.
        """
        history, codes, _ = hist.receive(state.history, self.space, codes, np.zeros(len(codes), np.float32))
        return _add_pending(self, with_history(state, history), codes)

    def tell(self, state: LaNASState, codes: Codes, values: Values) -> LaNASState:
        """Records values (NaN marks a failed trial) and relearns the regions when due."""
        history, codes, values = hist.receive(state.history, self.space, codes, values)
        return _tell(self, with_history(state, history), codes, values)


@jax.jit(static_argnames="n")
def _ask(searcher: LaNAS, state: LaNASState, n: int) -> tuple[LaNASState, Array]:
    key, subkey = jax.random.split(state.key)
    space, history, tree = searcher.space, state.history, state.tree

    def first() -> tuple[History, PartitionTree, Array, Array]:
        if searcher.expected_improvement:
            return draw_apart(subkey, space, searcher.pool, Known(history, tree, _with_outstanding(searcher, state)), n)
        return draw_uniformly(subkey, space, searcher.pool, history, tree, n)

    def learned() -> tuple[History, PartitionTree, Array, Array]:
        highest = jnp.max(jnp.where(history.done, history.values, -jnp.inf))
        is_relative = searcher.relative_cp & jnp.isfinite(highest)
        cp = searcher.cp * jnp.where(is_relative, jnp.abs(highest), 1.0)
        by_model = searcher.expected_improvement
        known = Known(history, tree, _with_outstanding(searcher, state) if by_model else state.model.best)
        if isinstance(searcher.pool, Pool):
            after, codes = draw_from_pool(subkey, space, searcher.pool, known, cp, n, by_model=by_model)
            acceptance = jnp.float32(1.0)
        else:
            walks = Walks(searcher.chains, searcher.steps, by_model)
            after, codes, acceptance = draw_from_lattice(subkey, space, known, cp, n, walks)
        return after.history, after.tree, acceptance, codes

    warming_up = jnp.sum(history.done | (history.status == hist.PENDING)) < searcher.initial
    history, tree, acceptance, codes = jax.lax.cond(warming_up, first, learned)
    return dataclasses.replace(state, key=key, history=history, tree=tree, acceptance=acceptance), codes


@jax.jit
def _add_pending(searcher: LaNAS, state: LaNASState, codes: Codes) -> LaNASState:
    def add(history: History, code: Array) -> tuple[History, Array]:
        new = (code[0] >= 0) & (hist.find_row(history, code) == history.capacity)
        code = jnp.where(new, code, hist.NOTHING)
        return hist.add_code(history, searcher.space, searcher.pool, code), new

    codes = searcher.space.canonical(codes)
    history, new = jax.lax.scan(add, state.history, codes)
    tree = partition.with_visits(state.tree, searcher.space.features(codes), new)
    return dataclasses.replace(state, history=history, tree=tree)


def _with_outstanding(searcher: LaNAS, state: LaNASState) -> GaussianProcess:
    """Returns the model extended by trials without a value: the latest, if not all fit."""
    history, space = state.history, searcher.space
    model = state.model.best
    rows, number = outstanding(history, model)

    def add(i: Array, model: GaussianProcess) -> GaussianProcess:
        at = i * TOGETHER + jnp.arange(TOGETHER)
        codes = jnp.maximum(history.codes[rows.at[at].get(mode="clip")], 0)
        return surrogate.extend_by_block(
            model, embed(space, searcher.pool, codes, len(model.columns)), at < number, space.dims
        )

    return jax.lax.fori_loop(0, -(-number // TOGETHER), add, model)


@jax.jit
def _tell(searcher: LaNAS, state: LaNASState, codes: Codes, values: Array) -> LaNASState:
    history, told = hist.record(state.history, searcher.space, searcher.pool, codes, values)
    appended = history.count > state.history.count  # results of codes that were not asked for start a round again
    ends = _round_ends(searcher, state.start, history, told) & ~appended
    history, start = hist.set_aside(history, ends), jnp.where(ends | appended, history.count, state.start)
    done, current = history.done, history.used & (history.status != hist.PAST)
    root = partition.lone_root(searcher.height, len(searcher.space.feature_names))
    tree = jax.tree.map(lambda a, b: jnp.where(ends, a, b), root, state.tree)
    last = jnp.where(ends, 0, state.learned)
    scores = surrogate.normal_scores(history.values, done)
    targets = jnp.where(searcher.rank_targets, scores, history.values)
    means = jnp.where(searcher.rank_targets, surrogate.rank_shares(history.values, done), history.values)
    features = searcher.space.features(history.codes)
    results = jnp.sum(done, dtype=jnp.int32)

    def learn() -> PartitionTree:
        ridge, least = searcher.ridge, searcher.min_samples
        return partition.learn_splits(features, targets, done, height=searcher.height, min_samples=least, ridge=ridge)

    due = results - last >= jnp.where(last == 0, searcher.initial, searcher.relearn_every)
    tree = partition.count_trials(jax.lax.cond(due, learn, lambda: tree), features, means, done, current)
    learned = jnp.where(due, results, last)
    state = dataclasses.replace(state, history=history, tree=tree, learned=learned, start=start)
    if not searcher.expected_improvement:
        return state
    state = with_results(state, searcher.space, searcher.pool, told, ends, _best_and_latest)
    return dataclasses.replace(state, model=state.model.learn(scores[state.modelled]))


def _round_ends(searcher: LaNAS, start: Int[Array, ""], history: History, told: Int[Array, " n"]) -> Bool[Array, ""]:
    """Returns whether the round ends: enough of its results, in the order of asks, came after the best trial.

    A round goes on if the best trial is among those told last, since no code was proposed with knowledge of it.
    """
    row = jnp.arange(history.capacity)
    best = jnp.argmax(jnp.where(history.done, history.values, -jnp.inf))
    since = jnp.sum(history.done & (row >= start) & (row > best))
    taken = jnp.sum(history.done & (row >= start)) - since
    is_over = since >= jnp.maximum(searcher.patience, taken)
    return (searcher.patience > 0) & is_over & ~jnp.any(told == best)


def _best_and_latest(history: History, n: int) -> Int[Array, " n"]:
    """Returns `n` history rows: the best `n // 2` results, then the latest results."""
    rank = jnp.argsort(jnp.argsort(jnp.where(history.done, -history.values, jnp.inf)))
    order = jnp.arange(history.capacity) + jnp.where(rank < n // 2, history.capacity, 0)
    return jax.lax.top_k(jnp.where(history.done, order, -1), n)[1]
