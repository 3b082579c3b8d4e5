"""Random numbers for the initial weights of a network, in one draw."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray


def draw_weights(
    key: PRNGKeyArray, shapes: Any, sampler: Callable[[PRNGKeyArray, tuple[int, ...]], Array] = jax.random.normal
) -> Any:
    """Draws random numbers, by default standard normal ones, for a tree of shapes at once.

    Each separate draw would take a second to compile.
    """
    leaves, structure = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    sizes = [math.prod(shape) for shape in leaves]
    pieces = jnp.split(sampler(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
    return jax.tree.unflatten(structure, [x.reshape(shape) for x, shape in zip(pieces, leaves, strict=True)])
