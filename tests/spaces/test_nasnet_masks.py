"""Masks of the supernet: how many there are, and that they are codes written differently."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.spaces.nasnet_masks import NASNetMasks

PUBLISHED = NASNetMasks()
SMALL = NASNetMasks(2, channels=8, cells=3, image_size=8, image_channels=1)
MASK, CANONICAL, VALID, FEATURES = (
    jax.jit(getattr(PUBLISHED, name)) for name in ("mask", "canonical", "valid", "features")
)
# block 0 = sep_conv_3x3(0) + max_pool_3x3(1), block 1 = skip_connect(block 0) + sep_conv_5x5(1);
# block 0 = sep_conv_3x3(0) + max_pool_3x3(0), block 1 = sep_conv_3x3(1) + sep_conv_3x3(block 0)
CODE = np.array([[0, 1, 2, 3, 0, 1, 2, 1, 0, 1, 0, 0, 0, 0, 1, 2]])
BITS = [0, 5, 8 + 7, 8 + 10, 20 + 0, 20 + 1, 28 + 4, 28 + 8]


def random_codes(seed, n=64):
    """Valid ones: one in 15 million draws of 64 has not a single one."""
    codes = np.asarray(PUBLISHED.random(jax.random.key(seed), n))
    return codes[np.asarray(VALID(codes))]


def one_mask():
    mask = np.zeros((1, SMALL.bits), np.int32)
    mask[0, BITS] = 1
    return mask


def test_masks_of_the_published_space():
    assert PUBLISHED.bits == 160
    assert PUBLISHED.masks == (28 * 66 * 120 * 190 * 276) ** 2
    assert PUBLISHED.masks == pytest.approx(1.35e20, rel=2e-3)
    assert PUBLISHED.dims == 40


def test_masks_of_one_block_are_all_its_networks():
    space = NASNetMasks(1)
    codes = space.enumerate()
    masks = np.asarray(space.mask(codes))
    assert len(codes) == len(np.unique(masks, axis=0)) == space.masks
    np.testing.assert_array_equal(masks.reshape(-1, 8).sum(axis=1), 2)
    np.testing.assert_array_equal(space.codes_of(masks), codes)


def test_masks_of_two_blocks_are_all_cells_squared():
    cells = NASNetSpace(2)
    pairs = cells.inputs(cells.enumerate())[:, 0] * 4 + cells.operations(cells.enumerate())[:, 0]
    assert NASNetMasks(2).masks == int((pairs[..., 0] != pairs[..., 1]).all(axis=1).sum()) ** 2


def test_order_of_bits():
    """Cell, block, input, operation; 8 and 12 bits for the blocks of a cell."""
    assert np.flatnonzero(SMALL.mask(CODE)[0]).tolist() == BITS
    np.testing.assert_array_equal(SMALL.codes_of(one_mask()), SMALL.canonical(CODE))


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31 - 1))
def test_a_code_is_its_mask_and_back(seed):
    codes = random_codes(seed)
    masks, canonical = np.asarray(MASK(codes)), np.asarray(CANONICAL(codes))
    assert masks.dtype == bool
    np.testing.assert_array_equal(PUBLISHED.codes_of(masks), canonical)
    np.testing.assert_array_equal(MASK(canonical), masks)
    assert len(np.unique(masks, axis=0)) == len(np.unique(canonical, axis=0))


def test_only_blocks_of_two_different_branches_are_valid():
    """A block of n pairs draws two different ones with probability 1 - 1 / n."""
    codes = np.asarray(PUBLISHED.random(jax.random.key(0), 4096))
    expected = np.prod([1 - 1 / (4 * (block + 2)) for block in range(5)]) ** 2
    assert np.mean(VALID(codes)) == pytest.approx(expected, abs=0.05)  # six standard deviations
    np.testing.assert_array_equal(np.asarray(MASK(codes)).sum(axis=1) == 20, VALID(codes))


def test_limits_still_hold():
    codes = random_codes(3, n=256)
    parameters = PUBLISHED.cost(codes).parameters
    limit = int(np.median(parameters))
    limited = NASNetMasks(max_parameters=limit)
    np.testing.assert_array_equal(limited.valid(codes), parameters <= limit)
    assert 0 < np.mean(parameters <= limit) < 1


def test_costs_are_those_of_the_ordinary_networks():
    codes = random_codes(4)
    for ours, theirs in zip(PUBLISHED.cost(codes), NASNetSpace(5, two_cells=True).cost(codes), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_features_end_with_the_mask():
    codes = random_codes(5)
    features, names = np.asarray(FEATURES(codes)), PUBLISHED.feature_names
    assert len(names) == len(set(names)) == features.shape[1]
    np.testing.assert_array_equal(features[:, -160:], MASK(codes))
    np.testing.assert_array_equal(features[:, :-160], NASNetSpace(5, two_cells=True).features(codes))
    np.testing.assert_array_equal(features, FEATURES(np.asarray(CANONICAL(codes))))
    taken = [name for name, value in zip(SMALL.feature_names[-40:], SMALL.mask(CODE)[0].tolist(), strict=True) if value]
    assert taken == [
        "normal cell: block 0: sep_conv_3x3 of cell before last",
        "normal cell: block 0: max_pool_3x3 of last cell",
        "normal cell: block 1: sep_conv_5x5 of last cell",
        "normal cell: block 1: skip_connect of block 0",
        "reduction cell: block 0: sep_conv_3x3 of cell before last",
        "reduction cell: block 0: max_pool_3x3 of cell before last",
        "reduction cell: block 1: sep_conv_3x3 of last cell",
        "reduction cell: block 1: sep_conv_3x3 of block 0",
    ]


def test_bad_masks_are_refused():
    with pytest.raises(ValueError, match=r"shape \[n, 160\], .* got shape \(1, 40\)"):
        PUBLISHED.codes_of(one_mask())
    bad = one_mask()
    bad[0, 7] = 2
    with pytest.raises(ValueError, match="mask 0: bit 7 holds 2, expected 0 or 1"):
        SMALL.codes_of(bad)
    for bit, ones in ((29, 3), (28 + 4, 1)):
        bad = np.repeat(one_mask(), 2, axis=0)
        bad[1, bit] = 1 - bad[1, bit]
        with pytest.raises(ValueError, match=f"mask 1: block 1 of the reduction cell holds {ones} ones, .* exactly 2"):
            SMALL.codes_of(bad)
