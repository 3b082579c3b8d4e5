"""Random numbers for the initial weights of a network, in one draw."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray


def draw_normal(key: PRNGKeyArray, shapes: Any) -> Any:
    """Draws standard normal numbers for a tree of shapes at once; each separate draw would take a second to compile."""
    leaves, structure = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    sizes = [math.prod(shape) for shape in leaves]
    pieces = jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
    return jax.tree.unflatten(structure, [x.reshape(shape) for x, shape in zip(pieces, leaves, strict=True)])
