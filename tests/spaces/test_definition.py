"""Definitions of spaces: equal where codes mean the same, and a difference in words where they do not."""

import dataclasses
import json

import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.spaces.attentive import AttentiveSpace
from lanas_jax.spaces.convnet import ConvNetSpace
from lanas_jax.spaces.definition import choices_of, definition_difference
from lanas_jax.spaces.latency import LatencyTable
from lanas_jax.spaces.mnasnet import MnasNetSpace
from lanas_jax.spaces.mobilenet import MobileNetSpace
from lanas_jax.spaces.nasbench101 import NASBench101Space
from lanas_jax.spaces.nasbench201 import NASBench201Space
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.spaces.nasnet_masks import NASNetMasks
from lanas_jax.spaces.natsbench_size import NATSBenchSizeSpace
from lanas_jax.spaces.published_mobilenets import PublishedMobileNets


def toy(**options):
    return lx.SearchSpace([lx.Choice(name, some) for name, some in options.items()])


TOY = toy(a=(1, 2, 3, 4), b="xyz")
LABELS = lx.SearchSpace([lx.Choice("a", (1, 2, 3, 4), ordered=False), TOY.choices[1]])
CONDITIONAL = lx.SearchSpace([TOY.choices[0], lx.Choice("b", "xyz", when={"a": 1})])


@dataclasses.dataclass(frozen=True, init=False)
class Own(lx.SearchSpace):
    """A space with a field of each kind that JSON does not have."""

    table: object

    def __init__(self, table):
        object.__setattr__(self, "table", table)
        super().__init__(TOY.choices)


def recorded(space):
    """As it comes back from a file."""
    return json.loads(json.dumps(space.definition(), allow_nan=False))


@pytest.mark.parametrize(
    "space",
    [
        TOY,
        NASNetSpace(3, channels=8),
        NASNetMasks(2),
        ConvNetSpace(),
        NASBench101Space(),
        NASBench201Space(),
        NATSBenchSizeSpace(),
        MobileNetSpace(),
        AttentiveSpace(max_multiply_adds=600_000_000),
        MnasNetSpace(),
        PublishedMobileNets(),
        Own(np.arange(3)),
        Own({"x": (1, float("nan"), None)}),
        Own(toy),
    ],
    ids=lambda space: type(space).__name__,
)
def test_a_definition_survives_a_file(space):
    assert definition_difference(recorded(space), space.definition()) == ""


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (toy(a=(1, 2, 3), b="xyz"), "options of choice 'a': 1, 2, 3, 4, now 1, 2, 3"),
        (toy(a="1234", b="xyz"), "options of choice 'a': 1, 2, 3, 4, now '1', '2', '3', '4'"),
        (LABELS, "ordered of choice 'a': True, now absent"),
        (CONDITIONAL, "when of choice 'b': absent, now ['a', [1]]"),
        (toy(a=(1, 2, 3, 4), b="xzy"), "options of choice 'b': 'x', 'y', 'z', now 'x', 'z', 'y'"),
        (toy(a=(1, 2, 3, 4), c="xyz"), "options of choice 'b': 'x', 'y', 'z', now absent"),
        (toy(b="xyz", a=(1, 2, 3, 4)), "the order of the choices: a, b, now b, a"),
        (toy(a=(1, 2, 3, 4)), "options of choice 'b'"),
        (Own(None), "its class is 'SearchSpace', now 'Own'"),
    ],
)
def test_a_difference_of_choices_is_named(space, message):
    assert message in definition_difference(recorded(TOY), space.definition())


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (NASNetSpace(2, channels=8), NASNetSpace(2, channels=16), "its channels is 8, now 16"),
        (
            NASNetSpace(2),
            NASNetSpace(2, max_parameters=10**6),
            "its max_parameters is absent, now 1000000",
        ),
        (NASBench201Space(cells=2), NASBench201Space(cells=5), "its cells is 2, now 5"),
        (MobileNetSpace(classes=10), MobileNetSpace(classes=100), "its classes is 10, now 100"),
        (Own(np.arange(3)), Own(np.arange(4)), "its table is"),
        (Own(LatencyTable("a", 1, {"x": 1})), Own(LatencyTable("a", 1, {"x": 2})), "its table is"),
        (Own(frozenset("a")), Own(frozenset("b")), "its table is"),
        (Own(1), Own(True), "its table is 1, now True"),
        (Own(1), Own(1.0), "its table is 1, now 1.0"),
        (Own("1"), Own(1), "its table is '1', now 1"),
    ],
)
def test_a_difference_of_fields_is_named(before, now, message):
    assert message in definition_difference(recorded(before), now.definition())


def test_many_options_are_abridged():
    changed = definition_difference(recorded(toy(a=range(1000))), toy(a=range(1001)).definition())
    assert changed.count(", ... (1000 in all, the last is 999), now 0, 1, 2,") == 1
    assert changed.endswith("10, 11, ... (1001 in all, the last is 1000)")


def test_many_differences_are_counted():
    changed = definition_difference(recorded(NASNetSpace(2)), NASNetSpace(4).definition())
    assert changed.startswith("its blocks is 2, now 4; options of choice ")
    assert changed.endswith("; and 6 more differences")


def test_networks_of_different_size_may_share_their_choices():
    small, large = NASNetSpace(2, channels=8), NASNetSpace(2, channels=36)
    assert definition_difference(choices_of(recorded(small)), choices_of(large.definition())) == ""
    assert definition_difference(choices_of(recorded(small)), choices_of(NASNetSpace(3).definition()))
