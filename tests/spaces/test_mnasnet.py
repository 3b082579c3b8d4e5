"""The MnasNet space: published costs of all trained networks, and EfficientNet-B0."""

import os
from pathlib import Path

import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.spaces.inverted_residuals import efficientnet_b0

SPACE = lx.MnasNetSpace()
B0 = np.array(SPACE.named_codes["efficientnet_b0"])


def test_costs_of_all_trained_networks_are_the_published_ones():
    if "LANAS_DATA" not in os.environ:
        pytest.skip("LANAS_DATA does not name the folder of accel_nasbench_mnasnet.npz")
    file = np.load(Path(os.environ["LANAS_DATA"]) / "accel_nasbench_mnasnet.npz", allow_pickle=False)
    cost = SPACE.cost(file["codes"])
    np.testing.assert_array_equal((cost.multiply_adds / 1e6).astype(np.float32), file["macs_millions"])
    np.testing.assert_array_equal((cost.parameters / 1e6).astype(np.float32), file["params_millions"])


def test_efficientnet_b0_is_one_of_the_networks():
    assert SPACE.network(B0) == efficientnet_b0()
    assert tuple(int(number) for (number,) in SPACE.cost(B0[None])) == (415_145_024, 5_288_548)
    assert SPACE.describe(B0).splitlines()[:2] == [
        "stage 0: 1 layer of 16 channels: k3 x1, squeeze-and-excitation",
        "stage 1: 2 layers of 24 channels: k3 x6, squeeze-and-excitation",
    ]


def test_parameters_are_those_of_the_layers():
    """Parameters are summed over stages by a table; the network sums its layers."""
    codes = np.random.default_rng(0).integers(0, SPACE.cardinalities, (20, SPACE.dims))
    expected = [SPACE.network(code).cost for code in codes]
    cost = SPACE.cost(codes)
    assert cost.parameters.tolist() == [layers.parameters for layers in expected]
    ratio = cost.multiply_adds / [layers.multiply_adds for layers in expected]
    assert ((ratio > 1.03) & (ratio < 1.2)).all()  # normalized and pooled numbers count, too
    assert SPACE.size == 3**7 * 2**7 * 3**6 * 4 * 2**7
