"""Weights of small layers as slices of the weights of large layers: the first channels, and the centre of kernels.

Subnetworks of once-for-all share weights in this way (arXiv 1908.09791, section 3.2), without its kernel
transformation.
"""

from typing import Any

import jax

Tree = dict[str, Any]


def part(weights: Tree, shapes: Tree) -> Tree:
    """Slices weights or batch statistics to those of a smaller layer; `shapes` is a tree of arrays or shape structs."""
    return jax.tree.map(lambda x, like: x[_slices(x.shape, like.shape)], weights, shapes)


def replaced(weights: Tree, own: Tree) -> Tree:
    """Returns the weights with the slice of `part` replaced by `own`."""
    return jax.tree.map(lambda x, y: x.at[_slices(x.shape, y.shape)].set(y), weights, own)


def _slices(shape: tuple[int, ...], own: tuple[int, ...]) -> tuple[slice, ...]:
    """Returns the slices of an array; in 4-D kernels the first two axes are pixels, all other axes are channels."""
    pixels = 2 if len(shape) == 4 else 0
    starts = [(size - of) // 2 if axis < pixels else 0 for axis, (size, of) in enumerate(zip(shape, own, strict=True))]
    return tuple(slice(start, start + of) for start, of in zip(starts, own, strict=True))
