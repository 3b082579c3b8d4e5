"""Drawing of the learned tree from left to right: the trials of each region and the top features of each split."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from lanas_jax.report import formatting
from lanas_jax.report.elements import Element, element, svg
from lanas_jax.report.formatting import ValueFormat
from lanas_jax.report.graph import shorten
from lanas_jax.searchers.partition import NodeSummary

MARGIN = 4.0
LEAF_WIDTH, COLUMN_GAP = 150.0, 30.0
LINE, LEAF_ROW = 15.0, 48.0
LONGEST = 48  # maximum characters of a feature's name


class Place(NamedTuple):
    """Top left corner and size of a node's box, in pixels."""

    left: float
    top: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        """The height at which branches enter and leave."""
        return self.top + self.height / 2


def draw_tree(nodes: Sequence[NodeSummary], show: ValueFormat, measure: str = "mean") -> Element:
    """Draws the tree as SVG: root on the left, the good side of each split above the bad side.

    Args:
      nodes: all nodes of one tree, in any order.
      show: format of the values.
      measure: name of the nodes' numbers.
    """
    by_index = {node.node: node for node in nodes}
    names = [shorten(name, LONGEST) for node in nodes for name, _ in node.drivers]
    heads = [_lines(node, show, measure)[0] for node in nodes if not node.is_leaf]
    widths = [62.0 + 6.9 * len(name) for name in names] + [16.0 + 7.4 * len(head) for head in heads]
    places = _places(by_index, max([170.0, *widths]))
    means = [node.mean_value for node in nodes if node.mean_value is not None]
    regions = {node: number for number, node in enumerate((i for i in places if by_index[i].is_leaf), start=1)}
    shapes = [_branch(places[(i - 1) // 2], places[i], good=i % 2 == 1) for i in places if i]
    for i, place in places.items():
        node = by_index[i]
        shade = _shade(node.mean_value, means)
        lines = _lines(node, show, measure)
        shapes.append(
            _box(node, place, shade, [f"region {regions[i]}: {lines[0]}", *lines[1:]] if node.is_leaf else lines)
        )
    right = max(place.left + place.width for place in places.values())
    bottom = max(place.top + place.height for place in places.values())
    return svg(
        element("g", *shapes, transform=f"translate({MARGIN:g} {MARGIN:g})"),
        width=math.ceil(right + 2 * MARGIN),
        height=math.ceil(bottom + 2 * MARGIN),
        label=f"learned tree: {len(nodes)} nodes, {len(regions)} regions",
    )


def _places(nodes: dict[int, NodeSummary], split_width: float) -> dict[int, Place]:
    """Places every node, with leaves below each other from good to bad; the result is in depth-first order."""
    places: dict[int, Place] = {}
    bottom = 0.0

    def put(i: int) -> float:
        nonlocal bottom
        node = nodes[i]
        height = 2 * LINE + 10.0 if node.is_leaf else (1 + len(node.drivers)) * LINE + 12.0
        places[i] = Place(0.0, 0.0, 0.0, 0.0)  # placeholder that fixes the depth-first order
        if node.is_leaf:
            middle, bottom = bottom + LEAF_ROW / 2, bottom + LEAF_ROW
        else:
            middle = (put(2 * i + 1) + put(2 * i + 2)) / 2
        width = LEAF_WIDTH if node.is_leaf else split_width
        places[i] = Place((split_width + COLUMN_GAP) * node.depth, middle - height / 2, width, height)
        return middle

    put(0)
    top = min(place.top for place in places.values())
    return {i: place._replace(top=place.top - top) for i, place in places.items()}


def _shade(mean: float | None, means: Sequence[float]) -> float:
    """Returns the opacity of a box: low for the worst mean, high for the best."""
    if mean is None or max(means) == min(means):
        return 0.1
    return 0.06 + 0.34 * (mean - min(means)) / (max(means) - min(means))


def _branch(parent: Place, child: Place, *, good: bool) -> Element:
    start, end = (parent.left + parent.width, parent.middle), (child.left, child.middle)
    bend = (start[0] + end[0]) / 2
    path = "M{:.1f} {:.1f}C{:.1f} {:.1f} {:.1f} {:.1f} {:.1f} {:.1f}".format(*start, bend, start[1], bend, end[1], *end)
    return element("path", d=path, class_="branch good" if good else "branch bad")


def _lines(node: NodeSummary, show: ValueFormat, measure: str) -> list[str]:
    """Returns the text at the top of a node's box: two lines for a region, one for a split."""
    trials = formatting.plural(node.samples, "trial")
    mean = "no value" if node.mean_value is None else f"{measure} {show(node.mean_value)}"
    return [trials, mean] if node.is_leaf else [f"{trials}, {mean}"]


def _box(node: NodeSummary, place: Place, shade: float, lines: Sequence[str]) -> Element:
    left, top = place.left + 8.0, place.top + LINE + 1.0
    texts = [element("text", line, class_="count", x=left, y=top + i * LINE) for i, line in enumerate(lines)]
    weights = _signed([weight for _, weight in node.drivers])
    for i, ((feature, weight), figure) in enumerate(zip(node.drivers, weights, strict=True), start=1):
        row, side = top + i * LINE, "good" if weight > 0 else "bad"
        name = (shorten(feature, LONGEST), element("title", feature))
        texts.append(element("text", figure, class_=f"weight {side}", x=left + 42.0, y=row))
        texts.append(element("text", *name, class_="feature", x=left + 50.0, y=row))
    box = element(
        "rect",
        class_="region" if node.is_leaf else "split",
        x=place.left,
        y=place.top,
        width=place.width,
        height=place.height,
        rx=6,
        style=f"fill-opacity:{shade:.2f}",
    )
    return element("g", box, *texts)


def _signed(weights: Sequence[float]) -> list[str]:
    """Formats weights with signs, to two digits of the largest, with a typographic minus sign."""
    largest = max((abs(weight) for weight in weights), default=0.0)
    decimals = max(0, 1 - math.floor(math.log10(largest))) if largest > 0 else 0
    style = f"+,.{decimals}f" if decimals <= 4 and largest < 1e4 else "+.1e"
    return [format(weight, style).replace("-", "−") for weight in weights]  # noqa: RUF001
