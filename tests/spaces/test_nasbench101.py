"""The graphs of NAS-Bench-101: the benchmark's own hashes and counts, and equivalent codes."""

import itertools
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from lanas_jax.spaces.nasbench101 import OPERATIONS, NASBench101Space

SPACE = NASBench101Space()
CONV3X3, CONV1X1, MAXPOOL = OPERATIONS
EDGES = [(i, j) for i in range(7) for j in range(i + 1, 7)]


def random_codes(n, seed=0):
    return np.random.default_rng(seed).integers(0, SPACE.cardinalities, (n, SPACE.dims)).astype(np.int32)


def code(edges, operations=(0, 0, 0, 0, 0)):
    return np.array([*((edge in edges) for edge in EDGES), *operations], np.int32)


def relabelled(code, order):
    """The graph whose vertex `order[v]` is vertex `v` of the first; None where an edge would run downward."""
    edges = {(order[i], order[j]) for (i, j), present in zip(EDGES, code, strict=False) if present}
    if any(i > j for i, j in edges):
        return None
    operations = np.zeros(7, np.int32)
    operations[list(order)] = [0, *code[21:], 0]
    return np.array([*((edge in edges) for edge in EDGES), *operations[1:6]], np.int32)


@pytest.fixture(scope="module")
def ecnas():
    if "LANAS_DATA" not in os.environ:
        pytest.skip("LANAS_DATA does not name the folder of ecnas_5V9E_4epochs.npz")
    return np.load(Path(os.environ["LANAS_DATA"]) / "ecnas_5V9E_4epochs.npz", allow_pickle=False)


@pytest.fixture(name="graphs", scope="module")
def _graphs(ecnas):
    """The codes of all rows, vertices in the order of the file."""
    names = {-1: "input", -2: "output", **dict(enumerate(OPERATIONS))}
    graphs = zip(ecnas["adjacency"], ecnas["labels"], ecnas["num_vertices"], strict=True)
    return np.stack(
        [SPACE.from_graph(a[:v, :v], [names[int(label)] for label in labels[:v]]) for a, labels, v in graphs]
    )


def test_published_parameters_of_all_graphs(ecnas, graphs):
    np.testing.assert_array_equal(SPACE.cost(graphs).parameters, ecnas["params"])


def test_costs_by_hand():
    """Convolution after convolution of a graph in which three vertices share 7, 14 and 28 channels."""
    space = NASBench101Space(channels=7, cells=1, image_size=5, image_channels=2, classes=4)
    edges = {(0, 1), (1, 3), (1, 4), (0, 2), (2, 6), (3, 6), (4, 6), (0, 6)}
    graph = code(edges, (1, 0, 2, 1, 0))  # 1 applies conv1x1 and leads to the ends: 2 conv3x3, 3 maxpool, 4 conv1x1
    convolutions = [(25, 9 * 2, 7)]  # pixels, weights of an output channel, output channels
    for pixels, inputs, channels, (a, b, c) in (
        (25, 7, 7, (3, 2, 2)),
        (9, 7, 14, (5, 5, 4)),
        (4, 14, 28, (10, 9, 9)),
    ):
        convolutions += [
            (pixels, inputs, width) for width in (b, a, channels)
        ]  # projections: to 1, to 2, to the output
        convolutions += [(pixels, b, b), (pixels, 9 * a, a), (pixels, c, c)]
    cost = space.cost(graph[None])
    assert cost.multiply_adds[0] == sum(pixels * weights * width for pixels, weights, width in convolutions) + 28 * 4
    assert cost.parameters[0] == sum((weights + 2) * width for _, weights, width in convolutions) + 28 * 4 + 4


def test_the_smallest_network_has_882570_parameters():
    assert SPACE.cost(code({(0, 6)})[None]).parameters.tolist() == [882_570]


def test_a_graph_without_a_path_has_no_cost():
    with pytest.raises(ValueError, match="code 1: no path leads from input to output"):
        SPACE.cost(np.stack([code({(0, 6)}), code({(0, 1), (2, 6)})]))


@pytest.mark.parametrize(("sizes", "message"), [({"cells": 0}, "cells must be"), ({"channels": 4}, "at least 5")])
def test_impossible_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        NASBench101Space(**sizes)


def test_hashes_are_the_official_ones(ecnas, graphs):
    codes = graphs
    assert [SPACE.module_hash(c) for c in codes] == ecnas["hash"].tolist()
    canonical = np.asarray(SPACE.canonical(codes))
    assert [SPACE.module_hash(c) for c in canonical] == ecnas["hash"].tolist()
    assert len(np.unique(canonical, axis=0)) == 2532
    assert np.asarray(SPACE.valid(codes)).all()


def test_there_are_2532_graphs_of_at_most_5_vertices():
    inner = [(i, j) for i, j in itertools.combinations((0, 1, 2, 3, 6), 2)]
    codes = np.zeros((2**10 * 27, 26), np.int32)
    choices = np.array(list(itertools.product(range(2**10), itertools.product(range(3), repeat=3))), dtype=object)
    edges = choices[:, 0].astype(np.int32)
    for bit, edge in enumerate(inner):
        codes[:, EDGES.index(edge)] = edges >> bit & 1
    codes[:, 21:24] = np.array(choices[:, 1].tolist())
    valid = np.asarray(SPACE.valid(codes))
    assert len(np.unique(np.asarray(SPACE.canonical(codes))[valid], axis=0)) == 2532


@pytest.mark.slow
def test_there_are_423624_graphs_in_all():
    codes = SPACE.enumerate()
    assert codes.shape == (423_624, 26)
    assert np.asarray(SPACE.valid(codes)).all()
    np.testing.assert_array_equal(SPACE.canonical(codes), codes)
    np.testing.assert_array_equal(codes, codes[np.lexsort(codes.T[::-1])])


@pytest.mark.slow
def test_relabelled_graphs_are_one_architecture():
    orders = [(0, *order, 6) for order in itertools.permutations(range(1, 6))]
    groups = [[c for order in orders if (c := relabelled(first, order)) is not None] for first in random_codes(20)]
    codes, sizes = np.concatenate(groups), [len(group) for group in groups]
    assert max(sizes) > 1
    for of in (SPACE.canonical, SPACE.features, SPACE.embed, SPACE.valid):
        values = np.asarray(of(codes))
        first = values[np.repeat(np.cumsum([0, *sizes[:-1]]), sizes)]
        np.testing.assert_array_equal(values, first)


def test_representatives_tell_apart_what_hashes_tell_apart():
    codes = random_codes(3000)
    codes = codes[np.asarray(SPACE.valid(codes))]
    canonical = np.asarray(SPACE.canonical(codes))
    hashes = [SPACE.module_hash(c) for c in codes]
    classes = {(name, tuple(c)) for name, c in zip(hashes, canonical.tolist(), strict=True)}
    assert len(classes) == len(set(hashes)) == len(np.unique(canonical, axis=0))
    np.testing.assert_array_equal(SPACE.canonical(canonical), canonical)
    np.testing.assert_array_equal(SPACE.features(canonical), SPACE.features(codes))
    assert np.asarray(SPACE.valid(canonical)).all()


def test_pruned_vertices_do_not_count():
    dead_end = code({(0, 1), (1, 6), (0, 2), (3, 6), (2, 4)}, (1, 2, 2, 2, 2))
    chain = code({(0, 1), (1, 6)}, (1, 0, 0, 0, 0))
    np.testing.assert_array_equal(*np.asarray(SPACE.canonical(np.stack([dead_end, chain]))))
    adjacency, operations = SPACE.to_graph(dead_end)
    assert operations == ("input", CONV1X1, "output")
    assert adjacency.tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]


def test_validity_is_a_path_and_nine_edges_after_pruning():
    fan = {(0, v) for v in range(1, 6)} | {(v, 6) for v in range(1, 6)}
    unused = {(0, 1), (1, 6)} | {(i, j) for i, j in EDGES if i > 1}
    codes = np.stack([code(fan), code(fan - {(0, 5)}), code(unused), code({(0, 1), (2, 6)}), code({(0, 6)})])
    assert np.asarray(jax.jit(SPACE.valid)(codes)).tolist() == [False, True, True, False, True]
    out_of_range = np.full((1, 26), -1, np.int32)
    assert not SPACE.valid(out_of_range)[0]
    np.testing.assert_array_equal(SPACE.canonical(out_of_range), out_of_range)


def test_features_of_a_known_graph():
    edges = {(0, 1), (1, 2), (2, 6), (0, 3), (3, 6), (0, 6)}
    features = np.asarray(SPACE.features(code(edges, (0, 2, 1, 0, 0))[None]))[0]
    found = {name: int(x) for name, x in zip(SPACE.feature_names, features, strict=True) if x}
    assert found == {
        **{"vertices conv3x3": 1, "vertices conv1x1": 1, "vertices maxpool": 1, "vertices": 5, "edges": 6},
        **{"edges input>conv3x3": 1, "edges input>conv1x1": 1, "edges input>output": 1, "edges conv3x3>maxpool": 1},
        **{"edges conv1x1>output": 1, "edges maxpool>output": 1, "longest path": 3},
        **{"most conv3x3 on a path": 1, "most conv1x1 on a path": 1, "most maxpool on a path": 1},
        **{"path conv1x1": 1, "path conv3x3>maxpool": 1},
    }


def test_embeddings_have_squared_norms_of_one_on_average():
    codes = np.unique(np.asarray(SPACE.canonical(random_codes(20_000, 1))), axis=0)
    rows = np.asarray(SPACE.embed(codes[np.asarray(SPACE.valid(codes))]))
    assert rows.shape[1] == SPACE.embedding_size
    assert np.square(rows).sum(axis=1).mean() == pytest.approx(1, abs=0.05)


def test_a_graph_survives_the_code():
    matrix = np.array([[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]])
    operations = ("input", MAXPOOL, CONV3X3, "output")
    packed = SPACE.from_graph(matrix, operations)
    adjacency, names = SPACE.to_graph(packed)
    assert names == operations
    np.testing.assert_array_equal(adjacency, matrix)
    assert SPACE.describe(packed).splitlines()[-1].split() == ["3", "output", "of", "1,", "2"]
    (graph,) = SPACE.graphs(packed)
    assert graph.nodes == ("input", f"1 {MAXPOOL}", f"2 {CONV3X3}", "output")
    assert graph.edges == ((0, 1, ""), (0, 2, ""), (1, 3, ""), (2, 3, ""))


@pytest.mark.parametrize(
    ("matrix", "operations", "message"),
    [
        (np.eye(2), ("input", "output"), "ones only above the diagonal"),
        (np.zeros((2, 3)), ("input", "output"), r"got 2, shape \(2, 3\)"),
        (np.zeros((2, 2)), ("output", "input"), "expected input, .* got output, input"),
        (np.zeros((3, 3)), ("input", "conv5x5", "output"), "got input, conv5x5, output"),
    ],
)
def test_other_graphs_are_refused(matrix, operations, message):
    with pytest.raises(ValueError, match=message):
        SPACE.from_graph(matrix.astype(int), operations)


def test_a_graph_without_a_path_has_no_hash():
    with pytest.raises(ValueError, match="no path leads from input to output"):
        SPACE.module_hash(code({(0, 1), (2, 6)}))
