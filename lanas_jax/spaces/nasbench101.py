"""The space of NAS-Bench-101 (arXiv 1902.09635): graphs of at most seven vertices and nine edges.

A cell is a directed acyclic graph: an input, an output, and up to five inner vertices that each apply one of three
operations to the sum of their inputs. Vertices that are not on a path from input to output have no effect: they and
their edges are *pruned*. Graphs that differ only in the order of their vertices build the same network. The 423,624
networks of the benchmark are the isomorphism classes of these graphs.

A code holds 21 edges (the upper triangle of the 7x7 adjacency matrix, row by row) and the operations of vertices 1
to 5. Graphs with fewer vertices are represented by codes with pruned vertices.

The benchmark's network and its cost are in `nasbench101_network.py`; `models/nasbench/nasbench101.py` builds it.
"""

import dataclasses
import functools
import hashlib
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lanas_jax.spaces import packed_graphs as packed
from lanas_jax.spaces.base import CellGraph, Codes, Cost, SearchSpace
from lanas_jax.spaces.choices import Choice
from lanas_jax.spaces.nasbench101_network import STACKS, NASBench101CellShape, cell_cost
from lanas_jax.spaces.packed_graphs import EDGES, INNER, OUTPUT, VERTICES

OPERATIONS = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
MAX_EDGES = 9
_SHORT = ("conv3x3", "conv1x1", "maxpool")
_PATHS = tuple(path for n in (1, 2, 3) for path in itertools.product(range(3), repeat=n))
_PATH_SHARE = 0.25  # share of the path features in the squared norm of an embedding
_COUNT = 16  # upper bound on features; only graphs with too many edges would exceed it


@dataclasses.dataclass(frozen=True, init=False)
class NASBench101Space(SearchSpace):
    """Graphs of at most 7 vertices and 9 edges, over conv3x3, conv1x1 and maxpool3x3: 509,607,936 codes.

    Args:
      channels: channels of the stem and the first stack of cells; doubled from stack to stack.
      cells: number of cells in each of the three stacks.
      image_size: height and width of the images, in pixels.
      image_channels: number of image channels.
      classes: number of classes.

    Raises:
      ValueError: if a size is below one, or there are fewer channels than inner vertices.
    """

    channels: int
    cells: int
    image_size: int
    image_channels: int
    classes: int

    def __init__(
        self, *, channels: int = 128, cells: int = 3, image_size: int = 32, image_channels: int = 3, classes: int = 10
    ) -> None:
        self._set_sizes(
            channels=channels, cells=cells, image_size=image_size, image_channels=image_channels, classes=classes
        )
        if channels < INNER:
            raise ValueError(f"channels must be at least {INNER}, one per inner vertex; got {channels}")
        edges = (Choice(f"edge {i}-{j}", ("absent", "present")) for i, j in EDGES)
        super().__init__((*edges, *(Choice(f"operation {v}", OPERATIONS) for v in range(1, OUTPUT))))

    @property
    def shapes(self) -> tuple[NASBench101CellShape, ...]:
        """Shapes of the cells, from stem to head."""
        shapes, inputs, size = [], self.channels, self.image_size
        for stack in range(STACKS):
            channels = self.channels << stack
            size = -(-size // 2) if stack else size
            for _ in range(self.cells):
                shapes.append(NASBench101CellShape(inputs, channels, size))
                inputs = channels
        return tuple(shapes)

    def cost(self, codes: Codes) -> Cost:
        """Returns exact multiply-adds of one image's forward pass (convolutions and head) and trainable parameters.

        If channels do not divide evenly, the first vertices receive one more, so the costs of isomorphic graphs may
        differ slightly: the cost is that of the graph in the code's vertex order.

        Raises:
          ValueError: if a code has no path from input to output.
        """
        adjacency, labels, kept = (np.asarray(x, np.int64) for x in self.pruned(codes))
        if not kept[:, 0].all():
            raise ValueError(f"code {int(np.argmin(kept[:, 0]))}: no path leads from input to output")
        total = np.zeros((len(labels), 2), np.int64) + self._fixed_cost()
        for shape in self.shapes:
            total += cell_cost(adjacency, labels, shape)
        return Cost(total[:, 0], total[:, 1])

    def valid(self, codes: Codes) -> Bool[Array, " n"]:
        """Returns which codes are in range, have a path from input to output and at most nine edges after pruning."""
        codes = jnp.asarray(codes, jnp.int32)
        rows, _, kept = _pruned(codes)
        return _buildable(codes, rows, kept)

    def canonical(self, codes: Codes) -> Int[Array, "n dims"]:
        """Returns one code for all isomorphic pruned graphs; pruned vertices have no edges and operation 0.

        Codes with integers out of range are returned unchanged.
        """
        codes = jnp.asarray(codes, jnp.int32)
        return _canonical(codes, *_pruned(codes)[:2])

    def enumerate(self) -> Int[np.ndarray, "n dims"]:
        """Returns all 423,624 canonical codes, in ascending order. Takes some seconds."""
        bits = 1 << np.arange(len(EDGES))[::-1]
        shapes = np.arange(2 ** len(EDGES), dtype=np.int32)[:, None] // bits[None].astype(np.int32) % 2
        shapes = np.pad(shapes, ((0, 0), (0, INNER)))
        shapes = np.asarray(self.canonical(shapes[np.asarray(self.valid(shapes))]))
        shapes = np.unique(shapes @ np.append(bits, np.zeros(INNER, int)))  # edges of the graphs, as numbers
        edges = (shapes[:, None] // bits % 2).astype(np.int32)
        operations = np.array(list(itertools.product(range(3), repeat=INNER)), np.int32)
        digits = np.concatenate([bits * 3**INNER, 3 ** np.arange(INNER)[::-1]])
        found = []
        for part in np.array_split(edges, -(-len(edges) // 86)):
            codes = np.concatenate(
                [np.repeat(part, len(operations), axis=0), np.tile(operations, (len(part), 1))], axis=1
            )
            found.append(np.unique(np.asarray(self.canonical(codes)) @ digits))
        numbers = np.unique(np.concatenate(found))
        return (numbers[:, None] // digits % np.array([2] * len(EDGES) + [3] * INNER)).astype(np.int32)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Name of each column of `features`."""
        names = [f"vertices {op}" for op in _SHORT]
        names += [f"edges {a}>{b}" for a in ("input", *_SHORT) for b in (*_SHORT, "output")]
        names += ["vertices", "edges", "longest path", *(f"most {op} on a path" for op in _SHORT)]
        return (*names, *("path " + ">".join(_SHORT[op] for op in path) for path in _PATHS))

    def features(self, codes: Codes) -> Float[Array, "n d"]:
        """Returns the inputs of the tree's regressions: counts of at most 16, independent of the vertex order.

        The counts are taken after pruning: vertices per operation; edges per pair of (input or operation, operation or
        output); total vertices, total edges and length of the longest path; the most vertices per operation on one
        path; and, for each sequence of one to three operations, 1 if a path from input to output applies exactly it.
        """
        return _features(*_pruned(jnp.asarray(codes, jnp.int32)))

    def terms(self, codes: Codes) -> Float[Array, "n t"]:
        """Returns the features, centred over random valid graphs."""
        return self.features(codes) - _feature_scale()[0][None]

    @property
    def term_embedding(self) -> Float[np.ndarray, "t e"]:
        """Diagonal matrix of feature scales that gives random valid graphs a mean squared norm of 1.

        Counts contribute three quarters of the squared norm, with equal variance. Paths contribute one quarter, with
        one common scale, so that rare paths do not weigh more than common ones.
        """
        return np.diag(_feature_scale()[1])

    def describe(self, code: Int[Array | np.ndarray, " dims"]) -> str:
        """Returns the pruned graph as text, one line per vertex: its operation and its inputs."""
        adjacency, operations = self.to_graph(code)
        width = max(map(len, operations))
        sources = [", ".join(map(str, np.flatnonzero(column))) for column in adjacency.T]
        lines = [f"{v}  {operations[v]:<{width}}  of {sources[v]}" for v in range(1, len(operations))]
        return "\n".join([f"0  {operations[0]}", *lines])

    def graphs(self, code: Int[Array | np.ndarray, " dims"]) -> tuple[CellGraph, ...]:
        """Returns the pruned graph: operations are the nodes, edges have no label."""
        adjacency, operations = self.to_graph(code)
        names = [operations[0], *(f"{v} {op}" for v, op in enumerate(operations[1:-1], 1)), operations[-1]]
        edges = tuple((int(i), int(j), "") for i, j in np.argwhere(adjacency))
        return (CellGraph("cell", tuple(names), edges),)

    def from_graph(self, adjacency: object, operations: Sequence[str]) -> Int[np.ndarray, " dims"]:
        """Returns the code of a graph in the benchmark's notation, valid or not.

        Args:
          adjacency: zeros and ones ``[v, v]``, ``2 <= v <= 7``, upper triangular.
          operations: names of the vertices: "input", then names from `OPERATIONS`, then "output".

        Returns:
          A code, not canonical.

        Raises:
          ValueError: if the graph does not have this form.
        """
        matrix = np.asarray(adjacency)
        v = len(operations)
        if not 2 <= v <= VERTICES or matrix.shape != (v, v):
            raise ValueError(f"expected 2 to 7 operations and a matrix of as many rows; got {v}, shape {matrix.shape}")
        if ((matrix != 0) & (matrix != 1)).any() or np.tril(matrix).any():
            raise ValueError("the adjacency matrix must hold zeros and ones, ones only above the diagonal")
        wrong = set(operations[1:-1]) - set(OPERATIONS)
        if wrong or (operations[0], operations[-1]) != ("input", "output"):
            raise ValueError(f"expected input, {', '.join(OPERATIONS)}, output; got {', '.join(operations)}")
        place = [*range(v - 1), OUTPUT]
        whole = np.zeros((VERTICES, VERTICES), np.int32)
        whole[np.ix_(place, place)] = matrix
        labels = [OPERATIONS.index(op) for op in operations[1:-1]] + [0] * (VERTICES - v)
        return np.concatenate([whole[tuple(np.array(EDGES).T)], np.array(labels, np.int32)])

    def to_graph(self, code: Int[Array | np.ndarray, " dims"]) -> tuple[Int[np.ndarray, "v v"], tuple[str, ...]]:
        """Returns the pruned graph: adjacency matrix and vertex names, in the order of the code.

        Raises:
          ValueError: if integers are out of range, or no path leads from input to output.
        """
        array = self.check(np.asarray(code)[None])[0]
        kept, names = self.vertices(array), ("input", *(OPERATIONS[op] for op in array[len(EDGES) :]), "output")
        return _matrix(array)[np.ix_(kept, kept)], tuple(names[v] for v in kept)

    def vertices(self, code: Int[Array | np.ndarray, " dims"]) -> tuple[int, ...]:
        """Returns the vertices that are on a path from input to output, 0 to 6, ascending.

        Raises:
          ValueError: if integers are out of range, or no path leads from input to output.
        """
        kept = _on_paths(_matrix(self.check(np.asarray(code)[None])[0]).tolist())
        if not kept:
            raise ValueError("no path leads from input to output")
        return tuple(kept)

    def pruned(self, codes: Codes) -> tuple[Int[Array, "n 7 7"], Int[Array, "n 5"], Int[Array, "n 7"]]:
        """Returns adjacency matrices of the pruned graphs, operations, and 1 for each vertex that is not pruned.

        The vertices are in the order of the code; pruned ones have no edges and operation 0. Codes may be traced.
        """
        rows, labels, kept = _pruned(jnp.asarray(codes, jnp.int32))
        return packed.members(rows), labels, packed.members(kept)

    def module_hash(self, code: Int[Array | np.ndarray, " dims"]) -> str:
        """Returns the benchmark's hash of the code's isomorphism class.

        Raises:
          ValueError: if integers are out of range, or no path leads from input to output.
        """
        adjacency, operations = self.to_graph(code)
        return graph_hash(adjacency, [-1, *(OPERATIONS.index(op) for op in operations[1:-1]), -2])

    def _fixed_cost(self) -> Int[np.ndarray, " 2"]:
        """Returns the multiply-adds and parameters of stem and head."""
        stem, head = 9 * self.image_channels * self.channels, self.classes * self.shapes[-1].channels
        parameters = stem + 2 * self.channels + head + self.classes
        return np.array([stem * self.image_size**2 + head, parameters], np.int64)


def graph_hash(adjacency: Int[np.ndarray, "v v"], labels: Sequence[int]) -> str:
    """Returns the NAS-Bench-101 hash of a pruned graph, computed as in its official API.

    Each vertex hash starts from the vertex's degrees and label. It is updated with the hashes of its neighbours as many
    times as there are vertices. The graph hash is the hash of the sorted vertex hashes.

    Args:
      adjacency: adjacency matrix of the pruned graph.
      labels: label per vertex: -1 for the input, the index of an operation, -2 for the output.
    """
    out_of = [[w for w, edge in enumerate(row) if edge] for row in adjacency.tolist()]
    into = [[v for v, ws in enumerate(out_of) if w in ws] for w in range(len(labels))]
    hashes = [_md5(str((len(out_of[v]), len(into[v]), int(label)))) for v, label in enumerate(labels)]
    for _ in labels:
        hashes = [
            _md5("|".join("".join(sorted(hashes[w] for w in ws)) for ws in (into[v], out_of[v])) + "|" + hashes[v])
            for v in range(len(labels))
        ]
    return _md5(str(sorted(hashes)))


def _matrix(code: Int[np.ndarray, " dims"]) -> Int[np.ndarray, "7 7"]:
    """Returns the adjacency matrix of a code, not pruned."""
    matrix = np.zeros((VERTICES, VERTICES), np.int32)
    matrix[tuple(np.array(EDGES).T)] = code[: len(EDGES)]
    return matrix


def _on_paths(matrix: list[list[int]]) -> list[int]:
    """Returns the vertices on paths from input to output, ascending."""
    below, above = {0}, {OUTPUT}
    for v in range(1, VERTICES):
        if any(matrix[u][v] for u in below):
            below.add(v)
    for v in reversed(range(OUTPUT)):
        if any(matrix[v][w] for w in above):
            above.add(v)
    return sorted(below & above)


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


@jax.jit
def _pruned(codes: Int[Array, "n dims"]) -> tuple[packed.Rows, packed.Labels, packed.Mask]:
    """Returns pruned rows, labels (0 for pruned vertices), and the mask of the remaining vertices."""
    edges, labels = codes[:, : len(EDGES)], codes[:, len(EDGES) :]
    rows, kept = packed.prune_graphs(packed.rows_of(edges))
    return rows, jnp.where(packed.members(kept)[:, 1:OUTPUT] == 1, labels, 0), kept


@jax.jit
def _buildable(codes: Int[Array, "n dims"], rows: packed.Rows, kept: packed.Mask) -> Bool[Array, " n"]:
    return _in_range(codes) & (kept != 0) & (packed.edges_of(rows).sum(axis=1) <= MAX_EDGES)


@jax.jit
def _canonical(codes: Int[Array, "n dims"], rows: packed.Rows, labels: packed.Labels) -> Int[Array, "n dims"]:
    rows, labels = packed.smallest(rows, labels)
    least = jnp.concatenate([packed.edges_of(rows), labels], axis=1)
    return jnp.where(_in_range(codes)[:, None], least, codes)


def _in_range(codes: Int[Array, "n dims"]) -> Bool[Array, " n"]:
    options = np.array([2] * len(EDGES) + [len(OPERATIONS)] * INNER, np.int32)
    return ((codes >= 0) & (codes < options[None])).all(axis=1)


@jax.jit
def _features(rows: packed.Rows, labels: packed.Labels, kept: packed.Mask) -> Float[Array, "n d"]:
    kinds = _kinds(labels, kept)
    held = packed.members(kinds)[:, :4]  # [n, 4 kinds, 7 vertices]
    edges = jax.lax.population_count(rows[:, :, None] & kinds[:, None, 1:])  # [n, 7 vertices, 4 kinds]
    edges = (held[:, :, :, None] * edges[:, None]).sum(axis=2).reshape(-1, 16)
    weights = jnp.concatenate([packed.members(kept & ~1)[:, None], held[:, 1:]], axis=1)
    totals = jnp.stack([jax.lax.population_count(kept), packed.edges_of(rows).sum(axis=1)], axis=1)
    columns = [jax.lax.population_count(kinds[:, 1:4]), edges, totals, packed.heaviest_paths(rows, weights)]
    columns.append(_paths(rows, kinds))
    return jnp.clip(jnp.concatenate(columns, axis=1), 0, _COUNT).astype(jnp.float32)


def _kinds(labels: packed.Labels, kept: packed.Mask) -> Int[Array, "n 5"]:
    """Returns the vertex masks of each kind: input, the three operations, output."""
    bits = (np.int32(1) << np.arange(1, OUTPUT, dtype=np.int32))[None]
    operations = [jnp.where(labels == op, bits, 0).sum(axis=1) & kept for op in range(len(OPERATIONS))]
    return jnp.stack([kept & 1, *operations, kept & (1 << OUTPUT)], axis=1)


def _paths(rows: packed.Rows, kinds: Int[Array, "n 5"]) -> Int[Array, "n paths"]:
    """Returns 1 for each of `_PATHS` whose operations are exactly those of some path, otherwise 0."""
    ends, columns = kinds[:, :1], []
    for _ in range(3):
        ends = jax.lax.collapse(packed.following(rows, ends)[:, :, None] & kinds[:, None, 1:4], 1)
        columns.append(packed.following(rows, ends) >> OUTPUT)
    return jnp.concatenate(columns, axis=1)


@functools.cache
def _feature_scale() -> tuple[np.ndarray, np.ndarray]:
    """Means of the features over random classes of valid graphs, and the factors of `term_embedding`."""
    space = NASBench101Space()
    codes = np.random.default_rng(0).integers(0, space.cardinalities, (2**16, space.dims)).astype(np.int32)
    with jax.ensure_compile_time_eval():
        codes = np.unique(np.asarray(space.canonical(codes))[np.asarray(space.valid(codes))], axis=0)
        features = np.asarray(space.features(codes), np.float64)
    variance = features.var(axis=0)
    counts = features.shape[1] - len(_PATHS)
    scale = np.full(len(variance), math.sqrt(_PATH_SHARE / variance[counts:].sum()))
    scale[:counts] = np.sqrt((1 - _PATH_SHARE) / (counts * variance[:counts]))
    return features.mean(axis=0).astype(np.float32), scale.astype(np.float32)
