"""Pictures of the documentation: complete SVG files, alike on light and dark pages except for their colours."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.experiments import pictures
from lanas_jax.report import graph, tree
from lanas_jax.report.formatting import ValueFormat
from lanas_jax.searchers.partition import NodeSummary
from tests.experiments.schemes import checked


def test_regrets_are_drawn():
    intervals = np.array([[2.0, 1.5, 2.5], [0.5, 0.4, 0.7]])
    panel = pictures.Panel("a table, 5 searches", {"lanas": intervals, "random": 2 * intervals})
    picture = checked(lambda scheme: pictures.regret_picture(panel, scheme))
    for text in ("LaNAS", "random search", "trained networks", "a table, 5 searches"):
        assert text in picture


@pytest.mark.slow
def test_comparisons_are_read(tmp_path):
    values = np.full((5, 8), 0.9, np.float32)
    np.savez(tmp_path / "traces.npz", random=values, lanas=values, local=values)
    panel = pictures.panel_of("nasbench201-cifar10", tmp_path, 6)
    assert (panel.title, list(panel.regrets)) == ("nasbench201-cifar10, 5 searches", ["lanas", "random"])
    for intervals in panel.regrets.values():
        np.testing.assert_allclose(intervals, np.full((6, 3), 1.607), atol=5e-4)  # the best has 91.607 %


def test_drawings_of_a_report_are_arranged():
    space = lx.NASBench201Space()
    cells = space.graphs(np.array([3, 1, 4, 0, 1, 4], np.int32))
    drawn = [(cell.name, graph.draw_graph(cell, graph.operations(cells))) for cell in cells]
    nodes = [NodeSummary(0, 0, 20, 0.5, False, (("op0=none", -0.25),))]
    nodes += [NodeSummary(i, 1, 10, value, True, ()) for i, value in ((1, 0.7), (2, 0.3))]
    drawn_tree = tree.draw_tree(nodes, ValueFormat(percent=True))
    picture = checked(lambda scheme: pictures.arranged([drawn, [("learned tree", drawn_tree)]], scheme))
    for text in (
        "nor_conv_3x3",
        "20 trials, mean 50.0\N{NO-BREAK SPACE}%",
        "region 1: 10 trials",
        "op0=none",
        "learned tree",
    ):
        assert text in picture
    width, height = (int(number) for number in re.search(r'viewBox="0 0 (\d+) (\d+)"', picture).groups())
    inner = ElementTree.fromstring(picture).findall("{http://www.w3.org/2000/svg}svg")
    assert max(int(part.get("x")) + int(part.get("width")) for part in inner) == width
    assert max(int(part.get("y")) + int(part.get("height")) for part in inner) < height
