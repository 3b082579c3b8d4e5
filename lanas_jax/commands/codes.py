"""Codes from text, as commands take them."""

import re

import numpy as np

from lanas_jax.spaces.base import SearchSpace
from lanas_jax.spaces.nasnet_masks import NASNetMasks


class CodeError(Exception):
    """A code that its space does not have, or a setting that it does not take."""


def read_code(text: str, space: SearchSpace) -> np.ndarray:
    """A code from text such as ``2,2,0,1``, checked against its space; int32[dims].

    Where the space has masks, one of them may stand for its code: zeros and ones, as many as the mask has bits, with
    commas or as one word. So may a name of a code (`SearchSpace.named_codes`).

    Raises:
      CodeError: names the position, the value and the range.
    """
    words = [word for word in re.split(r"[\s,]+", text.strip("[]() \t")) if word]
    words = list(map(str, space.named_codes.get(text.strip(), words)))
    if isinstance(space, NASNetMasks) and len(words) == 1 and re.fullmatch("[01]+", words[0]):
        words = list(words[0])
    for position, word in enumerate(words):
        if not re.fullmatch(r"[+-]?\d{1,9}", word):
            raise CodeError(f"position {position} of the code holds {word!r}, which is not an integer")
    if isinstance(space, NASNetMasks) and len(words) == space.bits:
        words = _code_of_mask(words, space)
    if len(words) != space.dims:
        or_mask = f"; or the {space.bits} bits of a mask" if isinstance(space, NASNetMasks) else ""
        raise CodeError(
            f"the code has {len(words)} integers, expected {space.dims}: "
            f"positions 0 ({space.choices[0].name}) to {space.dims - 1} ({space.choices[-1].name}){or_mask}"
        )
    try:
        codes = space.check([[int(word) for word in words]])
    except ValueError as error:
        raise CodeError(str(error).removeprefix("code 0: ")) from error
    if not np.asarray(space.valid(codes))[0]:
        raise CodeError("every integer is in range, but the space does not allow this code (a rule or a cost limit)")
    return codes[0]


def _code_of_mask(bits: list[str], space: NASNetMasks) -> list[str]:
    """The integers of its code.

    Raises:
      CodeError: not a mask of the space; says what is wrong.
    """
    try:
        (code,) = space.codes_of([[int(bit) for bit in bits]])
    except ValueError as error:
        raise CodeError(str(error).removeprefix("mask 0: ")) from error
    return list(map(str, code))
