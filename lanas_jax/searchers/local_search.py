"""Local search with restarts (White et al., arXiv 2005.02960; den Ottelander et al., arXiv 2004.08996).

A run draws a few codes uniformly and starts at the best of them. It evaluates the neighbours of its centre (codes with
one choice changed) in random order and moves to the first better one, as den Ottelander et al. do choice by choice.
White et al. evaluate all neighbours and move to the best. At a local optimum a new run starts.

A pool that is a sample of its space may hold no code with one choice changed. The neighbours of such a centre are then
the nearest pool codes: within the smallest number of changes that reaches as many codes as have one choice changed in
the whole space.

Neighbours that already have a value, from an earlier run or from a `tell` without an ask, are not evaluated again. They
keep their place in the random order, so a run can leave the path of an earlier run. If all neighbours of the centre are
pending and none is better so far, the batch is filled with uniform draws, which count as draws of the next run.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from lanas_jax.runtime.numbers import set_whole_numbers
from lanas_jax.searchers import history as hist
from lanas_jax.searchers.base import register
from lanas_jax.searchers.history import History
from lanas_jax.searchers.random_search import uniform_unseen
from lanas_jax.searchers.sampling import Pool, best_of, listed, neighbours
from lanas_jax.spaces.base import Codes, SearchSpace, Values

NOWHERE = -1  # centre of a run that is still drawing uniformly


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LocalSearchState:
    """PRNG key, trial history, and position of the current run.

    Attributes:
      key: PRNG key for future draws.
      history: trials from all asks and tells.
      centre: history row whose neighbours are tried; NOWHERE while a run draws its start.
      arrived: number of trials at the last move of the centre.
      since: first history row of the latest uniform draws.
    """

    key: PRNGKeyArray
    history: History
    centre: Int[Array, ""]
    arrived: Int[Array, ""]
    since: Int[Array, ""]


@register("initial")
@dataclasses.dataclass(frozen=True)
class LocalSearch:
    """Hill climbing with restarts.

    Attributes:
      space: search space.
      pool: explicit codes to draw from; neighbours are pool codes that differ in one choice, or the nearest ones if
        there are none. Without a pool, a small space is enumerated, and in a large space neighbours are built by
        changing one choice.
      initial: number of uniform draws per run, whose best is the start of the run; 10 as in White et al.
      first_improvement: move to the first better neighbour; otherwise, to the best of all neighbours, which takes more
        samples on NAS-Bench-201.
      capacity: number of trials the initial state can hold; the state grows as needed.

    Raises:
      ValueError: if `initial` or `capacity` is not a whole number or is too small, or the pool has a code out of range
        or no valid code.
    """

    space: SearchSpace
    pool: Pool | Codes | None = None
    initial: int = 10
    first_improvement: bool = True
    capacity: int = 256

    def __post_init__(self) -> None:
        set_whole_numbers(self, initial=1, capacity=1)
        object.__setattr__(self, "pool", listed(self.space, self.pool))

    def init(self, key: PRNGKeyArray) -> LocalSearchState:
        """Returns the state before the first trial. Consumes the key."""
        history = hist.empty(self.space, self.pool, self.capacity)
        return LocalSearchState(key, history, jnp.int32(NOWHERE), jnp.int32(0), jnp.int32(0))

    def ask(self, state: LocalSearchState, n: int) -> tuple[LocalSearchState, Int[Array, "n dims"]]:
        """Returns `n` unseen neighbours or starts; rows of -1 when none are left."""
        return _ask(self, dataclasses.replace(state, history=hist.reserve(state.history, n)), n)

    def tell(self, state: LocalSearchState, codes: Codes, values: Values) -> LocalSearchState:
        """Records values; NaN marks a failed trial."""
        history, codes, values = hist.receive(state.history, self.space, codes, values)
        return _tell(self, dataclasses.replace(state, history=history), codes, values)


class Neighbourhood(NamedTuple):
    """The neighbourhood of a code."""

    codes: Int[Array, "k dims"]  # candidates, canonical
    fresh: Bool[Array, " k"]  # mask of the untried neighbours among `codes`
    tried: Bool[Array, " capacity"]  # mask of the history rows that hold a neighbour


@jax.jit(static_argnames="n")
def _ask(searcher: LocalSearch, state: LocalSearchState, n: int) -> tuple[LocalSearchState, Array]:
    def one(state: LocalSearchState, key: Array) -> tuple[LocalSearchState, Array]:
        move_key, draw_key = jax.random.split(key)
        return _draw(draw_key, searcher, _moved(move_key, searcher, state))

    key, subkey = jax.random.split(state.key)
    state, codes = jax.lax.scan(one, state, jax.random.split(subkey, n))
    return dataclasses.replace(state, key=key), codes


def _draw(key: PRNGKeyArray, searcher: LocalSearch, state: LocalSearchState) -> tuple[LocalSearchState, Array]:
    """Draws an untried neighbour of the centre, or a uniform code if there is none."""
    neighbour_key, uniform_key = jax.random.split(key)
    history = state.history
    around = _neighbourhood(searcher, history, state.centre)
    place, found = best_of(jax.random.uniform(neighbour_key, around.fresh.shape), around.fresh)

    def neighbour() -> tuple[LocalSearchState, Array]:
        code = around.codes[place]
        drawn = hist.add_code(history, searcher.space, searcher.pool, code)
        return dataclasses.replace(state, history=drawn, since=drawn.count), code

    def uniform() -> tuple[LocalSearchState, Array]:
        drawn, codes = uniform_unseen(uniform_key, searcher.space, searcher.pool, history, 1)
        return dataclasses.replace(state, history=drawn), codes[0]

    return jax.lax.cond(found, neighbour, uniform)


def _moved(key: PRNGKeyArray, searcher: LocalSearch, state: LocalSearchState) -> LocalSearchState:
    """Returns the state after all moves that are due: each goes uphill, ends a run or starts a run."""

    def move(carry: tuple[LocalSearchState, Array, Array]) -> tuple[LocalSearchState, Array, Array]:
        state, key, _ = carry
        key, subkey = jax.random.split(key)
        count, idle = state.history.count, state.centre == NOWHERE
        centre = jnp.where(idle, _start(searcher, state), _step(subkey, searcher, state))
        moved = centre != state.centre
        arrived, since = jnp.where(moved, count, state.arrived), jnp.where(idle & moved, count, state.since)
        return dataclasses.replace(state, centre=centre, arrived=arrived, since=since), key, moved

    return jax.lax.while_loop(lambda carry: carry[2], move, (state, key, jnp.bool_(True)))[0]


def _start(searcher: LocalSearch, state: LocalSearchState) -> Int[Array, ""]:
    """Returns the row of the best uniform draw of the run; NOWHERE until there are enough draws."""
    history = state.history
    row, found = best_of(history.values, history.done & (jnp.arange(history.capacity) >= state.since))
    return jnp.where(found & (history.count - state.since >= searcher.initial), row, NOWHERE)


def _step(key: PRNGKeyArray, searcher: LocalSearch, state: LocalSearchState) -> Int[Array, ""]:
    """Returns the next centre: a better neighbour, NOWHERE at a local optimum, or the same centre."""
    history, centre = state.history, state.centre
    around = _neighbourhood(searcher, history, centre)
    better = around.tried & history.done & (history.values > history.values[centre])
    fresh, known = jnp.sum(around.fresh), jnp.sum(better)
    if searcher.first_improvement:
        own = better & (jnp.arange(history.capacity) >= state.arrived)  # results of trials asked from this centre
        chance_key, row_key = jax.random.split(key)
        share = known.astype(jnp.float32) / jnp.maximum(known + fresh, 1).astype(jnp.float32)
        # Probability that the next neighbour, in a random order of those left, is already known to be better.
        ripe = jnp.any(own) | (jax.random.uniform(chance_key) < share)
        score = jnp.where(own, 2.0 + history.values - history.values[centre], jax.random.uniform(row_key, own.shape))
    else:
        ripe, score = (known > 0) & (fresh == 0), history.values
    row, _ = best_of(score, better)
    over = (known == 0) & (fresh == 0) & ~jnp.any(around.tried & (history.status == hist.PENDING))
    return jnp.where(ripe, row, jnp.where(over, NOWHERE, centre))


def _neighbourhood(searcher: LocalSearch, history: History, row: Int[Array, ""]) -> Neighbourhood:
    """Returns the neighbourhood of the code in a history row; empty for the row NOWHERE."""
    centre, real = history.codes[row], row != NOWHERE
    if isinstance(searcher.pool, Pool):
        codes = searcher.pool.codes
        changes = searcher.space.count_changes(codes, centre[None])
        radius = _radius(searcher.space, changes)
        fresh = (changes > 0) & (changes <= radius) & ~history.seen
        changes = searcher.space.count_changes(history.codes, centre[None])
        tried = (changes > 0) & (changes <= radius) & history.used
    else:
        raw = neighbours(searcher.space, centre[None])[0]
        codes, valid = searcher.space.canonical(raw), searcher.space.valid(raw)
        same = jnp.all(codes[:, None] == history.codes[None], axis=2) & valid[:, None] & history.used[None]
        fresh, tried = valid & ~jnp.any(same, axis=1), jnp.any(same, axis=0) & (jnp.arange(history.capacity) != row)
    return Neighbourhood(codes, fresh & real, tried & real)


def _radius(space: SearchSpace, changes: Int[Array, " m"]) -> Int[Array, ""]:
    """Returns the largest number of changes of a neighbour, given the number of changes of each pool code: 1 if any."""
    moves = int((space.cardinalities - 1).sum())

    def nearest() -> Int[Array, ""]:
        radii = jnp.arange(1, space.dims + 1)
        reached = jnp.sum((changes > 0)[None] & (changes[None] <= radii[:, None]), axis=1) >= moves
        return jnp.where(jnp.any(reached), radii[jnp.argmax(reached)], space.dims).astype(jnp.int32)

    return jax.lax.cond(jnp.any(changes == 1), lambda: jnp.int32(1), nearest)


@jax.jit
def _tell(searcher: LocalSearch, state: LocalSearchState, codes: Codes, values: Array) -> LocalSearchState:
    history, _ = hist.record(state.history, searcher.space, searcher.pool, codes, values)
    return dataclasses.replace(state, history=history)
