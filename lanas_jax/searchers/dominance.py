"""Dominance between trials with several objectives, all of which are maximised.

A trial dominates another if it is at least as good in every objective and better in one. The trials that no other
dominates are the front.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lanas_jax.searchers.surrogate import normal_scores


def dominates(a: Float[Array, "n k"], b: Float[Array, "m k"]) -> Bool[Array, "n m"]:
    """Returns which rows of `a` dominate which rows of `b`."""
    no_worse = jnp.all(a[:, None] >= b[None], axis=2)
    return no_worse & jnp.any(a[:, None] > b[None], axis=2)


def dominance_numbers(values: Float[Array, "n k"], counted: Bool[Array, " n"]) -> Int[Array, " n"]:
    """Returns the number of counted rows that dominate each row (section 3 of arXiv 2110.03173)."""
    return jnp.sum(dominates(values, values) & counted[:, None], axis=0, dtype=jnp.int32)


def on_front(values: Float[Array, "n k"], counted: Bool[Array, " n"]) -> Bool[Array, " n"]:
    """Returns which counted rows no counted row dominates. Equal rows are all on the front, or none is."""
    return counted & (dominance_numbers(values, counted) == 0)


def front_rows(values: Float[np.ndarray, "m k"]) -> Bool[np.ndarray, " m"]:
    """Returns which rows no other dominates, on the host, in time that grows with the length of the front."""
    left = np.ones(len(values), bool)
    for row in np.argsort(-values.sum(axis=1)):
        if left[row]:
            worse = (values <= values[row]).all(axis=1) & (values < values[row]).any(axis=1)
            left &= ~worse
    return left


def dominance_scores(values: Float[Array, "n k"], done: Bool[Array, " n"]) -> Float[Array, " n"]:
    """Returns the normal scores of the ranks of dominance numbers: the fewer dominate a trial, the higher its score.

    With one objective, or one objective given several times, these are the normal scores of its values.
    """
    return normal_scores(-dominance_numbers(values, done).astype(jnp.float32), done)


def front_ranks(values: Float[Array, "n k"], counted: Bool[Array, " n"]) -> Int[Array, " n"]:
    """Returns the rank of each counted row by non-dominated sorting: 0 on the front, 1 on the front of the others, ...

    Rows that are not counted have rank `n`.
    """
    n = values.shape[0]
    above = dominates(values, values)

    def peel(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        ranks, left, rank = carry
        front = left & ~jnp.any(above & left[:, None], axis=0)
        return jnp.where(front, rank, ranks), left & ~front, rank + 1

    start = (jnp.full(n, n, jnp.int32), counted, jnp.int32(0))
    return jax.lax.while_loop(lambda carry: jnp.any(carry[1]), peel, start)[0]


def crowding_distances(values: Float[Array, "n k"], ranks: Int[Array, " n"]) -> Float[Array, " n"]:
    """Returns the crowding distance of each row among the rows of its rank (Deb et al., 2002, section III-B).

    It is the sum over objectives of the gap between the two neighbours of a row, as a share of the objective's range
    within the rank; infinite for the best and the worst row of an objective.
    """
    n = values.shape[0]
    total = jnp.zeros(n)
    for column in values.T:
        order = jnp.lexsort((column, ranks))
        rank, value = ranks[order], column[order]
        first, last = rank != jnp.roll(rank, 1), rank != jnp.roll(rank, -1)
        first, last = first.at[0].set(True), last.at[-1].set(True)
        low = jax.ops.segment_min(value, rank, num_segments=n + 1)[rank]
        high = jax.ops.segment_max(value, rank, num_segments=n + 1)[rank]
        gap = (jnp.roll(value, -1) - jnp.roll(value, 1)) / jnp.maximum(high - low, jnp.finfo(jnp.float32).tiny)
        total = total.at[order].add(jnp.where(first | last, jnp.inf, gap))
    return total
