"""The Gaussian process of a searcher's state, updated with its history."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from lanas_jax.searchers import history as hist
from lanas_jax.searchers.history import History
from lanas_jax.searchers.hypotheses import Hypotheses
from lanas_jax.searchers.sampling import Pool, embed
from lanas_jax.searchers.surrogate import GaussianProcess
from lanas_jax.spaces.base import Codes, SearchSpace

MODEL_TRIALS = 512  # maximum number of trials in a Gaussian process


@runtime_checkable
class Modelled(Protocol):
    """A state, a dataclass, with a history and a model of its trials."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def history(self) -> History:
        """Trials from all asks and tells."""
        ...

    @property
    def model(self) -> Hypotheses:
        """Gaussian processes of at most `MODEL_TRIALS` of them."""
        ...

    @property
    def modelled(self) -> Int[Array, " rows"]:
        """History row of each model row."""
        ...


State = TypeVar("State", bound=Modelled)


def with_history(state: State, history: History) -> State:
    """Returns the state with a history that may have grown; the model grows with it."""
    if history.capacity == state.history.capacity:
        return dataclasses.replace(state, history=history)
    model = state.model.grow(min(history.capacity, MODEL_TRIALS))
    modelled = jnp.pad(state.modelled, (0, model.rows - state.modelled.shape[0]))
    return dataclasses.replace(state, history=history, model=model, modelled=modelled)


def with_results(
    state: State,
    space: SearchSpace,
    pool: Pool | Codes | None,
    told: Int[Array, " n"],
    begins: Bool[Array, ""],
    choose: Callable[[History, int], Int[Array, " n"]],
) -> State:
    """Returns the state with its model updated to its history; the model must still learn its targets.

    New trials are appended to the model. The model is rebuilt if it begins again, if one of its trials no longer has a
    value, or, in long searches, if it is full.

    Args:
      state: state whose history holds the results.
      space: search space.
      pool: pool whose embeddings the model has; None for those of the space.
      told: history rows that changed.
      begins: whether the model begins again, without the earlier trials.
      choose: function that returns the given number of history rows to rebuild the model from.
    """
    history, model = state.history, state.model
    inside = jnp.zeros(history.capacity, bool).at[state.modelled].max(jnp.arange(model.rows) < model.count)
    first = ~jnp.any((told[:, None] == told[None]) & jnp.tri(told.shape[0], k=-1, dtype=bool), axis=1)
    new = first & (told < history.capacity) & history.done[told] & ~inside[told]
    limit = model.rows if history.capacity <= model.rows else model.rows - model.rows // 8
    full = model.count + jnp.sum(new) > limit

    rebuilt = full | begins | jnp.any(inside & ~history.done)
    kept = history.capacity if history.capacity <= model.rows else model.rows * 3 // 4
    length, nothing = max(kept, told.shape[0]), history.capacity
    chosen, latest = choose(history, kept), jnp.where(new, told, nothing)
    chosen, latest = (jnp.pad(r, (0, length - len(r)), constant_values=nothing) for r in (chosen, latest))
    rows = jnp.where(rebuilt, chosen, latest)

    def add(i: Array, carry: tuple[Hypotheses, Array]) -> tuple[Hypotheses, Array]:
        model, modelled = carry
        done = history.done.at[rows[i]].get(mode="fill", fill_value=False)
        modelled = modelled.at[jnp.where(done, model.count, model.rows)].set(rows[i], mode="drop")
        code = jnp.maximum(history.codes[rows[i]], 0)[None]
        return model.extend(embed(space, pool, code, model.embedding_size)[0], done, space.dims), modelled

    start = model.without_trials(rebuilt)
    more = jnp.where(rebuilt, kept, told.shape[0])
    model, modelled = jax.lax.fori_loop(0, more, add, (start, state.modelled))
    return dataclasses.replace(state, model=model, modelled=modelled)


def outstanding(history: History, model: GaussianProcess) -> tuple[Int[Array, " capacity"], Int[Array, ""]]:
    """Returns history rows of which the first are trials without a value (pending or failed), and their number.

    The latest come first; the number is limited to the free rows of the model.
    """
    without = (history.status == hist.PENDING) | (history.status == hist.FAILED)
    latest = jnp.argsort(jnp.where(without, -jnp.arange(history.capacity), 1))
    return latest, jnp.minimum(jnp.sum(without), model.rows - model.count)
