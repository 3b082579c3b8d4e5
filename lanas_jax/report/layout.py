"""Layout of the nodes and edges of a cell: a layered drawing from left to right.

Implements the method of Sugiyama, Tagawa and Toda (1981) in its simplest form. Longest paths give layers. An edge has
its own slot in every rank that it passes, one of them wide enough for its label, so that no edge crosses a node or a
label. Barycentres order each rank to reduce crossings. Each rank then moves towards its neighbours as far as its order
allows.
"""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lanas_jax.spaces.base import CellGraph

RANK_GAP = 30.0  # pixels between ranks, where edges curve
ROW_GAP = 9.0  # pixels between neighbours of a rank
SWEEPS = 12


class Rectangle(NamedTuple):
    """A rectangle by its centre and size, in pixels."""

    x: float
    y: float
    width: float
    height: float


class Layout(NamedTuple):
    """A layout: one box per node, and for each edge the boxes between its nodes, the last of them for its label."""

    nodes: tuple[Rectangle, ...]
    routes: tuple[tuple[Rectangle, ...], ...]
    width: float
    height: float


class Slot(NamedTuple):
    """The place of a node, a label or a passing edge in a rank."""

    rank: int
    width: float
    height: float


def layers(graph: CellGraph) -> tuple[int, ...]:
    """Returns the layer of each node: the number of edges on the longest path to it.

    Raises:
      ValueError: the edges form a cycle.
    """
    layer = [0] * len(graph.nodes)
    for _ in range(len(graph.nodes) + 1):
        before = list(layer)
        for source, target, _ in graph.edges:
            layer[target] = max(layer[target], layer[source] + 1)
        if layer == before:
            return tuple(layer)
    raise ValueError(f"cell {graph.name!r} has a cycle, so it cannot be drawn: {graph.edges}")


def lay_out(
    graph: CellGraph, node_sizes: Sequence[tuple[float, float]], label_sizes: Sequence[tuple[float, float]]
) -> Layout:
    """Places nodes and edges.

    Args:
      graph: acyclic cell.
      node_sizes: width and height of each node, in pixels.
      label_sizes: width and height of each edge's label, in pixels; zero width for an edge without a label.

    Raises:
      ValueError: the cell has a cycle.
    """
    slots, chains = _slots(graph, node_sizes, label_sizes)
    links = [link for chain in chains for link in itertools.pairwise(chain)]
    order = _order(slots, links)
    rows = _rows(slots, links, order)
    widths = [max((slots[i].width for i in members), default=0.0) for members in order]
    lefts = np.cumsum([0.0] + [width + RANK_GAP for width in widths])
    boxes = [
        Rectangle(float(lefts[slot.rank]) + widths[slot.rank] / 2, float(row), widths[slot.rank], slot.height)
        for slot, row in zip(slots, rows, strict=True)
    ]
    return Layout(
        nodes=tuple(boxes[: len(graph.nodes)]),
        routes=tuple(tuple(boxes[i] for i in chain[1:-1]) for chain in chains),
        width=float(lefts[-1]) - RANK_GAP,
        height=max((box.y + box.height / 2 for box in boxes), default=0.0),
    )


def _slots(
    graph: CellGraph, node_sizes: Sequence[tuple[float, float]], label_sizes: Sequence[tuple[float, float]]
) -> tuple[list[Slot], list[list[int]]]:
    """Returns the slots of nodes (even ranks, first in the list) and edges, and the chain of slots of each edge."""
    layer = layers(graph)
    slots = [Slot(2 * layer[i], *node_sizes[i]) for i in range(len(graph.nodes))]
    chains = []
    for (source, target, _), (width, height) in zip(graph.edges, label_sizes, strict=True):
        last = 2 * layer[target] - 1
        chain = [source]
        for rank in range(2 * layer[source] + 1, last + 1):
            chain.append(len(slots))
            slots.append(Slot(rank, width if rank == last else 0.0, height if rank == last else 4.0))
        chains.append([*chain, target])
    return slots, chains


def _order(slots: Sequence[Slot], links: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Orders the slots of each rank by barycentre sweeps; returns the order with the fewest crossings."""
    order: list[list[int]] = [[] for _ in range(max((slot.rank for slot in slots), default=-1) + 1)]
    for i, slot in enumerate(slots):
        order[slot.rank].append(i)
    before, after = _neighbours(links)
    kept, fewest = [list(members) for members in order], _crossings(order, links)
    for sweep in range(SWEEPS):
        ranks = range(len(order)) if sweep % 2 == 0 else reversed(range(len(order)))
        neighbours = before if sweep % 2 == 0 else after
        position = {i: place for members in order for place, i in enumerate(members)}
        for rank in ranks:
            order[rank].sort(key=lambda i: _mean([position[j] for j in neighbours[i]], position[i]))
            position.update({i: place for place, i in enumerate(order[rank])})
        crossings = _crossings(order, links)
        if crossings < fewest:
            kept, fewest = [list(members) for members in order], crossings
    return kept


def _rows(slots: Sequence[Slot], links: Sequence[tuple[int, int]], order: Sequence[Sequence[int]]) -> np.ndarray:
    """Returns the height of each slot's centre: near its neighbours' mean, in its rank's order, without overlap."""
    rows = np.zeros(len(slots))
    for members in order:
        rows[list(members)] = _apart(np.zeros(len(members)), [slots[i].height for i in members])
    before, after = _neighbours(links)
    for sweep in range(4 * SWEEPS):
        neighbours = before if sweep % 2 == 0 else after
        for members in order if sweep % 2 == 0 else reversed(order):
            wanted = np.array([_mean([rows[j] for j in neighbours[i]], rows[i]) for i in members])
            rows[list(members)] = _apart(wanted, [slots[i].height for i in members])
    top = min((rows[i] - slot.height / 2 for i, slot in enumerate(slots)), default=0.0)
    return rows - top


def _apart(wanted: Float[np.ndarray, " n"], heights: Sequence[float]) -> Float[np.ndarray, " n"]:
    """Returns the centres closest to `wanted` in least squares, in order and `ROW_GAP` apart (isotonic regression)."""
    offsets = np.concatenate([[0.0], np.cumsum([(a + b) / 2 + ROW_GAP for a, b in itertools.pairwise(heights)])])
    blocks: list[tuple[float, int]] = []  # mean and length of each block of slots that moves together
    for target in wanted - offsets[: len(wanted)]:
        mean, length = float(target), 1
        while blocks and blocks[-1][0] > mean:
            other, size = blocks.pop()
            mean, length = (mean * length + other * size) / (length + size), length + size
        blocks.append((mean, length))
    return np.concatenate([np.full(length, mean) for mean, length in blocks] or [wanted]) + offsets[: len(wanted)]


def _neighbours(links: Sequence[tuple[int, int]]) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    before, after = defaultdict(list), defaultdict(list)
    for a, b in links:
        before[b].append(a)
        after[a].append(b)
    return before, after


def _crossings(order: Sequence[Sequence[int]], links: Sequence[tuple[int, int]]) -> int:
    position = {i: place for members in order for place, i in enumerate(members)}
    rank = {i: r for r, members in enumerate(order) for i in members}
    between = defaultdict(list)
    for a, b in links:
        between[rank[a]].append((position[a], position[b]))
    return sum(
        (a - c) * (b - d) < 0 for pairs in between.values() for n, (a, b) in enumerate(pairs) for c, d in pairs[:n]
    )


def _mean(numbers: Sequence[int] | Sequence[float], otherwise: int | float) -> int | float:
    return sum(numbers) / len(numbers) if numbers else otherwise
