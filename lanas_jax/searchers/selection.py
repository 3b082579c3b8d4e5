"""Search phase: selection of the leaf to draw from (section 3.2 of arXiv 1906.06832).

Starting at the root, the child of higher upper confidence bound is selected until a leaf is reached::

    ucb(child) = mean(child) + 2 cp sqrt(2 ln visits(parent) / visits(child))

Visits include pending trials (virtual loss), so that the draws of a batch spread out. A node whose region is known to
hold no unseen code is closed and never selected.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lanas_jax.searchers.partition import PartitionTree


def upper_confidence(
    mean: Float[Array, " children"],
    visits: Int[Array, " children"],
    parent_visits: Int[Array, ""],
    cp: Float[Array, ""],
) -> Float[Array, " children"]:
    """Returns the upper confidence bound of each child; infinite for a child without visits."""
    parent = jnp.log(jnp.maximum(parent_visits, 1).astype(jnp.float32))
    width = 2.0 * cp * jnp.sqrt(2.0 * parent / jnp.maximum(visits, 1).astype(jnp.float32))
    return jnp.where(visits > 0, mean + width, jnp.inf)


def all_open(tree: PartitionTree) -> Bool[Array, " nodes"]:
    """Returns the mask of a tree in which every node is open."""
    return jnp.ones(tree.visits.shape[0], bool)


def close(tree: PartitionTree, is_open: Bool[Array, " nodes"], leaf: Int[Array, ""]) -> Bool[Array, " nodes"]:
    """Closes a leaf and every ancestor whose children are both closed."""
    is_open = is_open.at[leaf].set(False)
    node = leaf
    for _ in range(tree.height):
        parent = jnp.maximum((node - 1) // 2, 0)
        shut = ~is_open[2 * parent + 1] & ~is_open[2 * parent + 2]
        is_open = is_open.at[parent].set(jnp.where(node > 0, is_open[parent] & ~shut, is_open[parent]))
        node = parent
    return is_open


def descend(tree: PartitionTree, is_open: Bool[Array, " nodes"], cp: Float[Array, ""]) -> Int[Array, ""]:
    """Returns the leaf selected by the upper confidence bounds. Ties go to the good child.

    A child without results uses its parent's mean.
    """
    node = jnp.int32(0)
    for _ in range(tree.height):
        split = jnp.minimum(node, tree.is_split.shape[0] - 1)
        children = 2 * split + 1 + jnp.arange(2)
        mean = jnp.where(tree.results[children] > 0, tree.means[children], tree.means[split])
        bound = upper_confidence(mean, tree.visits[children], tree.visits[split], cp)
        # An open child outranks a closed one even if its bound is lower.
        better = jnp.argmax(jnp.where(is_open[children], bound, -jnp.inf))
        inner = (node < tree.is_split.shape[0]) & tree.is_split[split]
        node = jnp.where(inner, children[better], node)
    return node
