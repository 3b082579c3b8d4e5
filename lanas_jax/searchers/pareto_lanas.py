"""ParetoLaNAS: search for a front of several objectives by learning regions of the space (arXiv 2110.03173).

Learning phase (`tell`): the trees of `lanas.LaNAS` with other targets. A trial's target is the normal score of its
dominance number, the number of trials that dominate it, so trials on the front are above all others. The value of a
node is the hypervolume of its trials, as a share of the hypervolume of all.

Search phase (`ask`): the upper confidence bound over these values selects a leaf. In its region, the code of greatest
expected improvement of the hypervolume is chosen (`hypervolume_improvement`): one Gaussian process per objective, over
the same trials, and none for an exact objective. One draw in five seeks an end of the front instead: the code of
greatest expected improvement of one objective that is not exact, of the whole space. A pending trial counts as a visit,
and as a trial that has its predicted objectives, so that a batch spreads out along the front. A failed trial counts as
a visit and reduces the uncertainty around it.

`front_model.py` has the units in which objectives are compared, and the model that values codes.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lanas_jax.runtime.numbers import set_whole_numbers
from lanas_jax.searchers import history as hist
from lanas_jax.searchers import hypotheses, partition, surrogate
from lanas_jax.searchers.base import register
from lanas_jax.searchers.dominance import dominance_scores, on_front
from lanas_jax.searchers.first_draws import draw_uniformly
from lanas_jax.searchers.front_model import PRIOR, Beliefs, FrontModel, units_of
from lanas_jax.searchers.history import History, Objectives
from lanas_jax.searchers.hypervolume import hypervolume
from lanas_jax.searchers.hypervolume_improvement import Reach, front_of, improvement
from lanas_jax.searchers.hypotheses import Hypotheses
from lanas_jax.searchers.modelled import MODEL_TRIALS, with_history, with_results
from lanas_jax.searchers.objectives import check_objectives, exact_costs
from lanas_jax.searchers.partition import PartitionTree
from lanas_jax.searchers.sampling import Inside, Pool, best_of, best_per_bucket, climb, listed
from lanas_jax.searchers.selection import (
    LIKED,
    PARENTS,
    RANDOM,
    descend,
    draw_from_leaves,
    look_around,
    near_the_best,
)
from lanas_jax.spaces.base import Codes, SearchSpace


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ParetoLaNASState:
    """PRNG key, trials, partition tree and the model of trials with values.

    Attributes:
      key: PRNG key for future draws.
      history: trials from all asks and tells; `values` has a column per objective.
      tree: partition tree; its visits include pending trials, and its means are shares of the hypervolume.
      model: Gaussian process of the trials' embeddings; targets are given when it is used, one objective at a time.
      modelled: history row of each model row.
      learned: number of results the tree was last learned from.
      acceptance: share of moves accepted by the lattice chains in the last ask; 1 if no chains were run.
    """

    key: PRNGKeyArray
    history: History
    tree: PartitionTree
    model: Hypotheses
    modelled: Int[Array, " rows"]
    learned: Int[Array, ""]
    acceptance: Float[Array, ""]


@register("costs", "reference", "min_samples", "ridge", "cp", "initial", "relearn_every")
@dataclasses.dataclass(frozen=True)
class ParetoLaNAS:
    """Sample-efficient search for the front of two to four objectives, all of which are maximised.

    `tell` takes a column of values per objective; NaN in one of them marks a failed trial.

    Attributes:
      space: search space.
      objectives: names of the objectives. Those that are called ``multiply_adds``, ``parameters`` or ``latency`` are
        negative costs of `SearchSpace.known_costs`. In a listed space or pool that defines them, and in a space that
        has `traced_cost`, they are exact: known for every code, without a model. In other spaces they are learned like
        any other.
      pool: explicit codes to draw from; without a pool, a small space is enumerated and a large one sampled by chains.
      reference: values of the objectives below which a trial is of no use; None for the worst of the trials' values
        minus their whole range, on the scale on which the model learns them.
      height: number of tree levels that may split.
      min_samples: minimum number of results in a node that is split.
      ridge: ridge penalty of the tree's regressions.
      cp: exploration weight of the upper confidence bound, in units of the hypervolume of all trials.
      initial: number of initial trials drawn uniformly, not counting failed ones.
      relearn_every: number of new results between two learning phases.
      chains: number of parallel random walks per draw in a space without a pool.
      steps: number of moves per walk.
      capacity: number of trials the initial state can hold; the state grows as needed.
      is_exact: whether each objective is known before training.
      costs: exact objectives of each code of a pool or listed space.

    Raises:
      ValueError: fewer than two or more than four objectives, the same objective twice, no objective that is not known
        before training, a reference of another length, or a number out of range.
    """

    space: SearchSpace
    objectives: tuple[str, ...]
    pool: Pool | Codes | None = None
    reference: tuple[float, ...] | None = None
    height: int = 3
    min_samples: int = 10
    ridge: float = 20.0
    cp: float = 0.1
    initial: int = 15
    relearn_every: int = 1
    chains: int = 64
    steps: int = 64
    capacity: int = 256
    is_exact: tuple[bool, ...] = dataclasses.field(init=False, repr=False, compare=False)
    costs: Float[Array, "m exact"] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        least = {"height": 1, "min_samples": 1, "initial": 1, "relearn_every": 1}
        set_whole_numbers(self, **least, chains=1, steps=1, capacity=1)
        object.__setattr__(self, "objectives", check_objectives(self.objectives))
        if self.reference is not None and len(self.reference) != len(self.objectives):
            raise ValueError(
                f"reference needs a value per objective ({', '.join(self.objectives)}); got {len(self.reference)}"
            )
        pool = listed(self.space, self.pool)
        if isinstance(self.pool, Pool):  # that of `LaNAS`, for example
            pool = self.pool.without_functions_and_sizes(self.space)
        object.__setattr__(self, "pool", pool)
        exact, costs = exact_costs(self.space, self.objectives, None if pool is None else pool.codes)
        if all(exact):
            raise ValueError(f"{', '.join(self.objectives)} are known before training; give an objective to learn too")
        object.__setattr__(self, "is_exact", exact)
        object.__setattr__(self, "costs", jnp.asarray(costs))

    def init(self, key: PRNGKeyArray) -> ParetoLaNASState:
        """Returns the state before the first trial. Consumes the key."""
        model = hypotheses.prior(min(self.capacity, MODEL_TRIALS), self.space.embedding_size, 0, [PRIOR])
        return ParetoLaNASState(
            key=key,
            history=hist.empty(self.space, self.pool, self.capacity, len(self.objectives)),
            tree=partition.lone_root(self.height, len(self.space.feature_names)),
            model=model,
            modelled=jnp.zeros(model.rows, jnp.int32),
            learned=jnp.zeros((), jnp.int32),
            acceptance=jnp.ones(()),
        )

    def ask(self, state: ParetoLaNASState, n: int) -> tuple[ParetoLaNASState, Int[Array, "n dims"]]:
        """Returns `n` unseen codes, each drawn from the region the tree selects; rows of -1 when none are left."""
        history = hist.reserve(state.history, n)
        return _ask(self, with_history(state, history), n) if n else (state, hist.no_codes(self.space))

    def tell(self, state: ParetoLaNASState, codes: Codes, values: Objectives) -> ParetoLaNASState:
        """Records values, a column per objective (NaN marks a failed trial), and relearns the regions when due."""
        history, codes, values = hist.receive(state.history, self.space, codes, values)
        return _tell(self, with_history(state, history), codes, values)


@jax.jit(static_argnames="n")
def _ask(searcher: ParetoLaNAS, state: ParetoLaNASState, n: int) -> tuple[ParetoLaNASState, Array]:
    key, subkey = jax.random.split(state.key)
    space, history, tree = searcher.space, state.history, state.tree

    def uniform() -> tuple[History, PartitionTree, Array, Array]:
        return draw_uniformly(subkey, space, searcher.pool, history, tree, n)

    def learned() -> tuple[History, PartitionTree, Array, Array]:
        model = _model(searcher, state)
        beliefs = Beliefs(history, tree, state.model.best, model.units.scores, history.done)
        draw = _from_lattice if model.pool is None else _from_pool
        after, codes, acceptance = draw(subkey, searcher, model, model.with_outstanding(beliefs), n)
        return after.history, after.tree, acceptance, codes

    warming_up = jnp.sum(history.done | (history.status == hist.PENDING)) < searcher.initial
    none_done = ~jnp.any(history.done)
    history, tree, acceptance, codes = jax.lax.cond(warming_up | none_done, uniform, learned)
    return dataclasses.replace(state, key=key, history=history, tree=tree, acceptance=acceptance), codes


def _model(searcher: ParetoLaNAS, state: ParetoLaNASState) -> FrontModel:
    units = units_of(state.history, searcher.is_exact, searcher.reference)
    columns = [column for column, exact in zip(units.scores.T, searcher.is_exact, strict=True) if not exact]
    posteriors = tuple(surrogate.learn(state.model.best, column[state.modelled]) for column in columns)
    pool = searcher.pool if isinstance(searcher.pool, Pool) else None
    return FrontModel(searcher.space, searcher.objectives, searcher.is_exact, pool, searcher.costs, units, posteriors)


def _from_pool(
    key: PRNGKeyArray, searcher: ParetoLaNAS, model: FrontModel, beliefs: Beliefs, n: int
) -> tuple[Beliefs, Int[Array, "n dims"], Float[Array, ""]]:
    """Draws `n` unseen codes of the pool, each the best of a shortlist of the leaf that the tree selects."""
    pool, units = model.pool, model.units
    assert pool is not None
    leaf_of = partition.route(beliefs.tree, pool.features)
    hopes = units.of(model.optimistic())

    def one(carry: tuple[Beliefs, Array], key: Array) -> tuple[tuple[Beliefs, Array], Array]:
        beliefs, unseen = carry
        history = beliefs.history
        near_key, random_key, worth_key, end_key = jax.random.split(key, 4)
        end = model.draw_end(end_key)
        leaf = descend(beliefs.tree, unseen > 0, jnp.float32(searcher.cp))
        free = ~history.seen & ((leaf_of == leaf) | (end >= 0))
        front = front_of(units.of(beliefs.points), beliefs.counted)
        hope = jnp.where(end >= 0, hopes[:, end], improvement(front, hopes) + 1e-6 * jnp.min(hopes, axis=1))
        by_hope, _ = best_per_bucket(hope, free, LIKED)
        is_best = on_front(beliefs.points, history.done)
        worth = jnp.where(end >= 0, beliefs.points[:, end], jax.random.uniform(worth_key, is_best.shape))
        worth = jnp.where(jnp.where(end >= 0, history.done, is_best), worth, -jnp.inf)
        near = near_the_best(near_key, searcher.space, pool, history, worth)
        m = free.shape[0]
        anywhere = jnp.minimum((jax.random.uniform(random_key, (RANDOM,)) * m).astype(jnp.int32), m - 1)
        rows = jnp.concatenate([by_hope, near, anywhere])
        allowed = (rows >= 0) & free[rows]
        gain = model.log_gain(beliefs, front, pool.embedded[rows], searcher.costs[rows], end)
        place, found = best_of(gain, allowed)
        row = jnp.where(found, rows[place], -1)
        code = jnp.where(found, pool.codes[row], hist.NOTHING)
        leaf = jnp.where(found, leaf_of[row], leaf)
        beliefs = model.with_drawn(beliefs, code, leaf)
        history = dataclasses.replace(beliefs.history, seen=hist.with_rows(history.seen, row[None]))
        visits = partition.backup(beliefs.tree, leaf).visits - beliefs.tree.visits
        return (beliefs._replace(history=history), unseen - jnp.where(found, visits, 0)), code

    unseen = partition.subtotals(beliefs.tree, leaf_of, ~beliefs.history.seen)
    (beliefs, _), codes = jax.lax.scan(one, (beliefs, unseen), jax.random.split(key, n))
    return beliefs, codes, jnp.float32(1.0)


def _from_lattice(
    key: PRNGKeyArray, searcher: ParetoLaNAS, model: FrontModel, beliefs: Beliefs, n: int
) -> tuple[Beliefs, Int[Array, "n dims"], Float[Array, ""]]:
    """Draws `n` unseen codes of a lattice, each from chains in the leaf that the tree selects.

    Each chain climbs on exact objectives and on effects sampled from their posterior, added up with random weights.
    """
    space, is_exact, units, posteriors = searcher.space, np.array(searcher.is_exact), model.units, model.posteriors

    def one(beliefs: Beliefs, key: Array) -> tuple[Beliefs, tuple[Array, Array]]:
        history, tree = beliefs.history, beliefs.tree
        front = front_of(units.of(beliefs.points), beliefs.counted)
        is_best = on_front(beliefs.points, history.done)
        key, end_key = jax.random.split(key)
        end = model.draw_end(end_key)

        def from_region(key: Array, unseen: Inside, leaf: Array) -> tuple[Array, Array, Array]:
            leaf = jnp.where(end >= 0, 0, leaf)  # the whole space
            start_key, effect_key, weight_key, climb_key, local_key, best_key = jax.random.split(key, 6)

            def inside(codes: Array) -> Array:
                return space.valid(codes) & partition.inside(tree, leaf, space.features(codes))

            members = history.used & partition.inside(tree, leaf, space.features(history.codes))
            logits = jnp.where(members, 0.0, -jnp.inf)
            starts = history.codes[jax.random.categorical(start_key, logits, shape=(searcher.chains,))]
            weights = jax.random.dirichlet(weight_key, jnp.ones(len(searcher.objectives)), (searcher.chains,))
            weights = jnp.where(end >= 0, jax.nn.one_hot(end, len(searcher.objectives)), weights) / units.scale[None]
            keys = jax.random.split(effect_key, len(posteriors))
            drawn = [
                posterior.sample_weights(key, searcher.chains) for posterior, key in zip(posteriors, keys, strict=True)
            ]
            mixed = jnp.einsum("cl,lce->ce", weights[:, ~is_exact], jnp.stack(drawn), precision="highest")
            effects = jnp.matmul(mixed, space.term_embedding.T, precision="highest")

            def liked(codes: Array) -> Array:
                worth = jnp.sum(space.terms(codes) * effects, axis=1)
                worth = worth + jnp.sum(weights[:, is_exact] * model.exact_of(codes), axis=1)
                return jnp.where(unseen(codes), worth, -jnp.inf)

            def gain(codes: Array) -> Array:
                gain = model.log_gain(beliefs, front, space.embed(codes), model.exact_of(codes), end)
                return jnp.where(unseen(codes) & inside(codes), gain, -jnp.inf)

            codes, rate = climb(climb_key, space, starts, inside, liked, searcher.steps, searcher.steps)
            worth = jnp.where(end >= 0, beliefs.points[:, end], jax.random.uniform(best_key, is_best.shape))
            worth = jnp.where(members & jnp.where(end >= 0, history.done, is_best), worth, -jnp.inf)
            best = history.codes[jax.lax.top_k(worth, min(PARENTS, history.capacity))[1]]
            code, score = look_around(local_key, space, gain, codes, best)
            return space.canonical(code[None])[0], score > -jnp.inf, rate

        code, rate = draw_from_leaves(key, space, history, tree, jnp.float32(searcher.cp), from_region)
        leaf = partition.route(tree, space.features(code[None]))[0]
        return model.with_drawn(beliefs, code, leaf), (code, rate)

    beliefs, (codes, rates) = jax.lax.scan(one, beliefs, jax.random.split(key, n))
    return beliefs, codes, jnp.mean(rates)


@jax.jit
def _tell(searcher: ParetoLaNAS, state: ParetoLaNASState, codes: Codes, values: Array) -> ParetoLaNASState:
    history, told = hist.record(state.history, searcher.space, searcher.pool, codes, values)
    done, features = history.done, searcher.space.features(history.codes)
    targets = dominance_scores(history.values, done)
    results = jnp.sum(done, dtype=jnp.int32)

    def learn() -> PartitionTree:
        ridge, least = searcher.ridge, searcher.min_samples
        return partition.learn_splits(features, targets, done, height=searcher.height, min_samples=least, ridge=ridge)

    due = results - state.learned >= jnp.where(state.learned == 0, searcher.initial, searcher.relearn_every)
    tree = jax.lax.cond(due, learn, lambda: state.tree)
    tree = _with_hypervolumes(searcher, partition.count_trials(tree, features, targets, done, history.used), history)
    state = dataclasses.replace(state, history=history, tree=tree, learned=jnp.where(due, results, state.learned))
    return with_results(state, searcher.space, None, told, jnp.bool_(False), _latest)


def _with_hypervolumes(searcher: ParetoLaNAS, tree: PartitionTree, history: History) -> PartitionTree:
    """Returns the tree with shares of the hypervolume in place of mean targets."""
    units = units_of(history, searcher.is_exact, searcher.reference)
    points = units.of(units.scores)
    inside = partition.members(tree, searcher.space.features(history.codes)) & history.done[None]
    volumes = jax.vmap(lambda members: _volume(points, members))(inside)
    shares = jnp.where(volumes[0] > 0, volumes / volumes[0], 0.0)
    return dataclasses.replace(tree, sums=shares * tree.results.astype(jnp.float32))


def _volume(points: Float[Array, "n k"], counted: Bool[Array, " n"]) -> Float[Array, ""]:
    """Returns the hypervolume of points above 0: exact for two objectives, by directions for more."""
    if points.shape[1] == 2:
        return hypervolume(points, counted, jnp.zeros(2))
    front = front_of(points, counted)
    assert isinstance(front, Reach)
    return jnp.mean(front.length ** points.shape[1])


def _latest(history: History, n: int) -> Int[Array, " n"]:
    """Returns the rows of the latest `n` results."""
    return jax.lax.top_k(jnp.where(history.done, jnp.arange(history.capacity), -1), n)[1]
