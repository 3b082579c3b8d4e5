"""NAS-Bench-201 cells that take the code as data: one program for every stage of cells of one size.

Each edge has the union of the weights that the five operations need, stacked over cells and edges:

- ``kernel``: ``[cells, 6, 3, 3, c, c]``; the 1x1 convolution reads the centre
- ``scale``, ``bias``: ``[cells, 6, c]``

The batch statistics ``mean`` and ``variance`` have the same layout. Weights that a code does not use are zero and stay
zero. Weights and statistics are float32; a cell computes in the dtype of its images and rounds kernels to it.

Each edge is a switch that runs the selected operation only. Its gradient is that of `models/layers/switch.py`, which
recomputes that operation. Cells are a loop, so each edge is compiled once per stage. Edges are not: a loop would carry
all nodes in one array, and copy it at each edge.

In the branchless form, which GPUs prefer, there is no switch: each edge computes one 3x3 convolution, whose kernel is
masked for 1x1, and one average pooling, and `where` selects. Gradients of unselected operations are exactly zero.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from lanas_jax.models import layers
from lanas_jax.models.layers.norm import norm
from lanas_jax.models.layers.switch import Branch, switch
from lanas_jax.spaces.nasbench201 import AVERAGE_POOL, CONV_1X1, CONV_3X3, EDGES, NONE

Tree = dict[str, Array]
Images = Float[Array, "n h w c"]

CENTRE = np.pad(np.ones((1, 1, 1, 1), bool), ((1, 1), (1, 1), (0, 0), (0, 0)))  # pixel of a 1x1 kernel in a 3x3 kernel


def run_stage(
    x: Images, params: Tree, batch_stats: Tree, code: Int[Array, " 6"], *, train: bool, branchless: bool = False
) -> tuple[Images, Tree]:
    """Runs the cells of a stage; returns the output of the last cell and updated batch statistics.

    Args:
      x: input of the first cell.
      params: weights of all cells and edges.
      batch_stats: running statistics of all cells and edges.
      code: operation of each edge.
      train: True to normalise by the statistics of the batch.
      branchless: True to compute all operations and select; False to run the selected ones only.
    """
    run = _run_branchless_cell if branchless else _run_cell

    def cell(x: Images, own: tuple[Tree, Tree]) -> tuple[Images, Tree]:
        return run(x, *own, code, train)

    return lax.scan(cell, x, (params, batch_stats))


def _run_cell(x: Images, params: Tree, batch_stats: Tree, code: Int[Array, " 6"], train: bool) -> tuple[Images, Tree]:
    operations = _operations(train)
    nodes, rows = [x, *(3 * [jnp.zeros_like(x)])], []
    for i, (source, target) in enumerate(EDGES):
        weights, stats = ({name: value[i] for name, value in tree.items()} for tree in (params, batch_stats))
        y, new_stats = switch(operations, code[i], (nodes[source], weights), stats)
        nodes[target] += y
        rows.append(new_stats)
    return nodes[-1], jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)


def _run_branchless_cell(
    x: Images, params: Tree, batch_stats: Tree, code: Int[Array, " 6"], train: bool
) -> tuple[Images, Tree]:
    nodes, rows = [x, *(3 * [jnp.zeros_like(x)])], []
    for i, (source, target) in enumerate(EDGES):
        operation, x = code[i], nodes[source]
        weights, stats = ({name: value[i] for name, value in tree.items()} for tree in (params, batch_stats))
        kernel = jnp.where((operation == CONV_3X3) | CENTRE, weights["kernel"], 0)
        y, new_stats = relu_conv_norm(x, weights | {"kernel": kernel}, stats, train)
        convolves = (operation == CONV_1X1) | (operation == CONV_3X3)
        rows.append({name: jnp.where(convolves, new_stats[name], old) for name, old in stats.items()})
        others = jnp.where(operation == AVERAGE_POOL, layers.average_pool(x), jnp.where(operation == NONE, 0, x))
        nodes[target] += jnp.where(convolves, y, others)
    return nodes[-1], jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)


def _operations(train: bool) -> tuple[Branch, ...]:
    """Returns the operations in code order, `((x, weights), stats) -> (y, stats)`."""

    def narrow(operands: tuple[Array, Tree], stats: Tree) -> tuple[Array, Tree]:
        x, weights = operands
        return relu_conv_norm(x, weights | {"kernel": weights["kernel"][1:2, 1:2]}, stats, train)

    return (
        lambda operands, stats: (jnp.zeros_like(operands[0]), stats),
        lambda operands, stats: (operands[0], stats),
        narrow,
        lambda operands, stats: relu_conv_norm(operands[0], operands[1], stats, train),
        lambda operands, stats: (layers.average_pool(operands[0]), stats),
    )


def relu_conv_norm(x: Images, weights: Tree, stats: Tree, train: bool, stride: int = 1) -> tuple[Array, Tree]:
    """Applies ReLU, convolution and normalisation; returns the output and updated statistics."""
    return norm(layers.convolution(jax.nn.relu(x), weights["kernel"], stride), weights, stats, train)
