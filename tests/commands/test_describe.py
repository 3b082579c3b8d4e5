"""Codes from text, and what is said of them and of published networks."""

import dataclasses

import numpy as np
import pytest

from lanas_jax.commands.codes import CodeError, read_code
from lanas_jax.commands.describe import describe_code, find_space, published
from lanas_jax.spaces.convnet import ConvNetSpace
from lanas_jax.spaces.latency import LatencyTable
from lanas_jax.spaces.mobilenet import MobileNetSpace
from lanas_jax.spaces.mobilenet_layers import layers
from lanas_jax.spaces.nasbench101 import NASBench101Space
from lanas_jax.spaces.nasbench201 import NASBench201Space
from lanas_jax.spaces.nasnet_masks import NASNetMasks

SPACE = NASNetMasks()


def mask_text():
    """A mask of pairs 1 and 6 in every block."""
    starts = np.cumsum([0, 8, 12, 16, 20, 24, 8, 12, 16, 20])
    bits = np.zeros(160, int)
    bits[np.concatenate([starts + 1, starts + 6])] = 1
    return "".join(map(str, bits))


@pytest.mark.parametrize("separator", ["", ",", ", "])
def test_a_mask_stands_for_its_code(separator):
    code = read_code(separator.join(mask_text()), SPACE)
    assert code.tolist() == 2 * ([1, 2] * 5 + [0, 1] * 5)
    np.testing.assert_array_equal(read_code(",".join(map(str, code)), SPACE), code)


def test_bad_masks_are_refused():
    text = mask_text()
    with pytest.raises(CodeError, match=r"has 159 integers, expected 40: .*, or a mask of 160 bits"):
        read_code(text[1:], SPACE)
    with pytest.raises(CodeError, match=r"^block 0 of the normal cell holds 3 ones, expected exactly 2"):
        read_code("1" + text[1:], SPACE)
    with pytest.raises(CodeError, match=r"^bit 0 holds 7, expected 0 or 1"):
        read_code(",".join("7" + text[1:]), SPACE)


def test_a_code_that_is_no_mask_is_refused():
    with pytest.raises(CodeError, match="violates a rule or a cost limit"):
        read_code(",".join("0" * 40), SPACE)


@pytest.mark.parametrize(
    ("name", "parameters", "multiply_adds"),
    [
        ("mobilenet_v2", 3_504_872, 300e6),
        ("mobilenet_v3_large", 5_483_032, 217e6),
        ("efficientnet_b0", 5_288_548, 386e6),
    ],
)
def test_published_networks_have_their_published_counts(name, parameters, multiply_adds):
    about = published(name, {})
    assert (about["name"], about["parameters"]) == (name, parameters)
    assert round(about["multiply_adds"], -6) == pytest.approx(multiply_adds, abs=1e6)
    for total in ("multiply_adds", "parameters"):
        assert sum(layer[total] for layer in about["layers"]) == about[total]
    assert about["description"].splitlines() == [layer["layer"] for layer in about["layers"]]


def test_published_networks_of_another_size():
    about = published("mobilenet_v2", {"classes": 10, "resolution": 112})
    assert about["parameters"] == 3_504_872 - 990 * 1281
    assert about["layers"][0]["layer"].endswith("@ 112")
    with pytest.raises(CodeError, match="resolution must be at least 1; got 0"):
        published("mobilenet_v2", {"resolution": 0})
    with pytest.raises(CodeError, match="mobilenet_v2 does not take --width: use it with mobilenet"):
        published("mobilenet_v2", {"width": 1.0})


def test_a_mobilenet_of_a_code():
    space = find_space("mobilenet", {"width": 1.2, "resolution": 192, "classes": 100})
    assert space == MobileNetSpace(widths=(1.2,), resolutions=(192,), classes=100)
    about = describe_code(space, read_code(",".join(["0"] * 47), space))
    assert about["description"].startswith("resolution 192, width 1.2\nstage 0: 2 layers of 32 channels: k3 x3, k3 x3")
    assert (about["multiply_adds"], about["parameters"]) == space.network(np.zeros(47, int)).cost
    assert "nanoseconds" not in about
    with pytest.raises(CodeError, match="mobilenet does not take --cells: use it with nasnet"):
        find_space("mobilenet", {"cells": 3})
    with pytest.raises(CodeError, match="resolutions must be one or more ascending numbers above 0"):
        find_space("mobilenet", {"resolution": -1})


def test_latencies_are_reported_where_they_were_measured():
    sizes = {"depths": (1,), "kernels": (3,), "expansions": (3,)}
    names = [layer.name for layer in layers(MobileNetSpace(**sizes).network(np.zeros(17, int)))]
    timed = MobileNetSpace(**sizes, latency=LatencyTable("a device", 1, dict.fromkeys(names, 7)))
    assert describe_code(timed, np.zeros(17, np.int32))["nanoseconds"] == 7 * len(names)


def test_a_code_may_go_by_its_name():
    space = MobileNetSpace(max_multiply_adds=400_000_000)
    np.testing.assert_array_equal(read_code("smallest", space), np.zeros(space.dims, np.int32))
    np.testing.assert_array_equal(read_code(" largest ", MobileNetSpace()), space.cardinalities - 1)
    with pytest.raises(CodeError, match="a cost limit"):
        read_code("largest", space)
    with pytest.raises(CodeError, match="'tallest', which is not an integer"):
        read_code("tallest", space)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("nasnet", {"blocks": 10_000}, "blocks must be at most 63; got 10000"),
        ("nasnet", {"cells": 10**6}, "cells must be at most 1,000"),
        ("nasnet", {"channels": 10**8}, "more multiply-adds .some 1e22. than can be counted"),
        ("nasnet", {"classes": 10**21}, "than can be counted"),
        ("mobilenet", {"resolution": 10**9}, "more multiply-adds .some 1e22. than can be counted"),
        ("mobilenet", {"width": 1e30}, "than can be counted"),
    ],
)
def test_sizes_whose_costs_cannot_be_counted_are_refused(name, settings, message):
    """They would take minutes, or their costs would wrap around."""
    with pytest.raises(CodeError, match=message):
        find_space(name, settings)


@pytest.mark.parametrize("space", [ConvNetSpace, NASBench101Space, NASBench201Space])
def test_the_largest_sizes_of_a_space_can_be_counted(space):
    """A sum that wraps around is not above that for smaller images."""
    largest = {"channels": 2**12, "cells": 2**8, "image_channels": 2**12, "classes": 2**16}
    fields = {field.name for field in dataclasses.fields(space)}
    sizes = {name: size for name, size in largest.items() if name in fields}
    graph = [0, 1, 0, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 0, 1, 1, 0, 1, 2, 0, 2, 2, 2]
    code = np.array([graph if space is NASBench101Space else space().cardinalities - 1], np.int32)
    costs = [int(space(image_size=2**n, **sizes).cost(code).multiply_adds[0]) for n in range(8, 13)]
    assert 0 < costs[0] < costs[1] < costs[2] < costs[3] < costs[4]
    with pytest.raises(ValueError, match="image_size must be at most 4,096; got 4100"):
        space(image_size=4100)
