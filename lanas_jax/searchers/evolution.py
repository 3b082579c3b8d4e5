"""Regularized evolution (Real et al., arXiv 1802.01548): tournaments among recent trials, one mutation per child.

The population is the last `population` trials with a value, in the order in which they were asked: the oldest trial is
removed, not the worst. A child is the winner of a tournament with one choice changed. If all such neighbours are seen
or invalid, more choices are changed.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from lanas_jax.runtime.numbers import set_whole_numbers
from lanas_jax.searchers import history as hist
from lanas_jax.searchers.base import register
from lanas_jax.searchers.history import History
from lanas_jax.searchers.random_search import uniform_unseen
from lanas_jax.searchers.sampling import Pool, best_of, listed
from lanas_jax.spaces.base import Codes, SearchSpace, Values

MUTANTS_PER_DISTANCE = 32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EvolutionState:
    """PRNG key and trial history."""

    key: PRNGKeyArray
    history: History


@register("population")
@dataclasses.dataclass(frozen=True)
class RegularizedEvolution:
    """Aging evolution.

    Attributes:
      space: search space.
      pool: explicit codes to draw from; without a pool, a small space is enumerated and a large one mutated on its
        lattice.
      population: number of trials in the population; the search starts with as many uniform draws.
      tournament: number of trials per tournament, drawn from the population with replacement.
      capacity: number of trials the initial state can hold; the state grows as needed.

    Raises:
      ValueError: if a setting is not a whole number or is too small, or the pool has a code out of range or no valid
        one.
    """

    space: SearchSpace
    pool: Pool | Codes | None = None
    population: int = 50
    tournament: int = 10
    capacity: int = 256

    def __post_init__(self) -> None:
        set_whole_numbers(self, population=1, tournament=1, capacity=1)
        object.__setattr__(self, "pool", listed(self.space, self.pool))

    def init(self, key: PRNGKeyArray) -> EvolutionState:
        """Returns the state before the first trial. Consumes the key."""
        return EvolutionState(key, hist.empty(self.space, self.pool, self.capacity))

    def ask(self, state: EvolutionState, n: int) -> tuple[EvolutionState, Int[Array, "n dims"]]:
        """Returns `n` unseen children; rows of -1 when none are left."""
        return _ask(self, dataclasses.replace(state, history=hist.reserve(state.history, n)), n)

    def tell(self, state: EvolutionState, codes: Codes, values: Values) -> EvolutionState:
        """Records values; NaN marks a failed trial."""
        history, codes, values = hist.receive(state.history, self.space, codes, values)
        return _tell(self, dataclasses.replace(state, history=history), codes, values)


@jax.jit(static_argnames="n")
def _ask(searcher: RegularizedEvolution, state: EvolutionState, n: int) -> tuple[EvolutionState, Array]:
    def one(history: History, key: Array) -> tuple[History, Array]:
        uniform_key, parent_key, child_key = jax.random.split(key, 3)
        warming_up = (history.count < searcher.population) | ~jnp.any(history.done)
        parent = _parent(searcher, history, parent_key)
        if isinstance(searcher.pool, Pool):
            child = _from_pool(searcher.space, searcher.pool, history, parent, child_key)
        else:
            child = _from_lattice(searcher.space, history, parent, child_key)

        def uniform() -> tuple[History, Array]:
            drawn, codes = uniform_unseen(uniform_key, searcher.space, searcher.pool, history, 1)
            return drawn, codes[0]

        def bred() -> tuple[History, Array]:
            return hist.add_code(history, searcher.space, searcher.pool, child), child

        return jax.lax.cond(warming_up | (child[0] < 0), uniform, bred)

    key, subkey = jax.random.split(state.key)
    history, codes = jax.lax.scan(one, state.history, jax.random.split(subkey, n))
    return EvolutionState(key, history), codes


def _parent(searcher: RegularizedEvolution, history: History, key: PRNGKeyArray) -> Int[Array, " dims"]:
    """Returns the winner of a tournament in the population."""
    results = jnp.cumsum(history.done)
    alive = history.done & (results > results[-1] - searcher.population)
    logits = jnp.where(alive, 0.0, -jnp.inf)
    rows = jax.random.categorical(key, logits, shape=(searcher.tournament,))
    return history.codes[rows[jnp.argmax(history.values[rows])]]


def _from_pool(
    space: SearchSpace, pool: Pool, history: History, parent: Int[Array, " dims"], key: PRNGKeyArray
) -> Int[Array, " dims"]:
    """Returns a random unseen pool code among those that differ from the parent in the fewest choices; -1 if none."""
    distance = space.count_changes(pool.codes, parent[None]).astype(jnp.float32)
    row, found = best_of(jax.random.uniform(key, distance.shape) - distance, ~history.seen)
    return jnp.where(found, pool.codes[row], hist.NOTHING)


def _from_lattice(
    space: SearchSpace, history: History, parent: Int[Array, " dims"], key: PRNGKeyArray
) -> Int[Array, " dims"]:
    """Returns the first unseen valid mutant, in order of the number of changed choices; -1 if there is none."""
    where_key, value_key = jax.random.split(key)
    distances = jnp.arange(1, min(space.dims, 4) + 1).repeat(MUTANTS_PER_DISTANCE)
    n = distances.shape[0]
    rank = jnp.argsort(jax.random.uniform(where_key, (n, space.dims)), axis=1)
    shift = jax.random.randint(value_key, (n, space.dims), 1, jnp.maximum(space.cardinalities, 2)[None])
    moved = (parent[None] + shift) % space.cardinalities[None]
    raw = jnp.where(rank < distances[:, None], moved, parent[None])
    mutants = space.canonical(raw)
    fresh = space.valid(raw) & ~hist.contains(history, mutants)
    return jnp.where(jnp.any(fresh), mutants[jnp.argmax(fresh)], hist.NOTHING)


@jax.jit
def _tell(searcher: RegularizedEvolution, state: EvolutionState, codes: Codes, values: Array) -> EvolutionState:
    history, _ = hist.record(state.history, searcher.space, searcher.pool, codes, values)
    return dataclasses.replace(state, history=history)
