"""Sums of large integers in digits against Python's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanas_jax.spaces.exact import LARGEST, LIMB_BITS, carry_digits, digits, exceeds, integers
from lanas_jax.spaces.mobilenet import MobileNetSpace
from lanas_jax.spaces.mobilenet_settings import STAGES
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.spaces.nasnet_masks import NASNetMasks

NUMBERS = st.integers(0, LARGEST // 2048)


def limbs_of(numbers):
    return carry_digits([jnp.asarray(digit).sum(axis=0) for digit in digits(np.asarray(numbers, np.int64))])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=6))
def test_sums_are_those_of_python(rows):
    limbs = limbs_of(rows)
    assert limbs.dtype == jnp.int32
    assert integers(limbs).tolist() == [sum(column) for column in zip(*rows, strict=True)]


def test_as_many_digits_as_promised_may_be_added():
    most = np.full((2**11, 1), LARGEST // 2**11 - 1)
    full = np.full((2**11, 1), (1 << LIMB_BITS) - 1)
    for numbers in (most, full):
        assert integers(limbs_of(numbers)).tolist() == [int(numbers.sum())]


@settings(deadline=None, max_examples=50)
@given(number=st.integers(0, LARGEST), shift=st.integers(-2, 2))
def test_limits_are_exact_to_the_unit(number, shift):
    limit = max(number + shift, 0)
    limbs = carry_digits([jnp.asarray(digit) for digit in digits(np.array([number]))])
    assert exceeds(limbs, limit).tolist() == [number > limit]


def test_a_limit_beyond_all_numbers_is_none():
    limbs = jax.jit(carry_digits)([jnp.asarray(digit) for digit in digits(np.array([LARGEST]))])
    assert not exceeds(limbs, 10**30)[0]


def test_integers_keep_the_shape_before_the_digits():
    numbers = np.arange(6, dtype=np.int64).reshape(2, 3) * 10**12
    stacked = carry_digits([jnp.asarray(digit) for digit in digits(numbers)])
    np.testing.assert_array_equal(integers(stacked), numbers)


@pytest.mark.parametrize("kind", ["NASNet cells", "NASNet masks", "MobileNets"])
def test_costs_inside_a_program_are_the_exact_ones_rounded(kind):
    small = {"channels": 8, "cells": 3, "image_size": 8, "image_channels": 1}
    space = {
        "NASNet cells": lambda: NASNetSpace(blocks=3, two_cells=False, **small),
        "NASNet masks": lambda: NASNetMasks(**small),
        "MobileNets": lambda: MobileNetSpace(
            stages=STAGES[:2], depths=(1, 2), widths=(0.5, 1.0), resolutions=(32, 48, 64)
        ),
    }[kind]()
    codes = np.asarray(space.random(jax.random.key(0), 64))
    codes = codes[np.asarray(space.valid(codes))]
    expected = np.stack(space.cost(codes), axis=1)
    np.testing.assert_allclose(jax.jit(space.traced_cost)(codes), expected, rtol=3e-7)
