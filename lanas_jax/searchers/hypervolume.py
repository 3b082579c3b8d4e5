"""Hypervolume: the volume of all points that lie above a reference point and below at least one trial.

Objectives are maximised. A trial that is not above the reference in every objective adds nothing.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

MOST_OBJECTIVES = 4


def hypervolume(
    values: Float[Array, "n k"], counted: Bool[Array, " n"], reference: Float[Array, " k"]
) -> Float[Array, ""]:
    """Returns the exact hypervolume of the counted rows.

    In one and two objectives, by sorting. In more, as the sum over slices between successive values of the last
    objective, each the hypervolume of the rows above it in one objective less; its cost grows with ``n ** (k - 1)``.

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
