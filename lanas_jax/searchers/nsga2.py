"""NSGA-II: evolution of a population by non-dominated sorting (Deb et al., 2002). The baseline for several objectives.

The population of a generation is the best of all results told before it: by the rank of their front, and within one
front by crowding distance. A parent is the better of two random members. A child takes each choice from one of two
parents (uniform crossover) or from the first alone, and each choice is redrawn with a probability of one in `dims`. A
child that was tried before is mutated further until it is new.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from lanas_jax.runtime.numbers import set_whole_numbers
from lanas_jax.searchers import history as hist
from lanas_jax.searchers.base import register
from lanas_jax.searchers.dominance import crowding_distances, front_ranks
from lanas_jax.searchers.history import History, Objectives
from lanas_jax.searchers.objectives import check_objectives
from lanas_jax.searchers.random_search import uniform_unseen
from lanas_jax.searchers.sampling import Pool, best_of, listed
from lanas_jax.spaces.base import Codes, SearchSpace

CHILDREN = 16  # children per draw, of which the first new valid one is taken
FURTHER = 4  # number of times by which the probability of mutation doubles from the first child to the last


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NSGA2State:
    """PRNG key, trial history, and order of the results within the present generation.

    Attributes:
      key: PRNG key for future draws.
      history: trials; `values` has a column per objective.
      place: position of each result, sorted by rank and crowding distance when the present generation began; the first
        results are its population.
      sorted: number of results when the present generation began.
    """

    key: PRNGKeyArray
    history: History
    place: Int[Array, " capacity"]
    sorted: Int[Array, ""]


@register("population", "crossover")
@dataclasses.dataclass(frozen=True)
class NSGA2:
    """Evolution by non-dominated sorting, for two to four objectives, all of which are maximised.

    Attributes:
      space: search space.
      objectives: names of the objectives.
      pool: explicit codes to draw from; without a pool, a small space is enumerated and a large one sampled.
      population: number of parents, of uniform draws before the first generation, and of results per generation.
      crossover: probability that a child has two parents.
      capacity: number of trials the initial state can hold; the state grows as needed.

    Raises:
      ValueError: fewer than two or more than four objectives, the same objective twice, or a number out of range.
    """

    space: SearchSpace
    objectives: tuple[str, ...]
    pool: Pool | Codes | None = None
    population: int = 20
    crossover: float = 0.9
    capacity: int = 256

    def __post_init__(self) -> None:
        set_whole_numbers(self, population=2, capacity=1)
        object.__setattr__(self, "objectives", check_objectives(self.objectives))
        object.__setattr__(self, "pool", listed(self.space, self.pool))

    def init(self, key: PRNGKeyArray) -> NSGA2State:
        """Returns the state before the first trial. Consumes the key."""
        history = hist.empty(self.space, self.pool, self.capacity, len(self.objectives))
        return NSGA2State(key, history, jnp.full(self.capacity, self.capacity, jnp.int32), jnp.int32(0))

    def ask(self, state: NSGA2State, n: int) -> tuple[NSGA2State, Int[Array, "n dims"]]:
        """Returns `n` unseen codes; rows of -1 when none are left."""
        return _ask(self, _with_history(state, hist.reserve(state.history, n)), n)

    def tell(self, state: NSGA2State, codes: Codes, values: Objectives) -> NSGA2State:
        """Records values, a column per objective; NaN marks a failed trial."""
        history, codes, values = hist.receive(state.history, self.space, codes, values)
        return _tell(self, _with_history(state, history), codes, values)


def _with_history(state: NSGA2State, history: History) -> NSGA2State:
    """Returns the state with a history that may have grown."""
    more = history.capacity - state.place.shape[0]
    place = jnp.pad(state.place, (0, more), constant_values=jnp.iinfo(jnp.int32).max) if more else state.place
    return dataclasses.replace(state, history=history, place=place)


@jax.jit(static_argnames="n")
def _ask(searcher: NSGA2, state: NSGA2State, n: int) -> tuple[NSGA2State, Array]:
    space = searcher.space
    members = jnp.minimum(state.sorted, searcher.population)
    order = jnp.argsort(state.place)

    def tournament(key: PRNGKeyArray) -> Int[Array, " dims"]:
        drawn = jax.random.randint(key, (2,), 0, jnp.maximum(members, 1))
        return state.history.codes[order[jnp.min(drawn)]]

    def one(history: History, key: Array) -> tuple[History, Array]:
        uniform_key, first_key, second_key, child_key = jax.random.split(key, 4)
        parents = tournament(first_key), tournament(second_key)
        child = _child(searcher, history, parents, child_key)

        def uniform() -> tuple[History, Array]:
            drawn, codes = uniform_unseen(uniform_key, space, searcher.pool, history, 1)
            return drawn, codes[0]

        def bred() -> tuple[History, Array]:
            return hist.add_code(history, space, searcher.pool, child), child

        return jax.lax.cond((members == 0) | (child[0] < 0), uniform, bred)

    key, subkey = jax.random.split(state.key)
    history, codes = jax.lax.scan(one, state.history, jax.random.split(subkey, n))
    return dataclasses.replace(state, key=key, history=history), codes


def _child(
    searcher: NSGA2, history: History, parents: tuple[Int[Array, " dims"], Int[Array, " dims"]], key: PRNGKeyArray
) -> Int[Array, " dims"]:
    """Returns a new valid child; -1 if none of `CHILDREN` is new, which leaves a uniform draw.

    From a pool, the child is the unseen code that differs in the fewest choices.
    """
    space, (first, second) = searcher.space, parents
    cross_key, gene_key, where_key, what_key, tie_key = jax.random.split(key, 5)
    both = jax.random.bernoulli(cross_key, searcher.crossover)
    crossed = jnp.where(both & jax.random.bernoulli(gene_key, 0.5, first.shape), second, first)
    more = 2.0 ** (FURTHER * jnp.arange(CHILDREN) / (CHILDREN - 1))
    chance = jnp.minimum(more / space.dims, 1.0)[:, None]
    shape = (CHILDREN, space.dims)
    moved = jax.random.uniform(where_key, shape) < chance
    drawn = jax.random.randint(what_key, shape, 0, space.cardinalities[None])
    raw = jnp.where(moved, drawn, crossed[None])
    children = space.canonical(raw)
    if isinstance(searcher.pool, Pool):
        distance = space.count_changes(searcher.pool.codes, children[0][None]).astype(jnp.float32)
        row, found = best_of(jax.random.uniform(tie_key, distance.shape) - distance, ~history.seen)
        return jnp.where(found, searcher.pool.codes[row], hist.NOTHING)
    fresh = space.valid(raw) & ~hist.contains(history, children)
    return jnp.where(jnp.any(fresh), children[jnp.argmax(fresh)], hist.NOTHING)


@jax.jit
def _tell(searcher: NSGA2, state: NSGA2State, codes: Codes, values: Array) -> NSGA2State:
    history, _ = hist.record(state.history, searcher.space, searcher.pool, codes, values)
    results = jnp.sum(history.done, dtype=jnp.int32)

    def sort() -> tuple[Array, Array]:
        ranks = front_ranks(history.values, history.done)
        order = jnp.lexsort((-crowding_distances(history.values, ranks), ranks))
        return jnp.zeros_like(order).at[order].set(jnp.arange(order.shape[0])).astype(jnp.int32), results

    due = results - state.sorted >= searcher.population
    place, at = jax.lax.cond(due, sort, lambda: (state.place, state.sorted))
    return dataclasses.replace(state, history=history, place=place, sorted=at)
