"""The network of NAS-Bench-101: channels of the vertices of a cell, and costs of cells.

Section 2.2 and the supplement of arXiv 1902.09635. The network is a 3x3 stem and three stacks of cells. Before the
second and the third stack, 2x2 max pooling halves the resolution; the first cell of these stacks doubles the channels.
In a cell, an edge from the input applies a 1x1 convolution that projects to the channels of its target vertex. An inner
vertex sums its inputs. The output concatenates its inner predecessors and adds the projected input, if there is an
edge from the input. All convolutions are followed by normalisation and ReLU.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Int

STACKS = 3
KERNEL_PIXELS = np.array([9, 1, 0])  # kernel pixels of each operation; 0 for the pooling


class NASBench101CellShape(NamedTuple):
    """Shape of one cell, determined by its position in the network."""

    inputs: int  # channels of the cell's input
    channels: int  # channels of the cell's output
    size: int  # height and width of input and output


def vertex_channels(adjacency: Int[Array | np.ndarray, "n v v"], channels: int) -> Int[Array | np.ndarray, "n inner"]:
    """Returns the channels of the inner vertices of pruned graphs; 0 for pruned vertices.

    The vertices with an edge to the output share its channels; if these do not divide evenly, the first vertices
    receive one more. Any other vertex has as many channels as its widest successor. An input that is wider than its
    target vertex loses its last channel.

    Args:
      adjacency: adjacency matrices of zeros and ones; may be traced.
      channels: channels of the output.
    """
    ends = adjacency[:, 1:-1, -1]
    number = ends.sum(axis=1, keepdims=True).clip(1)
    share, rest = channels // number, channels % number
    widths = ends * (share + (ends.cumsum(axis=1) <= rest).astype(share.dtype))
    for v in reversed(range(ends.shape[1])):
        widest = (1 - ends[:, v]) * (adjacency[:, v + 1, 1:-1] * widths).max(axis=1)
        widths = widths + widest[:, None] * np.eye(ends.shape[1], dtype=widths.dtype)[None, v]
    return widths


def cell_cost(
    adjacency: Int[np.ndarray, "n v v"], labels: Int[np.ndarray, "n inner"], shape: NASBench101CellShape
) -> Int[np.ndarray, "n 2"]:
    """Returns the multiply-adds and parameters of one cell of each of `n` pruned graphs.

    Args:
      adjacency: adjacency matrices of zeros and ones.
      labels: operations of the inner vertices; arbitrary for pruned ones.
      shape: shape of the cell.
    """
    widths = vertex_channels(adjacency, shape.channels)
    projected, to_output, pixels = adjacency[:, 0, 1:-1], adjacency[:, 0, -1], KERNEL_PIXELS[labels]
    weights = (projected * shape.inputs * widths + pixels * widths**2).sum(axis=1)
    weights += to_output * shape.inputs * shape.channels
    normalised = ((projected + (pixels > 0)) * widths).sum(axis=1) + to_output * shape.channels
    return np.stack([weights * shape.size**2, weights + 2 * normalised], axis=1)
