"""Cells without control flow compute what the cells with control flow compute, whatever the code."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lanas_jax.models.functional import Functional
from lanas_jax.models.nasbench import NASBench101, NASBench201
from lanas_jax.models.nasbench.nasbench101_cell import read_graph, run_stack
from lanas_jax.models.nasbench.nasbench101_network import NASBench101Cell, cell_state
from lanas_jax.models.nasbench.nasbench201_cell import run_stage
from lanas_jax.models.nasnet import NASNet, branchless_cell, cell
from lanas_jax.models.nasnet.cell import Branches, Mode
from lanas_jax.spaces.nasbench101 import OPERATIONS, NASBench101Space
from lanas_jax.spaces.nasbench201 import NASBench201Space
from lanas_jax.spaces.nasnet import MAX_POOL_3X3, SKIP_CONNECT, NASNetSpace
from tests.models.built import only, quick_jit

# Float32 sums in another order through one cell: relative to an element, and to the largest element of its array, since
# a small element is a sum of large ones. Gradients of parts that a code does not use are exactly zero.
RELATIVE, OF_THE_LARGEST = 1e-3, 1e-4
SPACE = NASNetSpace(2, cells=3, channels=4, image_size=7, image_channels=2, classes=5)
ROWS = np.arange(8, dtype=np.int32).reshape(4, 2)


def normal(seed, shape):
    return jax.random.normal(jax.random.key(seed), shape)


def assert_alike(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)

    def compare(ours, theirs):
        largest = max(1.0, float(np.max(np.abs(theirs), initial=0.0)))
        np.testing.assert_allclose(ours, theirs, rtol=RELATIVE, atol=OF_THE_LARGEST * largest)

    jax.tree.map(compare, ours, theirs)


def outputs_of(run):
    """Outputs, statistics and gradients of a weighted sum in training, of a compiled cell."""

    def outputs(x, params, stats, *code):
        def loss(x, params):
            y, new_stats = run(x, params, stats, *code, train=True)
            return jnp.sum(y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)), (y, new_stats)

        return jax.grad(loss, (0, 1), has_aux=True)(x, params)

    return quick_jit(outputs)


def nasnet_cell(module, reduction, standardise):
    def run(x, params, stats, operation, source, *, train):
        mode = Mode(reduction, train, standardise)
        blocks, new_stats = module.run_cell(x, params, stats, Branches(operation, source, ROWS), mode)
        return blocks[-2:], new_stats

    return outputs_of(run)


@pytest.mark.parametrize(
    ("reduction", "standardise"),
    [
        (False, False),
        pytest.param(True, True, marks=pytest.mark.slow),
        pytest.param(False, True, marks=pytest.mark.slow),
        pytest.param(True, False, marks=pytest.mark.slow),
    ],
)
def test_both_cells_of_nasnet_are_alike(reduction, standardise):
    """Weights that a code does not use are not zero here: they must not matter, and have zero gradient."""
    shapes = {"depthwise": (8, 5, 5, 4), "pointwise": (8, 4, 4), "scale": (8, 4), "bias": (8, 4)}
    params = {name: normal(i, shape) for i, (name, shape) in enumerate(shapes.items())}
    stats = {"mean": normal(5, (8, 4)), "variance": 1 + normal(6, (8, 4)) ** 2}
    x = normal(7, (2, 3, 5, 5, 4))
    ours, theirs = (nasnet_cell(module, reduction, standardise) for module in (branchless_cell, cell))
    codes = np.asarray(SPACE.random(jax.random.key(7), 8))
    operations, sources = (x[:, 0].reshape(8, 4) for x in (SPACE.operations(codes), SPACE.inputs(codes)))
    for operation, source in zip(operations, sources, strict=True):
        one, other = (run(x, params, stats, operation, source) for run in (ours, theirs))
        assert_alike(one, other)
        for a, b in zip(jax.tree.leaves(one[0][1]), jax.tree.leaves(other[0][1]), strict=True):
            np.testing.assert_array_equal(a == 0, b == 0)
    idle = np.array([SKIP_CONNECT, MAX_POOL_3X3, MAX_POOL_3X3, SKIP_CONNECT])
    if not reduction:  # unselected convolutions of huge images overflow nowhere: their weights are zero
        gradient, *_ = ours(1e30 * x, jax.tree.map(jnp.zeros_like, params), stats, idle, np.array([0, 1, 1, 2]))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_both_stages_of_nasbench201_are_alike():
    params = {"kernel": normal(0, (1, 6, 3, 3, 4, 4)), "scale": normal(1, (1, 6, 4)), "bias": normal(2, (1, 6, 4))}
    stats = {"mean": normal(3, (1, 6, 4)), "variance": 1 + normal(4, (1, 6, 4)) ** 2}
    x = normal(5, (3, 6, 6, 4))
    ours, theirs = (outputs_of(partial(run_stage, branchless=branchless)) for branchless in (True, False))
    for code in np.array([[3, 2, 4, 1, 0, 3], [0, 0, 0, 0, 0, 0], [3, 3, 3, 3, 3, 3], [4, 0, 2, 2, 1, 4]], np.int32):
        assert_alike(ours(x, params, stats, code), theirs(x, params, stats, code))


GRAPHS = NASBench101Space(channels=5, cells=1, image_size=5)  # three ends have 2, 2 and 1 channels
CONV3X3, CONV1X1, MAXPOOL = OPERATIONS


def graph(edges, *operations):
    adjacency = np.zeros((len(operations) + 2,) * 2, int)
    adjacency[tuple(np.array(edges).T)] = 1
    return GRAPHS.from_graph(adjacency, ("input", *operations, "output"))


def built_cell(code):
    return NASBench101Cell(*GRAPHS.to_graph(code), GRAPHS.shapes[0], dtype=jnp.float32, rngs=nnx.Rngs(0))


@pytest.mark.slow
def test_all_three_cells_of_nasbench101_are_alike():
    """With control flow, without, and built for the code. Weights and channels that it does not use must not matter."""
    shapes = {"projection": (1, 6, 5, 5), "operation": (1, 5, 3, 3, 5, 5)}
    params, stats = {}, {}
    for i, (kind, shape) in enumerate(shapes.items()):
        rows = (*shape[:2], 5)
        params[kind] = {"kernel": normal(i, shape), "scale": normal(i + 2, rows), "bias": normal(i + 4, rows)}
        stats[kind] = {"mean": normal(i + 6, rows), "variance": 1 + normal(i + 8, rows) ** 2}
    x = normal(10, (3, 5, 5, 5))

    def as_data(branchless, x, params, stats, code, *, train):
        return run_stack(x, params, stats, read_graph(GRAPHS, code), train=train, branchless=branchless)

    def state(params, stats, code):
        own = (jax.tree.map(lambda x: x[0], tree) for tree in (params, stats))
        whole = cell_state(GRAPHS, *own, code, GRAPHS.shapes[0])
        return only(nnx.Param, whole), only(nnx.BatchStat, whole)

    ours, theirs = (outputs_of(partial(as_data, branchless)) for branchless in (True, False))
    split = [(0, 1), (1, 2), (1, 4), (0, 3), (2, 5), (3, 5), (4, 5), (0, 5)]
    for code in (graph(split, CONV3X3, MAXPOOL, CONV1X1, CONV3X3), graph([(0, 1)])):
        one, other = (run(x, params, stats, code) for run in (ours, theirs))
        assert_alike(one, other)
        for a, b in zip(jax.tree.leaves(one[0][1]), jax.tree.leaves(other[0][1]), strict=True):
            np.testing.assert_array_equal(a == 0, b == 0)
        (dx, gradient), (y, new_stats) = other
        module = Functional(partial(built_cell, code))
        built = outputs_of(lambda x, *own, train, module=module: module.run(*own, lambda cell: cell(x), train=train))
        (their_dx, their_gradient), (their_y, their_stats) = built(x, *state(params, stats, code))
        dparams, moved = state(gradient, new_stats, code)
        assert_alike((dx, y, dparams, moved), (their_dx, their_y, their_gradient, their_stats))


NETWORKS = {
    "NASNet": NASNet(SPACE),
    "NASNet, two cells, standardised": NASNet(
        NASNetSpace(2, two_cells=True, cells=3, channels=4, image_size=7, image_channels=2, classes=5),
        weight_standardisation=True,
    ),
    "NAS-Bench-201": NASBench201(NASBench201Space(channels=4, cells=2, image_size=8, image_channels=2, classes=5)),
    "NAS-Bench-101": NASBench101(NASBench101Space(channels=5, cells=2, image_size=7, image_channels=2, classes=5)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["NASNet, two cells, standardised", "NAS-Bench-201", "NAS-Bench-101"])
def test_both_networks_are_alike_also_vmapped(name):
    network = NETWORKS[name]
    size, drawn = network.space.image_size, np.asarray(network.space.random(jax.random.key(7), 32))
    codes = drawn[np.asarray(network.space.valid(drawn))][:4]
    images, weights = normal(9, (6, size, size, 2)), normal(2, (6, 5))
    params, stats = quick_jit(jax.vmap(network.init))(jax.random.split(jax.random.key(0), 4), codes)
    stats = jax.tree.map(lambda x: x + 0.3, stats)  # as if trained

    def outputs(network, params, stats, code):
        def loss(params):
            logits, new_stats = network.apply(params, stats, code, images, train=True)
            return jnp.sum(logits * weights), (logits, new_stats)

        return *jax.grad(loss, has_aux=True)(params), network.apply(params, stats, code, images, train=False)

    ours, theirs = (quick_jit(partial(outputs, one)) for one in (network.as_branchless(), network))
    vmapped = quick_jit(jax.vmap(partial(outputs, network.as_branchless())))(params, stats, codes)
    for i, code in enumerate(codes):
        own = jax.tree.map(lambda x, i=i: x[i], (params, stats))
        expected = theirs(*own, code)
        assert_alike(ours(*own, code), expected)
        assert_alike(jax.tree.map(lambda x, i=i: x[i], vmapped), expected)


def test_the_form_is_a_setting():
    for network in NETWORKS.values():
        assert network.as_branchless() == dataclasses.replace(network, branchless=True) != network
