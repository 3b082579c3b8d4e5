"""Small labelled graphs as bits: pruning, one representative per isomorphism class, paths.

A graph has seven vertices in topological order: 0 is the input, 6 the output, and 1 to 5 have one of three operations
each. Edges lead from lower to higher vertices, so 21 bits represent them. There are two formats: *rows*,
``int32[n, 7]``, where bit ``j`` of row ``i`` is the edge from ``i`` to ``j`` and vertex sets are bit masks; and a
*key*, one ``uint32`` with the 21 edges above 10 bits of operations, permuted by a table of 256 entries per byte.

`nasbench101.py` defines the meaning of the graphs.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt

VERTICES = 7
INNER = VERTICES - 2
OUTPUT = VERTICES - 1
EDGES = tuple((i, j) for i in range(VERTICES) for j in range(i + 1, VERTICES))
_OPERATION_BITS = 2 * INNER
_DOWNWARD = 31  # bit of a permuted key that marks an edge from a higher to a lower vertex

Rows = Int[Array, "n 7"]
Labels = Int[Array, "n 5"]
Mask = Int[Array, " n"]  # bit masks of vertices


def rows_of(edges: Int[Array, "n 21"]) -> Rows:
    """Returns the mask of the successors of each vertex, from the presence of each of `EDGES`."""
    bits = edges << np.array([j for _, j in EDGES], np.int32)[None]
    starts = np.cumsum([0, *range(OUTPUT, -1, -1)])
    return jnp.stack([bits[:, starts[i] : starts[i + 1]].sum(axis=1) for i in range(VERTICES)], axis=1)


def edges_of(rows: Rows) -> Int[Array, "n 21"]:
    """Returns the presence of each of `EDGES`; the inverse of `rows_of`."""
    start, end = np.array(EDGES, np.int32).T
    return (rows[:, start] >> end[None]) & 1


def members(mask: Int[Array, "..."]) -> Int[Array, "... 7"]:
    """Returns the bits of a vertex mask as an array of 0 and 1."""
    shifts = np.arange(VERTICES, dtype=np.int32).reshape(*[1] * mask.ndim, VERTICES)
    return (mask[..., None] >> shifts) & 1


def following(rows: Rows, masks: Int[Array, "n k"]) -> Int[Array, "n k"]:
    """Returns the direct successors of sets of vertices."""
    reached = jnp.zeros_like(masks)
    for i in range(OUTPUT):
        reached = reached | jnp.where((masks >> i) & 1 == 1, rows[:, i : i + 1], 0)
    return reached


def prune_graphs(rows: Rows) -> tuple[Rows, Mask]:
    """Removes vertices and edges that are not on a path from input to output.

    Returns:
      The remaining rows, and the mask of the remaining vertices: 0 if no path leads from input to output.
    """

    def forward(i: Int[Array, ""] | int, below: Mask) -> Mask:
        return below | jnp.where((below >> i) & 1 == 1, rows[:, i], 0)

    def backward(i: Int[Array, ""] | int, above: Mask) -> Mask:
        return above | jnp.where((rows[:, OUTPUT - 1 - i] & above) != 0, 1 << (OUTPUT - 1 - i), 0)

    below = jax.lax.fori_loop(0, OUTPUT, forward, jnp.ones_like(rows[:, 0]))
    above = jax.lax.fori_loop(0, OUTPUT, backward, jnp.full_like(rows[:, 0], 1 << OUTPUT))
    kept = below & above
    return jnp.where(members(kept) == 1, rows & kept[:, None], 0), kept


def heaviest_paths(rows: Rows, weights: Int[Array, "n k 7"]) -> Int[Array, "n k"]:
    """Returns the greatest sum of vertex weights on a path from input to output, for `k` weightings."""
    best = weights
    for j in range(1, VERTICES):
        leads = ((rows >> j) & 1)[:, None] == 1
        before = jnp.where(leads, best, 0).max(axis=2)
        best = best.at[:, :, j].add(before)
    return best[:, :, OUTPUT]


def smallest(rows: Rows, labels: Labels) -> tuple[Rows, Labels]:
    """Returns the isomorphic graph of smallest key with the same input and output and a topological vertex order.

    All 120 orders of the inner vertices are tried sequentially, so memory holds one key per graph.

    Args:
      rows: edges.
      labels: operations (0 to 2) of the vertices 1 to 5.
    """
    key = _pack(rows, labels)
    parts = [((key >> np.uint32(8 * b)) & np.uint32(255)).astype(jnp.int32) for b in range(4)]

    def try_order(best: UInt[Array, " n"], tables: UInt[Array, "4 256"]) -> tuple[UInt[Array, " n"], None]:
        moved = [table[part] for table, part in zip(tables, parts, strict=True)]
        return jnp.minimum(best, functools.reduce(jnp.bitwise_or, moved)), None

    best, _ = jax.lax.scan(try_order, key, jnp.asarray(_permutation_tables()))
    return _unpack(best)


def _pack(rows: Rows, labels: Labels) -> UInt[Array, " n"]:
    edges = edges_of(rows) << np.arange(_OPERATION_BITS, _OPERATION_BITS + len(EDGES), dtype=np.int32)[None]
    operations = labels << np.arange(0, _OPERATION_BITS, 2, dtype=np.int32)[None]
    return (edges.sum(axis=1) + operations.sum(axis=1)).astype(jnp.uint32)


def _unpack(keys: UInt[Array, " n"]) -> tuple[Rows, Labels]:
    key = keys.astype(jnp.int32)[:, None]
    edges = (key >> np.arange(_OPERATION_BITS, _OPERATION_BITS + len(EDGES), dtype=np.int32)[None]) & 1
    return rows_of(edges), (key >> np.arange(0, _OPERATION_BITS, 2, dtype=np.int32)[None]) & 3


@functools.cache
def _permutation_tables() -> np.ndarray:
    """Returns the image of each byte of a key under each order of the inner vertices, uint32[120, 4, 256]."""
    tables = np.zeros((120, 4, 256), np.uint32)
    byte = np.arange(256)
    for p, order in enumerate(itertools.permutations(range(1, OUTPUT))):
        moved = (0, *order, OUTPUT)
        targets = [2 * (place - 1) + bit for place in order for bit in range(2)]
        for i, j in EDGES:
            edge = (moved[i], moved[j])
            targets.append(_OPERATION_BITS + EDGES.index(edge) if edge in EDGES else _DOWNWARD)
        for source, target in enumerate(targets):
            tables[p, source // 8] |= (((byte >> source % 8) & 1) << target).astype(np.uint32)
    return tables
