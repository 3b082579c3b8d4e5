"""Weights of small layers as slices of the weights of large layers: the first channels, and the centre of kernels.

Subnetworks of once-for-all share weights in this way (arXiv 1908.09791, section 3.2), without its kernel
transformation.
"""

from typing import Any

Tree = dict[Any, Any]  # by name, or by index


def part(weights: Tree, shapes: Tree) -> Tree:
    """Slices weights or batch statistics to those of a smaller layer; drops what the smaller layer lacks.

    Args:
      weights: nested dictionaries of arrays.
      shapes: nested dictionaries of arrays or shape structs of the smaller layer.
    """
    return {
        name: part(weights[name], like)
        if isinstance(like, dict)
        else weights[name][_slices(weights[name].shape, like.shape)]
        for name, like in shapes.items()
    }


def replaced(weights: Tree, own: Tree) -> Tree:
    """Returns the weights with what `part` takes replaced by `own`."""
    return weights | {
        name: replaced(weights[name], new)
        if isinstance(new, dict)
        else weights[name].at[_slices(weights[name].shape, new.shape)].set(new)
        for name, new in own.items()
    }


def _slices(shape: tuple[int, ...], own: tuple[int, ...]) -> tuple[slice, ...]:
    """Returns the slices of an array; in 4-D kernels the first two axes are pixels, all other axes are channels."""
    pixels = 2 if len(shape) == 4 else 0
    starts = [(size - of) // 2 if axis < pixels else 0 for axis, (size, of) in enumerate(zip(shape, own, strict=True))]
    return tuple(slice(start, start + of) for start, of in zip(starts, own, strict=True))
