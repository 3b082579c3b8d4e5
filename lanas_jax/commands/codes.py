"""Parsing of codes given as text on the command line."""

import re

import numpy as np

from lanas_jax.runtime.arithmetic import transfers_allowed
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.spaces.nasnet_masks import NASNetMasks


class CodeError(Exception):
    """Raised for a code that is not in its space, or for a setting that the space does not accept."""


@transfers_allowed
def read_code(text: str, space: SearchSpace) -> np.ndarray:
    """Parses a code such as ``2,2,0,1`` and checks it against its space; returns int32[dims].

    The text may also be the name of a code (`SearchSpace.named_codes`). In a space of masks it may be a mask: one zero
    or one per bit, separated by commas or written as one word.

    Raises:
      CodeError: the text is not a valid code; the message names the position, the value and the range.
    """
    words = [word for word in re.split(r"[\s,]+", text.strip("[]() \t")) if word]
    words = list(map(str, space.named_codes.get(text.strip(), words)))
    if isinstance(space, NASNetMasks) and len(words) == 1 and re.fullmatch("[01]+", words[0]):
        words = list(words[0])
    for position, word in enumerate(words):
        if not re.fullmatch(r"[+-]?\d{1,9}", word):
            raise CodeError(f"position {position} of the code is {word!r}, which is not an integer")
    if isinstance(space, NASNetMasks) and len(words) == space.bits:
        words = _code_of_mask(words, space)
    if len(words) != space.dims:
        or_mask = f", or a mask of {space.bits} bits" if isinstance(space, NASNetMasks) else ""
        raise CodeError(
            f"the code has {len(words)} integers, expected {space.dims}: "
            f"positions 0 ({space.choices[0].name}) to {space.dims - 1} ({space.choices[-1].name}){or_mask}"
        )
    try:
        codes = space.check([[int(word) for word in words]])
    except ValueError as error:
        raise CodeError(str(error).removeprefix("code 0: ")) from error
    if not np.asarray(space.valid(codes))[0]:
        raise CodeError("the code violates a rule or a cost limit of the space, although every integer is in range")
    return codes[0]


def _code_of_mask(bits: list[str], space: NASNetMasks) -> list[str]:
    """Returns the integers of the code of a mask.

    Raises:
      CodeError: the bits are not a mask of the space; the message says why.
    """
    try:
        (code,) = space.codes_of([[int(bit) for bit in bits]])
    except ValueError as error:
        raise CodeError(str(error).removeprefix("mask 0: ")) from error
    return list(map(str, code))
