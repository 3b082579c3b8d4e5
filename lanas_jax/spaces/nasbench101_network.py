"""The network of NAS-Bench-101: how wide the vertices of a cell are, and what a cell costs.

Section 2.2 and the supplement of arXiv 1902.09635. A 3x3 stem, then three stacks of cells; before the second and third,
a maximum over 2x2 pixels halves the resolution, and their first cells double the channels. In a cell, edges from the
input project it by a 1x1 convolution to the width of the vertex they lead to; an inner vertex adds up what reaches it;
the output concatenates the inner vertices that lead to it and adds the projected input, if there is an edge from it.
All convolutions are followed by normalisation and ReLU.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

STACKS = 3
KERNEL_PIXELS = np.array([9, 1, 0])  # of each operation; none for the pooling


class NASBench101CellShape(NamedTuple):
    """One cell of the network: what its position decides."""

    inputs: int  # channels of its input
    channels: int  # of its output
    size: int  # height and width of input and output


def vertex_channels(adjacency: Int[np.ndarray, "n v v"], channels: int) -> Int[np.ndarray, "n inner"]:
    """Channels of the inner vertices of pruned graphs; 0 for those that were pruned.

    The vertices that lead to the output share its channels, the first ones taking one more where they do not divide
    evenly. Any other vertex has as many as the widest one that it leads to; of what is wider than the vertex it enters,
    the last channel is dropped.

    Args:
      adjacency: zeros and ones.
      channels: of the output.
    """
    ends = adjacency[:, 1:-1, -1]
    share, rest = np.divmod(channels, np.maximum(ends.sum(axis=1, keepdims=True), 1))
    widths = ends * (share + (ends.cumsum(axis=1) <= rest))
    for v in reversed(range(widths.shape[1])):
        widest = (adjacency[:, v + 1, 1:-1] * widths).max(axis=1)
        widths[:, v] = np.where(ends[:, v] == 1, widths[:, v], widest)
    return widths


def cell_cost(
    adjacency: Int[np.ndarray, "n v v"], labels: Int[np.ndarray, "n inner"], shape: NASBench101CellShape
) -> Int[np.ndarray, "n 2"]:
    """Multiply-adds and parameters of one cell of each of `n` pruned graphs.

    Args:
      adjacency: zeros and ones.
      labels: the operations of the inner vertices; of pruned ones, any.
      shape: where in the network the cell stands.
    """
    widths = vertex_channels(adjacency, shape.channels)
    projected, to_output, pixels = adjacency[:, 0, 1:-1], adjacency[:, 0, -1], KERNEL_PIXELS[labels]
    weights = (projected * shape.inputs * widths + pixels * widths**2).sum(axis=1)
    weights += to_output * shape.inputs * shape.channels
    normalised = ((projected + (pixels > 0)) * widths).sum(axis=1) + to_output * shape.channels
    return np.stack([weights * shape.size**2, weights + 2 * normalised], axis=1)
