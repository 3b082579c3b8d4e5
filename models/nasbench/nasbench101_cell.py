"""NAS-Bench-101 cells that take the code as data: one program for every stack of cells of one size.

Each cell has the union of the weights that graphs need, for all vertices in the order of the code, c channels each:

- ``projection``: ``kernel`` ``[cells, 6, c, c]``, ``scale`` and ``bias`` ``[cells, 6, c]``: the 1x1 convolutions from
  the cell's input to the inner vertices and to the output
- ``operation``: ``kernel`` ``[cells, 5, 3, 3, c, c]``, ``scale`` and ``bias`` ``[cells, 5, c]``: the operations of the
  inner vertices; a 1x1 convolution reads the centre

The batch statistics ``mean`` and ``variance`` have the same layout. A vertex has fewer than c channels if several
vertices share those of the output; masks set the others to zero, and their weights have zero gradient. The first cell
of a stack reads fewer channels, which zeros complete. Weights and statistics are float32; a cell computes in the dtype
of its images and rounds kernels to it.

Loops over cells and vertices contain the only switches, so that each operation is compiled once per stack and width and
only the selected ones run. All vertices of a graph have a k-th of the channels, rounded up or down, where k vertices
lead to the output, so an operation computes the channels of one of `SHARES` only.

In the branchless form, which GPUs prefer, there is no switch: each vertex computes all channels of one 3x3 convolution,
whose kernel is masked for 1x1, and of one max pooling, and `where` selects. One matrix product computes all
projections. Gradients of unselected operations are exactly zero.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lanas_jax.models import layers
from lanas_jax.models.layers.norm import norm
from lanas_jax.models.layers.switch import Branch, switch
from lanas_jax.models.nasbench.nasbench101_network import CONSTANTS, CONV_1X1, CONV_3X3, MAX_POOL
from lanas_jax.spaces.nasbench101 import OPERATIONS, NASBench101Space
from lanas_jax.spaces.nasbench101_network import vertex_channels
from lanas_jax.spaces.packed_graphs import INNER

Tree = dict[str, Any]
Images = Float[Array, "n h w c"]
Code = Int[Array | np.ndarray, " dims"]

CENTRE = np.pad(np.ones((1, 1, 1, 1), bool), ((1, 1), (1, 1), (0, 0), (0, 0)))  # pixel of a 1x1 kernel in a 3x3 kernel
# Fractions of a cell's channels that an operation may compute: one, a half, a third. On average over the benchmark's
# graphs, cells then take 0.4 % more multiply-adds than they need; without the third, it would be
# 7 %, and without the half as well 111 %.
SHARES = (1, 2, 3)
PLACES = np.arange(INNER, dtype=np.int32)
NARROW, WIDE, POOL = (OPERATIONS.index(operation) for operation in (CONV_1X1, CONV_3X3, MAX_POOL))


class Graph(NamedTuple):
    """The pruned graph of a code, with all vertices in the order of the code."""

    edges: Bool[Array, "7 7"]
    operation: Int[Array, " 5"]
    kept: Bool[Array, " 5"]  # False for pruned inner vertices


def read_graph(space: NASBench101Space, code: Code) -> Graph:
    """Returns the pruned graph of a code, which may be traced."""
    edges, operations, kept = (x[0] for x in space.pruned(jnp.asarray(code, jnp.int32)[None]))
    return Graph(edges == 1, operations, kept[1:-1] == 1)


def branch_indices(graph: Graph) -> tuple[Int[Array, " 6"], Int[Array, " 5"]]:
    """Returns the indices of the branches that the projections and the operations of a cell run."""
    share = jnp.clip(_ends(graph).sum(dtype=jnp.int32), 1, len(SHARES)) - 1
    shares = jnp.append(jnp.broadcast_to(share, INNER), 0)  # the output has all channels
    convolution = 1 + 2 * share + (graph.operation == WIDE).astype(jnp.int32)
    operation = jnp.where(graph.operation == POOL, 1 + 2 * len(SHARES), convolution)
    return jnp.where(graph.edges[0, 1:], 1 + shares, 0), jnp.where(graph.kept, operation, 0)


def channel_masks(graph: Graph, channels: int) -> Bool[Array, "6 c"]:
    """Returns the channels of the inner vertices and of the output."""
    widths = vertex_channels(graph.edges.astype(jnp.int32)[None], channels)[0]
    return jnp.arange(channels)[None] < jnp.append(widths, channels)[:, None]


def run_stack(
    x: Float[Array, "n h w d"], params: Tree, batch_stats: Tree, graph: Graph, *, train: bool, branchless: bool = False
) -> tuple[Float[Array, "n h w c"], Tree]:
    """Runs the cells of a stack; returns the output of the last cell and updated batch statistics.

    Args:
      x: input of the first cell.
      params: weights of all cells.
      batch_stats: running statistics of all cells.
      graph: graph of all cells.
      train: True to normalise by the statistics of the batch.
      branchless: True to compute all operations and select; False to run the selected ones only.
    """
    run = _run_branchless_cell if branchless else _run_cell
    channels = params["projection"]["kernel"].shape[-1]
    masks = channel_masks(graph, channels)

    def cell(x: Images, own: tuple[Tree, Tree]) -> tuple[Images, Tree]:
        return run(x, *own, graph, masks, train)

    return lax.scan(cell, _widened(x, channels), (params, batch_stats))


def _run_cell(
    x: Images, params: Tree, batch_stats: Tree, graph: Graph, masks: Bool[Array, "6 c"], train: bool
) -> tuple[Images, Tree]:
    projections = (_absent, *(partial(_of_some_channels, width, 1, train) for width in _widths(x)))
    projection, operation = branch_indices(graph)

    def project(_: None, own: tuple) -> tuple[None, tuple[Images, Tree]]:
        case, mask, weights, stats = own
        y, new = switch(projections, case, (x, weights), stats)
        return None, (_kept(mask, y), _updated(mask, new, stats))

    own = (projection, masks, params["projection"], batch_stats["projection"])
    _, (projected, projection_stats) = lax.scan(project, None, own)
    inner, outer = jnp.split(projected, [INNER])
    weights, stats = params["operation"], batch_stats["operation"]
    edges = graph.edges[1:-1, 1:-1]
    nodes, operation_stats = _run_vertices(train, inner, weights, stats, edges, operation, masks[:-1])
    y = _concatenated([node[0] for node in jnp.split(nodes, INNER)], _ends(graph)) + outer[0]
    return y, {"projection": projection_stats, "operation": operation_stats}


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run_vertices(
    train: bool,
    projected: Float[Array, "5 n h w c"],
    params: Tree,
    batch_stats: Tree,
    edges: Bool[Array, "5 5"],
    operation: Int[Array, " 5"],
    masks: Bool[Array, "5 c"],
) -> tuple[Float[Array, "5 n h w c"], Tree]:
    """Runs the inner vertices in order; returns their outputs and updated batch statistics.

    The gradient of an output is the sum of the gradients of the vertices that read it. JAX's gradient would add the
    contribution of each vertex to an array of all outputs.
    """
    return _run_vertices_forward(train, projected, params, batch_stats, edges, operation, masks)[0]


def _run_vertices_forward(
    train: bool, projected: Array, params: Tree, batch_stats: Tree, edges: Array, operation: Array, masks: Array
) -> tuple[tuple[Array, Tree], tuple]:
    operations = _operations(projected, train)

    def vertex(nodes: Array, own: tuple) -> tuple[Array, tuple[Array, Tree]]:
        v, sources, case, mask, weights, stats, x = own
        x = _kept(mask, _sum_of_some(sources, nodes, x))
        y, new = switch(operations, case, (x, weights), stats)
        return lax.dynamic_update_index_in_dim(nodes, _kept(mask, y), v, 0), (x, _updated(mask, new, stats))

    own = (PLACES, edges.T, operation, masks, params, batch_stats, projected)
    nodes, (reads, new_stats) = lax.scan(vertex, jnp.zeros_like(projected), own)
    return (nodes, new_stats), (reads, params, batch_stats, edges, operation, masks)


def _run_vertices_backward(train: bool, saved: tuple, cotangents: tuple[Array, Tree]) -> tuple:
    reads, params, batch_stats, edges, operation, masks = saved
    dnodes, _ = cotangents  # running statistics have no gradient
    operations = _operations(reads, train)

    def vertex(dreads: Array, own: tuple) -> tuple[Array, Tree]:
        v, targets, case, mask, weights, stats, x, dy = own
        dy = _kept(mask, _sum_of_some(targets, dreads, dy))
        _, pullback = jax.vjp(lambda *operands: switch(operations, case, operands, stats)[0], x, weights)
        dx, dweights = pullback(dy)
        return lax.dynamic_update_index_in_dim(dreads, _kept(mask, dx), v, 0), dweights

    own = (PLACES, edges, operation, masks, params, batch_stats, reads, dnodes)
    dreads, dparams = lax.scan(vertex, jnp.zeros_like(dnodes), own, reverse=True)
    return dreads, dparams, jax.tree.map(jnp.zeros_like, batch_stats), None, None, None


_run_vertices.defvjp(_run_vertices_forward, _run_vertices_backward)


def _sum_of_some(taken: Bool[Array, " 5"], nodes: Float[Array, "5 n h w c"], start: Images) -> Images:
    return sum((jnp.where(taken[u], nodes[u], 0) for u in range(INNER)), start)


def _run_branchless_cell(
    x: Images, params: Tree, batch_stats: Tree, graph: Graph, masks: Bool[Array, "6 c"], train: bool
) -> tuple[Images, Tree]:
    weights, stats = ({name: v.reshape(-1) for name, v in tree["projection"].items()} for tree in (params, batch_stats))
    kernel = jnp.moveaxis(params["projection"]["kernel"], 0, 1).reshape(x.shape[3], -1)
    y, new = norm(layers.pointwise(x, kernel), weights, stats, train, CONSTANTS)
    used = graph.edges[0, 1:, None] & masks
    projected = jnp.split(_kept(used.reshape(-1), jax.nn.relu(y)), INNER + 1, axis=-1)
    new = {name: value.reshape(used.shape) for name, value in new.items()}
    projection_stats = _updated(used, new, batch_stats["projection"])
    nodes: list[Images] = []
    rows = []
    for v in range(INNER):
        operation, mask = graph.operation[v], masks[v]
        weights, stats = ({name: x[v] for name, x in tree["operation"].items()} for tree in (params, batch_stats))
        read = (jnp.where(graph.edges[1 + u, 1 + v], nodes[u], 0) for u in range(v))
        x = _kept(mask, sum(read, projected[v]))
        kernel = jnp.where((operation == WIDE) | CENTRE, weights["kernel"], 0)
        y, new = _conv_norm_relu(x, weights | {"kernel": kernel}, stats, train)
        convolves = graph.kept[v] & (operation != POOL)
        nodes.append(jnp.where(convolves, _kept(mask, y), jnp.where(graph.kept[v], layers.max_pool(x), 0)))
        rows.append(_updated(convolves & mask, new, stats))
    operation_stats = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
    y = _concatenated(nodes, _ends(graph)) + projected[-1]
    return y, {"projection": projection_stats, "operation": operation_stats}


def _ends(graph: Graph) -> Bool[Array, " 5"]:
    """Returns which inner vertices lead to the output."""
    return graph.edges[1:-1, -1]


def _kept(mask: Bool[Array, " c"], x: Images) -> Images:
    """Sets the channels that are not in a mask to zero."""
    return jnp.where(mask[None, None, None], x, 0)


def _updated(mask: Bool[Array, "..."], new: Tree, old: Tree) -> Tree:
    """Returns the new statistics of the channels in a mask, and the old ones of others."""
    return {name: jnp.where(mask, new[name], old[name]) for name in old}


def _widened(x: Float[Array, "n h w d"], channels: int) -> Float[Array, "n h w c"]:
    """Appends channels of zeros."""
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, channels - x.shape[3])))


def _concatenated(nodes: Sequence[Images], ends: Bool[Array, " 5"]) -> Images:
    """Concatenates the channels of the nodes that lead to the output; zeros if there are none."""
    channels, rank, number = nodes[0].shape[3], jnp.cumsum(ends, dtype=jnp.int32) - 1, ends.sum(dtype=jnp.int32)
    ranked = []
    for r in range(INNER):
        x = jnp.zeros_like(nodes[0])
        for v in range(r, INNER):
            x = jnp.where(ends[v] & (rank[v] == r), nodes[v], x)
        ranked.append(x)
    y = jnp.where(number == 1, ranked[0], 0)
    for k in range(2, INNER + 1):
        share, rest = divmod(channels, k)
        parts = [x[..., : share + (r < rest)] for r, x in enumerate(ranked[:k])]
        y = jnp.where(number == k, jnp.concatenate(parts, axis=-1), y)
    return y


def _widths(x: Float[Array, "*images c"]) -> Sequence[int]:
    """Returns the numbers of channels that operations may compute."""
    return [-(-x.shape[-1] // share) for share in SHARES]


def _operations(x: Float[Array, "*images c"], train: bool) -> tuple[Branch, ...]:
    """Returns no operation, convolutions of each number of channels, 1x1 and 3x3, and the pooling."""
    convolutions = (partial(_of_some_channels, width, size, train) for width in _widths(x) for size in (1, 3))
    return (_absent, *convolutions, _pool)


def _absent(operands: tuple[Images, Tree], stats: Tree) -> tuple[Images, Tree]:
    return jnp.zeros_like(operands[0]), stats


def _pool(operands: tuple[Images, Tree], stats: Tree) -> tuple[Images, Tree]:
    return layers.max_pool(operands[0]), stats


def _of_some_channels(
    width: int, size: int, train: bool, operands: tuple[Images, Tree], stats: Tree
) -> tuple[Images, Tree]:
    """Computes the first channels of a projection, which reads all channels, or of an operation, which does not."""
    x, weights = operands
    channels, kernel = x.shape[3], weights["kernel"]
    if kernel.ndim == 2:
        kernel = kernel[None, None, :, :width]
    else:
        kernel = kernel[(slice(None) if size == 3 else slice(1, 2),) * 2][..., :width, :width]
        x = x[..., :width]
    own, old = (
        {name: tree[name][:width] for name in names} for tree, names in ((weights, ("scale", "bias")), (stats, stats))
    )
    y, new = _conv_norm_relu(x, own | {"kernel": kernel}, old, train)
    return _widened(y, channels), {name: jnp.append(new[name], stats[name][width:]) for name in stats}


def _conv_norm_relu(
    x: Float[Array, "n h w c"], weights: Tree, stats: Tree, train: bool
) -> tuple[Float[Array, "n h w d"], Tree]:
    y, new = norm(layers.convolution(x, weights["kernel"]), weights, stats, train, CONSTANTS)
    return jax.nn.relu(y), new
