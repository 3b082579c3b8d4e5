"""The ConvNet space: all its networks, and costs counted by hand."""

import numpy as np
import pytest

from lanas_jax.spaces.convnet import ConvNetSpace

SPACE = ConvNetSpace()


def test_every_network_has_one_code():
    codes = np.asarray(SPACE.enumerate())
    assert SPACE.size == len(codes) == 12 + 12**2 + 12**3 + 12**4
    assert len(np.unique(codes, axis=0)) == len(codes)
    np.testing.assert_array_equal(SPACE.canonical(codes), codes)


def test_costs_counted_by_hand():
    smallest, largest = (np.array(SPACE.named_codes[name]) for name in ("smallest", "largest"))
    hidden = np.array([0, 1, 1, 3, 2, 3, 2, 3, 2])  # one layer of 4 channels and 3 x 3 pixels
    cost = SPACE.cost(np.stack([smallest, largest, hidden]))
    layers = 25 * (1 + 3 * 8) * 8  # weights of the largest convolutions
    assert cost.parameters.tolist() == [2 + 4 + 30, layers + 4 * 16 + 90, 36 + 8 + 50]
    assert cost.multiply_adds.tolist() == [16 * 2 + 20, 16 * layers + 80, 16 * 36 + 40]


def test_an_odd_image_size_is_refused():
    with pytest.raises(ValueError, match="image_size must be even, as the first layer halves it; got 7"):
        ConvNetSpace(7)
