"""The space of AttentiveNAS: published multiply-adds, exact costs, limits and settings."""

import dataclasses

import numpy as np
import pytest

from lanas_jax.spaces.attentive import STAGES, AttentiveSpace

SPACE = AttentiveSpace()
# Table 7 of arXiv 2011.09011 and the configuration files of its code: million multiply-adds, resolution, widths,
# kernels, expansions and depths of AttentiveNAS-A0 to A6.
PUBLISHED = {
    203: (192, (16, 16, 24, 32, 64, 112, 192, 216, 1792), (3, 3, 3, 3, 3, 3, 3), (4, 4, 4, 4), (1, 3, 3, 3, 3, 3, 1)),
    279: (224, (16, 16, 24, 32, 64, 112, 192, 216, 1984), (3, 3, 3, 5, 3, 5, 3), (4, 4, 4, 4), (1, 3, 3, 3, 3, 3, 1)),
    317: (224, (16, 16, 24, 32, 64, 112, 200, 224, 1984), (3, 3, 3, 3, 3, 5, 3), (4, 5, 4, 4), (1, 3, 3, 3, 3, 4, 1)),
    357: (224, (16, 16, 24, 32, 64, 112, 208, 224, 1984), (3, 3, 3, 5, 3, 3, 3), (4, 4, 4, 4), (2, 3, 3, 4, 3, 5, 1)),
    444: (256, (16, 16, 24, 32, 64, 112, 192, 216, 1984), (3, 3, 3, 5, 3, 5, 3), (4, 4, 5, 4), (1, 3, 3, 4, 3, 5, 1)),
    491: (256, (16, 16, 24, 32, 72, 112, 192, 216, 1792), (3, 3, 3, 5, 3, 3, 3), (4, 5, 4, 4), (1, 3, 3, 3, 4, 6, 1)),
    709: (288, (16, 16, 24, 32, 64, 112, 216, 224, 1984), (3, 3, 3, 3, 3, 5, 3), (4, 6, 5, 4), (1, 3, 3, 4, 4, 6, 1)),
}


def code_of(resolution, widths, kernels, expansions, depths):
    stages = zip(widths[1:-1], depths, kernels, (1, *expansions, 6, 6), strict=True)
    options = [resolution, widths[0], *(option for stage in stages for option in stage), widths[-1]]
    return np.array([choice.options.index(option) for choice, option in zip(SPACE.choices, options, strict=True)])


def test_published_networks_have_their_multiply_adds():
    multiply_adds = SPACE.cost(np.array([code_of(*network) for network in PUBLISHED.values()])).multiply_adds
    assert np.rint(multiply_adds / 1e6).tolist() == list(PUBLISHED)
    assert SPACE.named_codes["smallest"] == tuple(code_of(*PUBLISHED[203]).tolist())
    (most,) = SPACE.cost(np.array([SPACE.named_codes["largest"]])).multiply_adds
    assert most == pytest.approx(1.94e9, rel=0.001)


def test_costs_are_those_of_the_layers():
    """Costs are sums of table entries; a network sums its layers."""
    codes = np.random.default_rng(0).integers(0, SPACE.cardinalities, (40, SPACE.dims))
    networks = [SPACE.network(code) for code in codes]
    np.testing.assert_array_equal(np.transpose(SPACE.cost(codes)), [network.cost for network in networks])
    np.testing.assert_allclose(SPACE.traced_cost(codes), SPACE.known_costs(codes), rtol=1e-6)
    shortcuts = {(block.residual, block.projects_shortcut) for network in networks for block in network.blocks}
    assert shortcuts == {(True, False), (False, True), (False, False)}  # the last one halves its input alone
    depths = np.array([stage.depths[0] for stage in STAGES]) + SPACE.parts(codes).depth
    assert [len(network.blocks) for network in networks] == depths.sum(axis=1).tolist()


@pytest.mark.slow
def test_limits_are_exact():
    codes = np.random.default_rng(1).integers(0, SPACE.cardinalities, (200, SPACE.dims))
    cost = SPACE.cost(codes)
    limits = {f"max_{name}": int(np.median(numbers)) for name, numbers in cost._asdict().items()}
    for name, limit in limits.items():
        limited = AttentiveSpace(**{name: limit})
        expected = getattr(cost, name.removeprefix("max_")) <= limit
        np.testing.assert_array_equal(limited.valid(codes), expected)
        starts = limited.starting_codes()
        assert np.asarray(limited.valid(starts)).all()
        assert starts[:, 0].tolist() == [0, 1, 2, 3]
        assert [one.limit for one in limited.limited(codes)] == [limit]
    tight = AttentiveSpace(max_multiply_adds=210_000_000)
    assert tight.starting_codes().tolist() == [[0] * SPACE.dims]
    with pytest.raises(ValueError, match=r"max_multiply_adds of 200,000,000 is below .* has 203,389,568; the largest"):
        AttentiveSpace(max_multiply_adds=200_000_000)


def test_a_network_is_described():
    assert SPACE.describe(code_of(*PUBLISHED[709])).splitlines()[:3] == [
        "resolution 288, stem of 16 channels, head of 1984 channels",
        "stage 0: 1 layer of 16 channels: k3 x1",
        "stage 1: 3 layers of 24 channels: k3 x4",
    ]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"stages": ()}, "stages must not be empty"),
        ({"resolutions": (224, 192)}, r"resolutions must be one or more ascending numbers above 0; got \(224, 192\)"),
        ({"stages": (dataclasses.replace(STAGES[1], widths=()),)}, r"widths of stage 0 must be .* got \(\)"),
        ({"stages": (dataclasses.replace(STAGES[1], expansions=(1, 4)),)}, r"1 alone or all above 1; got \(1, 4\)"),
    ],
)
def test_bad_settings_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        AttentiveSpace(**changed)
