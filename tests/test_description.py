"""Codes from text."""

import numpy as np
import pytest

from lanas_jax.description import CodeError, read_code
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
    with pytest.raises(CodeError, match=r"has 159 integers, expected 40: .*; or the 160 bits of a mask"):
        read_code(text[1:], SPACE)
    with pytest.raises(CodeError, match=r"^block 0 of the normal cell holds 3 ones, expected exactly 2"):
        read_code("1" + text[1:], SPACE)
    with pytest.raises(CodeError, match=r"^bit 0 holds 7, expected 0 or 1"):
        read_code(",".join("7" + text[1:]), SPACE)


def test_a_code_that_is_no_mask_is_refused():
    with pytest.raises(CodeError, match="does not allow this code"):
        read_code(",".join("0" * 40), SPACE)
