"""The cells of NAS-Bench-201 and the widths of NATS-Bench: the benchmarks' own strings, both ways."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from lanas_jax.spaces.nasbench201 import EDGES, NONE, OPERATIONS, SKIP_CONNECT, NASBench201Space
from lanas_jax.spaces.natsbench_size import NATSBenchSizeSpace

CELLS, SIZES = NASBench201Space(), NATSBenchSizeSpace()


def data(name):
    if "LANAS_DATA" not in os.environ:
        pytest.skip(f"LANAS_DATA does not name the folder of {name}")
    return np.load(Path(os.environ["LANAS_DATA"]) / name, allow_pickle=False)


def test_strings_of_all_cells_are_the_official_ones():
    file = data("nasbench201.npz")
    names = file["arch_str"].tolist()
    assert CELLS.size == len(names) == 15_625
    assert [CELLS.arch_string(code) for code in file["ops"]] == names
    np.testing.assert_array_equal([CELLS.from_arch_string(name) for name in names], file["ops"])


def test_a_known_cell():
    text = "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|none~2|"
    code = CELLS.from_arch_string(text)
    assert code.tolist() == [3, 0, 4, 1, 2, 0]
    (graph,) = CELLS.graphs(code)
    assert graph.edges == (
        (0, 1, "nor_conv_3x3"),
        (1, 2, "avg_pool_3x3"),
        (0, 3, "skip_connect"),
        (1, 3, "nor_conv_1x1"),
    )
    assert CELLS.describe(code).startswith(text + "\nedge 0-1  nor_conv_3x3\n")
    np.testing.assert_array_equal(CELLS.canonical(code[None])[0], code)


# Settings, parameters and multiply-adds of the smallest and largest network of each of the benchmark's data sets, which
# counts the biases of the head among its "FLOPs".
DATASETS = {
    "c10": ({}, (73_306, 1_531_546), (7_783_050 - 10, 220_119_690 - 10)),
    "c100": ({"classes": 100}, (79_156, 1_537_396), (7_788_900 - 100, 220_125_540 - 100)),
    "in16": ({"classes": 120, "image_size": 16}, (80_456, 1_538_696), (1_953_400 - 120, 55_037_560 - 120)),
}


@pytest.mark.parametrize("name", DATASETS)
def test_published_costs_of_the_smallest_and_largest_network(name):
    sizes, parameters, multiply_adds = DATASETS[name]
    cost = NASBench201Space(**sizes).cost(np.array([[0, 1, 4, 0, 1, 4], [3, 3, 3, 3, 3, 3]]))
    assert tuple(cost.parameters) == parameters
    assert tuple(cost.multiply_adds) == multiply_adds


@pytest.mark.parametrize("name", DATASETS)
def test_published_parameters_of_all_cells(name):
    file = data("nasbench201.npz")
    space = NASBench201Space(**DATASETS[name][0])
    np.testing.assert_array_equal(space.cost(file["ops"]).parameters, file[f"params_{name}"])


def test_published_parameters_of_all_sizes():
    file = data("natsbench_size.npz")
    np.testing.assert_array_equal(SIZES.cost(file["channels"] // 8 - 1).parameters, file["params_c10"])


def test_multiply_adds_of_a_size_by_hand():
    """Widths of 8: stem, cell at 32 x 32, block and cell at 16 x 16, block and cell at 8 x 8, head."""
    cell, block = 5 * 9 * 64, (2 * 9 + 1) * 64
    expected = (27 * 8 + cell) * 1024 + (block + cell) * 256 + (block + cell) * 64 + 80
    assert SIZES.cost(np.zeros((1, 5), np.int32)).multiply_adds.tolist() == [expected]


def test_spaces_of_the_same_sizes_are_one():
    assert len({CELLS, NASBench201Space(), NASBench201Space(classes=100), NASBench201Space(classes=100)}) == 2


@pytest.mark.parametrize(("sizes", "message"), [({"cells": 0}, "cells must be"), ({"image_size": 6}, "multiple of 4")])
def test_impossible_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        NASBench201Space(**sizes)


def paths(code):
    """What data meets on its ways from input to output, by walking the cell."""
    counts = []
    for nodes in ((0, 3), (0, 1, 3), (0, 2, 3), (0, 1, 2, 3)):
        operations = [OPERATIONS[code[EDGES.index(edge)]] for edge in itertools.pairwise(nodes)]
        passes = "none" not in operations
        counts.append([passes, *(passes * operations.count(op) for op in OPERATIONS[1:])])
    return np.ravel(counts)


def test_terms_are_the_edges_and_what_data_meets_on_each_path():
    every = CELLS.enumerate()
    walked = np.array([paths(code) for code in every])
    terms = np.asarray(CELLS.terms(every))
    np.testing.assert_array_equal(terms[:, :30], np.eye(5)[every].reshape(-1, 30))
    np.testing.assert_allclose(terms[:, 30:], walked - walked.mean(axis=0), atol=1e-6)


def test_cells_that_compute_the_same_on_every_path_are_near_each_other():
    every = CELLS.enumerate()
    embedded = np.asarray(CELLS.embed(every))
    assert embedded.shape[1] == CELLS.embedding_size
    assert np.square(embedded).sum(axis=1).mean() == pytest.approx(1, abs=0.2)
    row = {tuple(code): i for i, code in enumerate(every.tolist())}
    behind_none = embedded[row[0, 3, 0, 1, 0, 3]] - embedded[row[0, 3, 0, 1, 3, 3]]  # changes no path
    on_a_path = embedded[row[0, 3, 0, 1, 0, 3]] - embedded[row[0, 1, 0, 1, 0, 3]]
    assert np.square(on_a_path).sum() > 1.2 * np.square(behind_none).sum()


def test_a_known_size():
    assert SIZES.size == 32_768
    assert SIZES.arch_string(np.array([0, 7, 1, 2, 3])) == "8:64:16:24:32"
    assert SIZES.from_arch_string("8:64:16:24:32").tolist() == [0, 7, 1, 2, 3]
    assert all(choice.ordered for choice in SIZES.choices)


@pytest.mark.parametrize("text", ["", "|none~0|", "|none~0|+|none~0|none~1|+|none~0|none~1|conv~2|"])
def test_other_strings_are_no_cells(text):
    with pytest.raises(ValueError, match="is not a cell: expected the form"):
        CELLS.from_arch_string(text)


@pytest.mark.parametrize("text", ["", "8:8:8:8", "8:8:8:8:9", "8:8:8:8:8:8"])
def test_other_strings_are_no_sizes(text):
    with pytest.raises(ValueError, match="is not a network: expected five widths"):
        SIZES.from_arch_string(text)


def test_cells_have_equal_integers_exactly_if_they_compute_the_same():
    """Every cell is computed, with a random function for each operation; summands are ordered by size."""
    codes = CELLS.enumerate()
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(len(OPERATIONS), 8, 8))
    nodes = [np.tile(rng.normal(size=8), (len(codes), 1))]
    for end in range(1, 4):
        total = np.zeros((len(codes), 8))
        for edge, (start, stop) in enumerate(EDGES):
            if stop == end:
                operation, source = codes[:, edge], nodes[start]
                applied = np.sin(np.einsum("ni,nij->nj", source, weights[operation]))
                applied[operation == SKIP_CONNECT] = source[operation == SKIP_CONNECT]
                applied[operation == NONE] = 0
                total += applied
        nodes.append(total)
    _, computed = np.unique(np.round(nodes[-1], 6) + 0.0, axis=0, return_inverse=True)
    _, named = np.unique(CELLS.functions(codes), return_inverse=True)
    assert len(np.unique(np.stack([computed, named]), axis=1).T) == computed.max() + 1 == named.max() + 1 == 4930
