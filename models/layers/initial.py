"""Random numbers for the initial weights of a network, all in one draw."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray


def draw_normal(key: PRNGKeyArray, shapes: Any) -> Any:
    """Standard normal numbers for a tree of shapes, in one draw: each draw of its own would compile for a second."""
    leaves, structure = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    sizes = [math.prod(shape) for shape in leaves]
    pieces = jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
    return jax.tree.unflatten(structure, [x.reshape(shape) for x, shape in zip(pieces, leaves, strict=True)])
