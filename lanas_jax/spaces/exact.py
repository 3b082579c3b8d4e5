"""Exact sums of large integers on devices that count in 32 bits: numbers as digits of base ``2**LIMB_BITS``.

Costs of networks go into the billions, and hard limits on them must hold to the last multiply-add.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

LIMB_BITS = 20  # up to 2**11 digits may be added before they are carried
LARGEST = 2**62


def digits(numbers: np.ndarray) -> list[np.ndarray]:
    """Non-negative int64 as digits, least first, each int32 and of the shape of `numbers`."""
    mask = (1 << LIMB_BITS) - 1
    return [np.asarray((numbers >> shift) & mask, np.int32) for shift in range(0, 63, LIMB_BITS)]


def carried(sums: list[Array]) -> Int[Array, "... limbs"]:
    """Digits, least first, from sums of digits."""
    limbs, carry = [], jnp.zeros_like(sums[0])
    for total in sums:
        total = total + carry
        limbs.append(total % (1 << LIMB_BITS))
        carry = total >> LIMB_BITS
    return jnp.stack(limbs, axis=-1)


def exceeds(limbs: Int[Array, "n limbs"], limit: int) -> Bool[Array, " n"]:
    """Whether numbers in digits are above `limit`, which is not negative."""
    above = jnp.zeros(limbs.shape[0], bool)
    for position, digit in enumerate(digits(np.asarray(min(limit, LARGEST), np.int64))):
        above = (limbs[:, position] > digit) | ((limbs[:, position] == digit) & above)
    return above


def integers(limbs: Int[Array | np.ndarray, "... limbs"]) -> Int[np.ndarray, "..."]:
    """Numbers in digits as int64."""
    shifts = LIMB_BITS * np.arange(limbs.shape[-1])
    return (np.asarray(limbs, np.int64) << shifts).sum(axis=-1)
