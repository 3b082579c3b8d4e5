"""Random search: codes drawn uniformly from the space, without repetition. The baseline without learning."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from lanas_jax.runtime.numbers import set_whole_numbers
from lanas_jax.searchers import history as hist
from lanas_jax.searchers.base import register
from lanas_jax.searchers.history import History
from lanas_jax.searchers.sampling import Pool, draw_valid, listed
from lanas_jax.spaces.base import Codes, SearchSpace, Values


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RandomState:
    """PRNG key and trial history."""

    key: PRNGKeyArray
    history: History


def uniform_unseen(
    key: PRNGKeyArray, space: SearchSpace, pool: Pool | Codes | None, history: History, n: int
) -> tuple[History, Array]:
    """Draws `n` distinct unseen codes uniformly and marks them as pending; rows of -1 when none are left.

    Consumes the key.
    """
    if not isinstance(pool, Pool):
        codes = draw_valid(key, space, lambda codes: ~hist.contains(history, codes), n)
        return hist.add_pending(history, codes), codes
    order = jnp.where(history.seen, -1.0, jax.random.uniform(key, history.seen.shape))
    score, rows = jax.lax.top_k(order, min(n, history.seen.shape[0]))
    codes = jnp.where((score >= 0)[:, None], pool.codes[rows], hist.NOTHING)
    codes = jnp.pad(codes, ((0, n - codes.shape[0]), (0, 0)), constant_values=hist.NOTHING)
    history = dataclasses.replace(history, seen=history.seen.at[rows].set(True))
    return hist.add_pending(history, codes), codes


@register()
@dataclasses.dataclass(frozen=True)
class RandomSearch:
    """Uniform draws without repetition.

    Attributes:
      space: search space.
      pool: explicit codes to draw from; without a pool, a small space is enumerated and a large one sampled.
      capacity: number of trials the initial state can hold; the state grows as needed.
      objectives: number of values per trial; with several, `tell` takes a column for each.

    Raises:
      ValueError: if `capacity` or `objectives` is not a whole number or is too small, or the pool has a code out of
        range or no valid code.
    """

    space: SearchSpace
    pool: Pool | Codes | None = None
    capacity: int = 256
    objectives: int = 1

    def __post_init__(self) -> None:
        set_whole_numbers(self, capacity=1, objectives=1)
        object.__setattr__(self, "pool", listed(self.space, self.pool))

    def init(self, key: PRNGKeyArray) -> RandomState:
        """Returns the state before the first trial. Consumes the key."""
        return RandomState(key, hist.empty(self.space, self.pool, self.capacity, self.objectives))

    def ask(self, state: RandomState, n: int) -> tuple[RandomState, Int[Array, "n dims"]]:
        """Returns `n` unseen codes; rows of -1 when none are left."""
        return _ask(self, dataclasses.replace(state, history=hist.reserve(state.history, n)), n)

    def tell(self, state: RandomState, codes: Codes, values: Values | hist.Objectives) -> RandomState:
        """Records values; NaN marks a failed trial."""
        history, codes, values = hist.receive(state.history, self.space, codes, values)
        return _tell(self, dataclasses.replace(state, history=history), codes, values)


@jax.jit(static_argnames="n")
def _ask(searcher: RandomSearch, state: RandomState, n: int) -> tuple[RandomState, Array]:
    key, subkey = jax.random.split(state.key)
    history, codes = uniform_unseen(subkey, searcher.space, searcher.pool, state.history, n)
    return RandomState(key, history), codes


@jax.jit
def _tell(searcher: RandomSearch, state: RandomState, codes: Codes, values: Array) -> RandomState:
    history, _ = hist.record(state.history, searcher.space, searcher.pool, codes, values)
    return dataclasses.replace(state, history=history)
