"""Small labelled graphs as bits: pruning, one representative per isomorphism class, paths.

A graph has seven vertices in topological order: 0 the input, 6 the output, 1 to 5 with one of three operations each.
Its edges run upward, so 21 bits say which there are. Two forms are used here: *rows*, ``int32[n, 7]`` with bit ``j`` of
row ``i`` for the edge from ``i`` to ``j``, in which sets of vertices are bit masks too; and a *key*, one ``uint32``
with the 21 edges above 10 bits of operations, which a table of 256 entries per byte permutes.

`nasbench101.py` says what the graphs mean.
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
_DOWNWARD = 31  # the bit of a permuted key that says that an edge runs downward

Rows = Int[Array, "n 7"]
Labels = Int[Array, "n 5"]
Mask = Int[Array, " n"]  # of vertices


def rows_of(edges: Int[Array, "n 21"]) -> Rows:
    """Presence of each of `EDGES` -> the masks of the vertices that each vertex leads to."""
    bits = edges << np.array([j for _, j in EDGES], np.int32)[None]
    starts = np.cumsum([0, *range(OUTPUT, -1, -1)])
    return jnp.stack([bits[:, starts[i] : starts[i + 1]].sum(axis=1) for i in range(VERTICES)], axis=1)


def edges_of(rows: Rows) -> Int[Array, "n 21"]:
    """The inverse of `rows_of`."""
    start, end = np.array(EDGES, np.int32).T
    return (rows[:, start] >> end[None]) & 1


def members(mask: Int[Array, "..."]) -> Int[Array, "... 7"]:
    """Which vertices a mask holds, 0 or 1."""
    shifts = np.arange(VERTICES, dtype=np.int32).reshape(*[1] * mask.ndim, VERTICES)
    return (mask[..., None] >> shifts) & 1


def following(rows: Rows, masks: Int[Array, "n k"]) -> Int[Array, "n k"]:
    """The vertices that sets of vertices lead to, over one edge."""
    reached = jnp.zeros_like(masks)
    for i in range(OUTPUT):
        reached = reached | jnp.where((masks >> i) & 1 == 1, rows[:, i : i + 1], 0)
    return reached


def prune(rows: Rows) -> tuple[Rows, Mask]:
    """Drops what is not on a path from input to output.

    Returns:
      the rows that are left, and the mask of the vertices that are left: 0 where no path leads to the output.
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
    """The greatest sum of vertex weights along a path of a pruned graph from input to output, for `k` weightings."""
    best = weights
    for j in range(1, VERTICES):
        leads = ((rows >> j) & 1)[:, None] == 1
        before = jnp.where(leads, best, 0).max(axis=2)
        best = best.at[:, :, j].add(before)
    return best[:, :, OUTPUT]


def smallest(rows: Rows, labels: Labels) -> tuple[Rows, Labels]:
    """The least of the isomorphic graphs, as keys order them, that keep input, output and topological order.

    All 120 orders of the inner vertices are tried, one after the other, in the memory of a key per graph.

    Args:
      rows: edges.
      labels: operations 0 to 2 of the vertices 1 to 5.
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
    """What each byte of a key turns into under each order of the inner vertices, uint32[120, 4, 256]."""
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
