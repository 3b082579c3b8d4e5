"""Hypervolume: the volume of all points that lie above a reference point and below at least one trial.

Objectives are maximised. A trial that is not above the reference in every objective adds nothing.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lanas_jax.runtime.arithmetic import in_32_bits
from lanas_jax.searchers.dominance import front_rows

MOST_OBJECTIVES = 4
REFERENCE_MARGIN = 0.1  # distance of a reference from the worst values on a front, as a share of the front's range


def hypervolume(
    values: Float[Array, "n k"], counted: Bool[Array, " n"], reference: Float[Array, " k"]
) -> Float[Array, ""]:
    """Returns the exact hypervolume of the counted rows.

    With one or two objectives, the rows are sorted. With more, the hypervolume is a sum over slices between successive
    values of the last objective. The area of a slice is the hypervolume of the rows above it, without the last
    objective, so the number of operations grows with ``n ** (k - 1)``.

    Args:
      values: objectives of the rows.
      counted: mask of the rows that count.
      reference: point above which rows must lie in every objective.

    Raises:
      ValueError: there are more than four objectives, or none.
    """
    k = values.shape[1]
    if not 1 <= k <= MOST_OBJECTIVES:
        raise ValueError(f"hypervolume takes 1 to {MOST_OBJECTIVES} objectives; got {k}")
    above = jnp.maximum(values - reference[None], 0.0)
    above = jnp.where((counted & jnp.all(above > 0, axis=1))[:, None], above, 0.0)
    return _volume(above)


def _volume(above: Float[Array, "n k"]) -> Float[Array, ""]:
    """Returns the volume of the union of boxes from the origin to each row."""
    if above.shape[1] == 1:
        return jnp.max(above)
    order = jnp.argsort(-above[:, -1])
    above, last = above[order, :-1], above[order, -1]
    if above.shape[1] == 1:
        before = jnp.concatenate([jnp.zeros(1), jax.lax.cummax(above[:, 0])[:-1]])
        return jnp.sum(last * jnp.maximum(above[:, 0] - before, 0.0))
    rows = jnp.arange(last.shape[0])
    thickness = last - jnp.append(last[1:], 0.0)

    def slice_area(i: Array) -> Array:
        return _volume(jnp.where((rows <= i)[:, None], above, 0.0))

    return jnp.sum(thickness * jax.lax.map(slice_area, rows))


def reference_below(values: Float[np.ndarray, "m k"], front: Bool[np.ndarray, " m"]) -> Float[np.ndarray, " k"]:
    """Returns a reference for the hypervolume of a finished search or table.

    It is the worst value of each objective on the front minus a tenth of the front's range. If the front has a single
    value, the range is that of all rows.

    Args:
      values: objectives of at least one row.
      front: rows on the front.
    """
    best, worst = values[front].max(axis=0), values[front].min(axis=0)
    whole = values.max(axis=0) - values.min(axis=0)
    extent = np.where(best > worst, best - worst, np.where(whole > 0, whole, 1.0))
    return worst - REFERENCE_MARGIN * extent


@in_32_bits
def volumes_after(above: Float[np.ndarray, "searches n k"], points: Sequence[int]) -> Float[np.ndarray, "searches p"]:
    """Returns the exact hypervolume of the first trials of each search, for each number of trials in `points`.

    Args:
      above: objectives of each trial, minus the reference.
      points: numbers of first trials.
    """
    above = above.astype(np.float32)
    if above.shape[2] < 3:
        return np.asarray(_volumes_after(above, np.array(points, np.int32)))
    # For three and more, the time grows steeply with the number of rows: only fronts are measured.
    useful = [[search[:n][(search[:n] > 0).all(axis=1)] for n in points] for search in above]
    fronts = [rows[front_rows(rows)] for search in useful for rows in search]
    longest = max(1, *map(len, fronts))
    padded = np.full((len(fronts), longest, above.shape[2]), -1.0, np.float32)
    for row, front in zip(padded, fronts, strict=True):
        row[: len(front)] = front
    return np.asarray(_volumes_after(padded, np.array([longest], np.int32))).reshape(len(above), len(points))


@jax.jit
def _volumes_after(above: Float[Array, "searches n k"], points: Int[Array, " p"]) -> Float[Array, "searches p"]:
    def search(above: Array) -> Array:
        rows, zero = jnp.arange(above.shape[0]), jnp.zeros(above.shape[1])
        return jax.lax.map(lambda n: hypervolume(above, rows < n, zero), points)

    return jax.lax.map(search, above)
