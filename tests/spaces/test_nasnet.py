"""The NASNet space: published counts, exactness of limits, invariance of canonical codes and features."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanas_jax.spaces.base import Cost
from lanas_jax.spaces.nasnet import OPERATIONS, NASNetSpace

LANET = np.array([[2, 2, 0, 2, 1, 2, 0, 2, 2, 3, 2, 1, 2, 0, 0, 1, 1, 1, 2, 1, 1, 0, 3, 4, 3, 0, 3, 1]])
SPACES = {
    "published": NASNetSpace(),
    "two cells": NASNetSpace(4, two_cells=True, channels=8, cells=3, image_size=8, image_channels=1),
}
FEATURES = {name: jax.jit(space.features) for name, space in SPACES.items()}
CANONICAL = {name: jax.jit(space.canonical) for name, space in SPACES.items()}


@pytest.fixture(params=SPACES, name="space")
def _space(request):
    return SPACES[request.param]


def random_codes(space, seed, n=64):
    return np.asarray(space.random(jax.random.key(seed), n))


def swap_branches(space, codes, seed):
    """The branches of each block exchanged at random."""
    swapped = codes.reshape(len(codes), -1, 2, space.blocks, 2).copy()
    which = np.random.default_rng(seed).integers(0, 2, (*swapped.shape[:2], space.blocks)).astype(bool)
    for i in range(2):
        part = swapped[:, :, i]
        part[which] = part[which][:, ::-1]
    return swapped.reshape(codes.shape)


@pytest.mark.parametrize(("channels", "cells", "parameters"), [(128, 24, 44_591_498), (36, 20, 3_222_982)])
def test_parameters_of_lanet(channels, cells, parameters):
    assert NASNetSpace(channels=channels, cells=cells).cost(LANET).parameters.tolist() == [parameters]


def test_published_parameter_counts():
    if "LANAS_DATA" not in os.environ:
        pytest.skip("LANAS_DATA names no folder of benchmark data")
    entries = json.loads((Path(os.environ["LANAS_DATA"]) / "nasnet_parameter_counts.json").read_text())
    assert len(entries) == 12
    for entry in entries:
        space = NASNetSpace(channels=entry["channels"], cells=entry["layers"])
        assert space.cost(np.array([entry["code"]])).parameters.tolist() == [entry["params"]]


def test_multiply_adds_by_hand():
    """One cell of one block, all its terms written out."""
    space = NASNetSpace(
        1, channels=2, cells=1, image_size=4, image_channels=1, classes=5
    )  # a reduction cell, 4 channels
    code = np.array([[0, 2, 0, 1]])
    stem = 16 * 9 * 6
    preprocess = 2 * 16 * 6 * 4
    separable = 2 * 4 * (9 * 4 + 4 * 4)
    skip = 4 * 4 * 4
    assert space.cost(code).multiply_adds.tolist() == [stem + preprocess + separable + skip + 4 * 5]


def test_shape_of_codes():
    assert NASNetSpace().dims == 28
    assert NASNetSpace(two_cells=True).dims == 56
    assert NASNetSpace().cardinalities.tolist() == [4] * 14 + [2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8]


def test_reductions_halve_and_double():
    shapes = NASNetSpace(channels=36, cells=20, image_size=32).shapes
    assert [i for i, shape in enumerate(shapes) if shape.reduction] == [6, 13]
    assert [i for i, shape in enumerate(shapes) if shape.after_reduction] == [7, 14]
    assert [(shapes[i].channels, shapes[i].output_size) for i in (0, 6, 19)] == [(36, 32), (72, 16), (144, 8)]
    assert [shape.sources for shape in shapes[:3]] == [(-1, -1), (-1, 0), (0, 1)]


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31 - 1), name=st.sampled_from(sorted(SPACES)))
def test_branches_commute(seed, name):
    space, canonical_of, features = SPACES[name], CANONICAL[name], FEATURES[name]
    codes = random_codes(space, seed)
    swapped = swap_branches(space, codes, seed)
    canonical = np.asarray(canonical_of(codes))
    np.testing.assert_array_equal(canonical, canonical_of(swapped))
    np.testing.assert_array_equal(canonical, canonical_of(canonical))
    np.testing.assert_array_equal(features(codes), features(swapped))
    assert space.valid(canonical).all()
    for ours, theirs in zip(space.cost(codes), space.cost(canonical), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_canonical_changes_only_the_order_of_branches(space):
    codes = random_codes(space, 3)

    def branches(codes):
        pairs = np.stack([space.operations(codes), space.inputs(codes)], axis=-1).tolist()
        return [[[sorted(map(tuple, block)) for block in cell] for cell in code] for code in pairs]

    assert branches(codes) == branches(np.asarray(space.canonical(codes)))


def test_features_are_small_counts_and_named(space):
    features = np.asarray(jax.jit(space.features)(random_codes(space, 4)))
    assert features.shape[1] == len(space.feature_names) == len(set(space.feature_names))
    np.testing.assert_array_equal(features, features.astype(np.int64))
    assert features.min() == 0
    assert features.max() <= 2 * space.blocks


def test_features_of_lanet():
    space = SPACES["published"]
    value = dict(zip(space.feature_names, np.asarray(jax.jit(space.features)(LANET))[0].tolist(), strict=True))
    assert [value[f"{op} in all"] for op in OPERATIONS] == [3, 2, 8, 1]
    assert value["block 2: max_pool_3x3"] == 1
    assert value["block 0 reads last cell"] == 1
    assert value["skip_connect of a block"] == 3
    assert [value[f"block {b} in output"] for b in range(7)] == [0, 0, 0, 1, 1, 1, 1]
    assert value["blocks in output"] == 4
    assert value["depth"] == 3  # block 0, block 2, block 4


def test_cost_is_linear_in_features(space):
    codes = random_codes(space, 5, n=400)
    features = np.concatenate([np.asarray(jax.jit(space.features)(codes), np.float64), np.ones((400, 1))], axis=1)
    for total in space.cost(codes):
        fit = np.linalg.lstsq(features, total.astype(np.float64), rcond=None)[0]
        np.testing.assert_allclose(features @ fit, total, rtol=1e-9)


def smallest(space):
    """The costs of pools in a row."""
    cell = [1] * 2 * space.blocks + [i for block in range(space.blocks) for i in (block + 1,) * 2]
    return Cost(*(totals[0] for totals in space.cost(np.array([cell * len(space.cell_names)], np.int32))))


@pytest.mark.parametrize("two_cells", [False, True])
@pytest.mark.parametrize("cells", [1, 3, 8])
def test_a_limit_below_every_network_is_refused(two_cells, cells):
    space = NASNetSpace(3, two_cells=two_cells, cells=cells)
    for name, least in smallest(space)._asdict().items():
        assert space.cost(random_codes(space, 3, n=2000))._asdict()[name].min() >= least
        limited = NASNetSpace(3, two_cells=two_cells, cells=cells, **{f"max_{name}": int(least)})
        assert limited.limited(random_codes(space, 3, n=1))[0].limit == least
        with pytest.raises(ValueError, match=f"is below the smallest network of the space, which has {least:,}"):
            NASNetSpace(3, two_cells=two_cells, cells=cells, **{f"max_{name}": int(least) - 1})


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**31 - 1),
    channels=st.integers(1, 4096),
    cells=st.integers(1, 40),
    size=st.integers(1, 512),
    shift=st.integers(-1, 1),
    two_cells=st.booleans(),
)
def test_limits_are_exact(seed, channels, cells, size, shift, two_cells):
    """The int32 arithmetic of `valid` agrees with int64 right at the limit, however large."""
    sizes = {"two_cells": two_cells, "channels": channels, "cells": cells, "image_size": size}
    codes = random_codes(NASNetSpace(3, **sizes), seed, n=8)
    cost = NASNetSpace(3, **sizes).cost(codes)
    for name, totals in cost._asdict().items():
        limit = max(int(totals[0]) + shift, int(smallest(NASNetSpace(3, **sizes))._asdict()[name]))
        limited = NASNetSpace(3, **sizes, **{f"max_{name}": limit})
        np.testing.assert_array_equal(limited.valid(codes), totals <= limit)


def test_limits_beyond_int32_under_jit():
    limit = int(NASNetSpace(channels=128, cells=24).cost(LANET).multiply_adds[0])
    assert limit > 2**32
    for bound, allowed in ((limit, True), (limit - 1, False)):
        space = NASNetSpace(channels=128, cells=24, max_multiply_adds=bound)
        assert bool(jax.jit(space.valid)(jnp.asarray(LANET))[0]) is allowed


def test_integers_out_of_range_are_invalid():
    codes = np.repeat(LANET, 3, axis=0)
    codes[1, 0], codes[2, 14] = 4, 2
    assert SPACES["published"].valid(codes).tolist() == [True, False, False]


def test_describe():
    space = NASNetSpace(2, two_cells=True)
    text = space.describe(np.array([0, 1, 2, 3, 0, 1, 2, 1, 2, 2, 1, 1, 0, 0, 1, 0]))
    assert text.splitlines() == [
        "normal cell",
        "  block 0 = sep_conv_3x3(cell before last) + max_pool_3x3(last cell)",
        "  block 1 = skip_connect(block 0)          + sep_conv_5x5(last cell) -> output",
        "  output  = concat(block 1)",
        "reduction cell",
        "  block 0 = skip_connect(cell before last) + skip_connect(cell before last) -> output",
        "  block 1 = max_pool_3x3(last cell)        + max_pool_3x3(cell before last) -> output",
        "  output  = concat(block 0, block 1)",
    ]


def test_graph():
    (graph,) = NASNetSpace(2).graphs(np.array([0, 1, 2, 3, 0, 1, 2, 1]))
    assert graph.nodes == ("cell before last", "last cell", "block 0", "block 1", "output")
    assert graph.edges == (
        (0, 2, "sep_conv_3x3"),
        (1, 2, "max_pool_3x3"),
        (2, 3, "skip_connect"),
        (1, 3, "sep_conv_5x5"),
        (3, 4, "concat"),
    )


def test_bad_settings_and_codes_are_refused():
    with pytest.raises(ValueError, match="channels must be at least 1; got 0"):
        NASNetSpace(channels=0)
    bad = LANET[0].copy()
    bad[15] = 2
    with pytest.raises(ValueError, match=r"position 15 \(block 0 input 1\) holds 2, expected 0 to 1"):
        SPACES["published"].describe(bad)
