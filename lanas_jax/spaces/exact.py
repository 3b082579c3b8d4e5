"""Exact sums of large integers in 32-bit arithmetic: numbers as digits of base ``2**LIMB_BITS``.

Costs of networks exceed 32 bits, and hard limits on them must hold exactly.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

LIMB_BITS = 20  # up to 2**11 digits can be added before carrying
LARGEST = 2**62


def check_countable(multiply_adds: float, parameters: float) -> None:
    """Checks that int64 numbers hold the costs of the largest network of a space.

    Args:
      multiply_adds: multiply-adds of its forward pass.
      parameters: number of its trainable parameters.

    Raises:
      ValueError: a cost exceeds `LARGEST`.
    """
    for name, number in (("multiply-adds", multiply_adds), ("parameters", parameters)):
        if number > LARGEST:
            about = f"some 1e{len(str(int(number))) - 1}"
            raise ValueError(
                f"the largest network of the space has more {name} ({about}) than can be counted (2**62): choose "
                f"smaller sizes"
            )


def digits(numbers: np.ndarray) -> list[np.ndarray]:
    """Returns the digits of non-negative int64 numbers, least significant first, each int32 and shaped as `numbers`."""
    mask = (1 << LIMB_BITS) - 1
    return [np.asarray((numbers >> shift) & mask, np.int32) for shift in range(0, 63, LIMB_BITS)]


def carry_digits(sums: list[Array]) -> Int[Array, "... limbs"]:
    """Carries sums of digits; returns the digits, least significant first."""
    limbs, carry = [], jnp.zeros_like(sums[0])
    for total in sums:
        total = total + carry
        limbs.append(total % (1 << LIMB_BITS))
        carry = total >> LIMB_BITS
    return jnp.stack(limbs, axis=-1)


def exceeds(limbs: Int[Array, "n limbs"], limit: int) -> Bool[Array, " n"]:
    """Returns which numbers, given as digits, are above the non-negative `limit`."""
    above = jnp.zeros(limbs.shape[0], bool)
    for position, digit in enumerate(digits(np.asarray(min(limit, LARGEST), np.int64))):
        above = (limbs[:, position] > digit) | ((limbs[:, position] == digit) & above)
    return above


def nearest_floats(limbs: Int[Array, "... limbs"]) -> Float[Array, "..."]:
    """Converts digits to numbers in float32; traceable, with a relative error of at most 2**-22."""
    numbers = limbs[..., -1].astype(jnp.float32)
    for position in range(limbs.shape[-1] - 2, -1, -1):
        numbers = numbers * float(1 << LIMB_BITS) + limbs[..., position].astype(jnp.float32)
    return numbers


def integers(limbs: Int[Array | np.ndarray, "... limbs"]) -> Int[np.ndarray, "..."]:
    """Converts digits to int64 numbers."""
    shifts = LIMB_BITS * np.arange(limbs.shape[-1])
    return (np.asarray(limbs, np.int64) << shifts).sum(axis=-1)
