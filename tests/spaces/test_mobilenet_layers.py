"""The layers of published networks, by name and by what they cost."""

import pytest

from lanas_jax.spaces.inverted_residuals import PUBLISHED
from lanas_jax.spaces.mobilenet_layers import layers


@pytest.mark.parametrize("name", PUBLISHED)
def test_costs_of_layers_add_up(name):
    network = PUBLISHED[name]()
    costs = [layer.cost for layer in layers(network)]
    assert tuple(map(sum, zip(*costs, strict=True))) == network.cost
    assert len(costs) == len(network.blocks) + 2


def test_names_of_mobilenet_v3():
    names = [layer.name for layer in layers(PUBLISHED["mobilenet_v3_large"]())]
    assert names[:3] == [
        "stem 3-16, 3x3, stride 2, hard_swish @ 224",
        "block 16-16-16, 3x3, stride 1, relu @ 112",
        "block 16-64-24, 3x3, stride 2, relu @ 112",
    ]
    assert names[4] == "block 24-72-40, 5x5, stride 2, relu, squeeze 24 hard_sigmoid @ 56"
    assert names[-1] == "head 160-960-1280-1000, hard_swish @ 7"
