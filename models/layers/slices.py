"""Weights of small layers as parts of those of large ones: the first channels, and the centre of kernels.

So networks of a supernet share weights in once-for-all (arXiv 1908.09791, section 3.2), before its transformation of
kernels.
"""

from typing import Any

import jax

Tree = dict[str, Any]


def part(weights: Tree, shapes: Tree) -> Tree:
    """Of weights, or batch statistics, those that a layer of other `shapes` (anything that has some) takes."""
    return jax.tree.map(lambda x, like: x[_slices(x.shape, like.shape)], weights, shapes)


def replaced(weights: Tree, own: Tree) -> Tree:
    """The weights with another `part`."""
    return jax.tree.map(lambda x, y: x.at[_slices(x.shape, y.shape)].set(y), weights, own)


def _slices(shape: tuple[int, ...], own: tuple[int, ...]) -> tuple[slice, ...]:
    """Arrays of four axes are kernels, whose first two are pixels; all other axes are channels."""
    pixels = 2 if len(shape) == 4 else 0
    starts = [(size - of) // 2 if axis < pixels else 0 for axis, (size, of) in enumerate(zip(shape, own, strict=True))]
    return tuple(slice(start, start + of) for start, of in zip(starts, own, strict=True))
