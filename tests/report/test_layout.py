"""The drawing of cells: layers of known graphs, and no edge through a node or a label."""

import re
from itertools import combinations, pairwise

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from lanas_jax.report import graph
from lanas_jax.report.layout import Rectangle, lay_out, layers
from lanas_jax.spaces.base import CellGraph
from lanas_jax.spaces.nasnet import NASNetSpace


def cell(nodes: int, edges: list[tuple[int, int]], label: str = "conv") -> CellGraph:
    return CellGraph("cell", tuple(f"node {i}" for i in range(nodes)), tuple((a, b, label) for a, b in edges))


@pytest.mark.parametrize(
    ("nodes", "edges", "expected"),
    [
        (1, [], (0,)),
        (3, [(0, 1), (1, 2)], (0, 1, 2)),
        (3, [(0, 1), (1, 2), (0, 2)], (0, 1, 2)),  # the longest path counts
        (4, [(0, 1), (0, 2), (1, 3), (2, 3)], (0, 1, 1, 2)),
        (4, [(3, 2), (2, 1), (1, 0)], (3, 2, 1, 0)),  # listed backwards
        (4, [(0, 1), (0, 1)], (0, 1, 0, 0)),  # parallel edges; nodes without edges
    ],
)
def test_layers(nodes: int, edges: list[tuple[int, int]], expected: tuple[int, ...]) -> None:
    assert layers(cell(nodes, edges)) == expected


@pytest.mark.parametrize("edges", [[(0, 0)], [(0, 1), (1, 2), (2, 1)]])
def test_a_cycle_is_named(edges: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="cell 'cell' has a cycle"):
        layers(cell(3, edges))


@st.composite
def acyclic(draw: st.DrawFn) -> CellGraph:
    nodes = draw(st.integers(1, 9))
    pairs = list(combinations(range(nodes), 2))
    edges = draw(st.lists(st.sampled_from(pairs), max_size=16)) if pairs else []
    labels = draw(st.lists(st.sampled_from(["", "conv", "a long operation"]), min_size=16, max_size=16))
    names = tuple(f"node {i}" for i in range(nodes))
    return CellGraph("cell", names, tuple((a, b, label) for (a, b), label in zip(edges, labels, strict=False)))


def sizes(given: CellGraph) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    return [(60.0, 30.0)] * len(given.nodes), [(80.0, 20.0) if label else (0.0, 4.0) for _, _, label in given.edges]


def overlap(a: Rectangle, b: Rectangle) -> bool:
    return abs(a.x - b.x) < (a.width + b.width) / 2 and abs(a.y - b.y) < (a.height + b.height) / 2


@hypothesis.given(acyclic())
@hypothesis.settings(max_examples=50, deadline=None)
def test_nothing_overlaps(given: CellGraph) -> None:
    layout = lay_out(given, *sizes(given))
    boxes = [*layout.nodes, *(box for route in layout.routes for box in route)]
    assert not any(overlap(a, b) for a, b in combinations(boxes, 2))
    assert all(box.x - box.width / 2 >= 0 and box.x + box.width / 2 <= layout.width + 1e-6 for box in boxes)
    assert all(box.y - box.height / 2 >= -1e-6 and box.y + box.height / 2 <= layout.height + 1e-6 for box in boxes)


@hypothesis.given(acyclic())
@hypothesis.settings(max_examples=50, deadline=None)
def test_edges_run_from_left_to_right(given: CellGraph) -> None:
    layout = lay_out(given, *sizes(given))
    for (source, target, _), route in zip(given.edges, layout.routes, strict=True):
        stops = [layout.nodes[source], *route, layout.nodes[target]]
        assert all(a.x + a.width / 2 < b.x - b.width / 2 for a, b in pairwise(stops))


def points_on(path: str) -> np.ndarray:
    """Points along an SVG path of the commands M, C and H."""
    found, at = [], np.zeros(2)
    for command, rest in re.findall(r"([MCH])([-0-9. ]+)", path):
        numbers = np.array([float(number) for number in rest.split()])
        if command == "M":
            at = numbers
        elif command == "H":
            end = np.array([numbers[0], at[1]])
            found += [at + t * (end - at) for t in np.linspace(0, 1, 9)]
            at = end
        else:
            a, b, end = numbers.reshape(3, 2)
            found += [
                (1 - t) ** 3 * at + 3 * (1 - t) ** 2 * t * a + 3 * (1 - t) * t**2 * b + t**3 * end
                for t in np.linspace(0, 1, 17)
            ]
            at = end
    return np.array(found)


@pytest.mark.parametrize("seed", range(8))
def test_drawn_edges_run_through_no_node_and_no_label_of_another(seed: int) -> None:
    space = NASNetSpace(7)
    (drawn,) = space.graphs(space.random(jax.random.key(seed), 1)[0])
    picture = graph.draw_graph(drawn, graph.operations([drawn]))
    rectangles = [
        np.array([float(box.get(side)) for side in ("x", "y", "width", "height")]) for box in picture.iter("rect")
    ]
    paths = [path.get("d") for path in picture.iter("path") if path.get("class") == "edge"]
    labelled = sum(label != "" for _, _, label in drawn.edges)
    assert len(paths) == len(drawn.edges)
    assert len(rectangles) == len(drawn.nodes) + labelled
    for number, path in enumerate(paths):
        points = points_on(path)
        for i, (x, y, width, height) in enumerate(rectangles):
            inside = (
                (points[:, 0] > x + 0.2)
                & (points[:, 0] < x + width - 0.2)
                & (points[:, 1] > y + 0.2)
                & (points[:, 1] < y + height - 0.2)
            )
            assert not inside.any() or i == number  # its own label


def test_every_operation_has_a_colour_shared_by_all_cells() -> None:
    cells = [cell(2, [(0, 1)], "skip"), cell(2, [(0, 1)], "conv"), cell(2, [(0, 1)], "")]
    assert graph.operations(cells) == {"conv": "var(--op0)", "skip": "var(--op1)"}
