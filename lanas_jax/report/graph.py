"""Drawings of cells as graphs: boxes for nodes, arrows for edges, coloured and labelled by their operations."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from lanas_jax.report import formatting
from lanas_jax.report.elements import Element, element, svg
from lanas_jax.report.layout import Rectangle, lay_out
from lanas_jax.spaces.base import CellGraph, SearchSpace

COLOURS = 8  # the style sheet's --op0 to --op7
MARGIN = 6.0
NODE_HEIGHT, LABEL_HEIGHT = 34.0, 20.0
LONGEST = 28  # maximum characters of a name


def operations(graphs: Iterable[CellGraph]) -> dict[str, str]:
    """Returns one colour per operation, the same in all cells."""
    names = sorted({label for graph in graphs for _, _, label in graph.edges if label})
    return {name: f"var(--op{i % COLOURS})" for i, name in enumerate(names)}


def network_colours(networks: Iterable[tuple[SearchSpace, Sequence[int]]]) -> dict[str, str]:
    """Returns one colour per operation for the drawings of networks, each given by its space and its code."""
    return operations(cell for space, code in networks for cell in space.graphs(np.array(code, np.int32)))


def draw_network(space: SearchSpace, code: Sequence[int], colours: dict[str, str]) -> list[Element]:
    """Returns the cells of a network, or its description if it has no graph, and its code.

    Args:
      space: search space.
      code: code of the network.
      colours: colours of operations.
    """
    parts, graphs = [], space.graphs(np.array(code, np.int32))
    for cell in graphs:
        if len(graphs) > 1:
            parts.append(element("h3", cell.name))
        parts.append(element("figure", element("div", draw_graph(cell, colours), class_="wide")))
    if not graphs:
        parts.append(element("pre", space.describe(np.array(code, np.int32))))
    parts.append(element("p", "Code ", element("code", formatting.code(code)), class_="quiet"))
    return parts


def draw_graph(graph: CellGraph, colours: dict[str, str]) -> Element:
    """Draws the cell as SVG.

    Args:
      graph: acyclic cell.
      colours: CSS colours by operation; an edge without a label is grey.

    Raises:
      ValueError: the cell has a cycle.
    """
    node_sizes = [(_width(name, 7.4) + 18.0, NODE_HEIGHT) for name in graph.nodes]
    label_sizes = [(_width(label, 6.7) + 14.0, LABEL_HEIGHT) if label else (0.0, 4.0) for _, _, label in graph.edges]
    layout = lay_out(graph, node_sizes, label_sizes)
    starts, ends = _ports(graph, layout.nodes, layout.routes)
    shapes = []
    for edge, route, start, end in zip(graph.edges, layout.routes, starts, ends, strict=True):
        shapes.append(_edge(route, start, end, colours.get(edge[2], "var(--faint)")))
    for (_, _, label), route in zip(graph.edges, layout.routes, strict=True):
        if label:
            shapes.append(_label(label, route[-1], colours[label]))
    sources, targets = {edge[0] for edge in graph.edges}, {edge[1] for edge in graph.edges}
    for i, (name, box) in enumerate(zip(graph.nodes, layout.nodes, strict=True)):
        inner = i in sources and i in targets
        shapes.append(_node(name, box, "node" if inner else "node end"))
    moved = element("g", *shapes, transform=f"translate({MARGIN:g} {MARGIN:g})")
    return svg(
        moved,
        width=math.ceil(layout.width + 2 * MARGIN),
        height=math.ceil(layout.height + 2 * MARGIN),
        label=f"{graph.name}: {len(graph.nodes)} nodes, {len(graph.edges)} edges",
    )


def shorten(name: str, longest: int = LONGEST) -> str:
    """Returns `name`, cut with an ellipsis if it is longer than `longest` characters."""
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _width(text: str, per_character: float) -> float:
    return per_character * len(shorten(text))


def _ports(
    graph: CellGraph, nodes: Sequence[Rectangle], routes: Sequence[Sequence[Rectangle]]
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Returns the points where edges leave their sources and enter their targets, spread so that none cross there."""
    starts, ends = [(0.0, 0.0)] * len(graph.edges), [(0.0, 0.0)] * len(graph.edges)
    for node, box in enumerate(nodes):
        leaving = [e for e, edge in enumerate(graph.edges) if edge[0] == node]
        entering = [e for e, edge in enumerate(graph.edges) if edge[1] == node]
        leaving.sort(key=lambda e: routes[e][0].y)
        entering.sort(key=lambda e: routes[e][-1].y)
        for e, y in zip(leaving, _spread(box, len(leaving)), strict=True):
            starts[e] = (box.x + box.width / 2, y)
        for e, y in zip(entering, _spread(box, len(entering)), strict=True):
            ends[e] = (box.x - box.width / 2, y)
    return starts, ends


def _spread(box: Rectangle, n: int) -> list[float]:
    step = min(10.0, (box.height - 10.0) / max(n - 1, 1))
    return [box.y + (i - (n - 1) / 2) * step for i in range(n)]


def _edge(route: Sequence[Rectangle], start: tuple[float, float], end: tuple[float, float], colour: str) -> Element:
    """Draws a line that crosses every rank horizontally and curves only between ranks, where there are no boxes."""
    path, (x, y) = [f"M{start[0]:.1f} {start[1]:.1f}"], start
    arrow = 7.0
    stops = [(box.x - box.width / 2, box.y, box.x + box.width / 2) for box in route]
    for left, row, right in [*stops, (end[0] - arrow, end[1], end[0] - arrow)]:
        middle = (x + left) / 2
        path.append(f"C{middle:.1f} {y:.1f} {middle:.1f} {row:.1f} {left:.1f} {row:.1f}")
        if right > left:
            path.append(f"H{right:.1f}")
        x, y = right, row
    tip = f"M{end[0]:.1f} {end[1]:.1f}l{-arrow:g} -3.5v7z"
    return element(
        "g",
        element("path", class_="edge", d="".join(path), style=f"stroke:{colour}"),
        element("path", d=tip, style=f"fill:{colour}"),
    )


def _label(label: str, box: Rectangle, colour: str) -> Element:
    return element(
        "g",
        _rectangle(box, class_="label", rx=LABEL_HEIGHT / 2, style=f"stroke:{colour}"),
        element("text", shorten(label), class_="operation", x=box.x, y=box.y),
        element("title", label),
    )


def _node(name: str, box: Rectangle, class_: str) -> Element:
    return element(
        "g",
        _rectangle(box, class_=class_, rx=7),
        element("text", shorten(name), class_="name", x=box.x, y=box.y),
        element("title", name),
    )


def _rectangle(box: Rectangle, **attributes: object) -> Element:
    return element(
        "rect",
        x=box.x - box.width / 2,
        y=box.y - box.height / 2,
        width=box.width,
        height=box.height,
        **attributes,
    )
