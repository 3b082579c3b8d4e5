"""The NASNet space as masks: which operations of a supernet, that has all of them on all edges, a network keeps.

The one-shot experiments of arXiv 1906.06832 (section 5.2) search normal and reduction cell at once: five nodes, here
blocks, each of which adds two (input, operation) pairs. A mask has a bit for every pair of every block, in the order
cell, block, input, operation, and exactly two ones per block: 160 bits, 1.35e20 masks. A mask is the code of an
ordinary network of `lanas_jax/spaces/nasnet.py` and back, but for codes whose block holds one pair twice, which no mask
says. `models/nasnet/supernet.py` has the weights of all the pairs.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lanas_jax.spaces.base import Codes
from lanas_jax.spaces.nasnet import INPUT_NAMES, OPERATIONS, NASNetSpace

ONES = 2  # of each block


@dataclasses.dataclass(frozen=True, init=False)
class NASNetMasks(NASNetSpace):
    """NASNet cells, normal and reduction cell apart, whose blocks hold two different pairs of input and operation.

    Args:
      blocks: blocks per cell.
      sizes: other settings of `NASNetSpace`, but for `two_cells`.

    Raises:
      ValueError: as `NASNetSpace`.
    """

    def __init__(self, blocks: int = 5, **sizes: Any):
        super().__init__(blocks, two_cells=True, **sizes)

    @property
    def bits(self) -> int:
        """Length of a mask."""
        return len(self.cell_names) * int(self._starts[-1])

    @property
    def masks(self) -> int:
        """Number of masks; exact however large."""
        per_cell = math.prod(math.comb(int(pairs), ONES) for pairs in np.diff(self._starts))
        return per_cell ** len(self.cell_names)

    def mask(self, codes: Codes) -> Bool[Array, "n bits"]:
        """Which pairs a code holds."""
        codes = jnp.asarray(codes, jnp.int32)
        cells, starts = np.arange(len(self.cell_names), dtype=np.int32) * self._starts[-1], self._starts[:-1]
        first = (cells[:, None] + starts)[None, :, :, None]
        bit = first + self.inputs(codes) * len(OPERATIONS) + self.operations(codes)
        bit = bit.reshape(codes.shape[0], -1, 1)
        return (bit == np.arange(self.bits, dtype=np.int32)[None, None]).any(axis=1)

    def codes_of(self, masks: object) -> Int[np.ndarray, "n dims"]:
        """The canonical codes of masks, from outside; cost limits are not looked at.

        Args:
          masks: anything that NumPy reads as zeros and ones of shape ``[n, bits]``.

        Raises:
          ValueError: a wrong shape, something other than zeros and ones, or a block that has not exactly two ones.
        """
        array = self._check_masks(masks)
        columns = []
        for start, end in zip(self._starts[:-1], self._starts[1:], strict=True):
            columns.append(np.argwhere(array[:, :, start:end])[:, 2].reshape(*array.shape[:2], ONES))
        pairs = np.stack(columns, axis=2)  # [n, cells, blocks, 2], ascending
        codes = np.stack([pairs % len(OPERATIONS), pairs // len(OPERATIONS)], axis=2)
        return codes.reshape(len(array), -1).astype(np.int32)

    def valid(self, codes: Codes) -> Bool[Array, " n"]:
        """As in `NASNetSpace`, and the two branches of each block differ."""
        codes = jnp.asarray(codes, jnp.int32)
        return super().valid(codes) & self.differ(codes).all(axis=(1, 2))

    def differ(self, codes: Codes) -> Bool[Array | np.ndarray, "n cells blocks"]:
        """Whether the two branches of a block differ, in operation or input; NumPy codes give NumPy."""
        operations, inputs = self.operations(codes), self.inputs(codes)
        return (operations[..., 0] != operations[..., 1]) | (inputs[..., 0] != inputs[..., 1])

    @property
    def feature_names(self) -> tuple[str, ...]:
        """A name for each column of `features`."""
        return super().feature_names + tuple(
            f"{cell}: block {b}: {operation} of {source}"
            for cell in self.cell_names
            for b in range(self.blocks)
            for source in (*INPUT_NAMES, *(f"block {i}" for i in range(b)))
            for operation in OPERATIONS
        )

    def features(self, codes: Codes) -> Float[Array, "n d"]:
        """The features of `NASNetSpace`, then the mask."""
        return jnp.concatenate([super().features(codes), self.mask(codes).astype(jnp.float32)], axis=1)

    @property
    def _starts(self) -> Int[np.ndarray, " starts"]:
        """Where the bits of each block begin in those of a cell, and where the last ones end."""
        pairs = len(OPERATIONS) * np.arange(2, 2 + self.blocks, dtype=np.int32)
        return np.concatenate([[0], np.cumsum(pairs)]).astype(np.int32)

    def _check_masks(self, masks: object) -> Bool[np.ndarray, "n cells bits_of_cell"]:
        array = np.asarray(masks)
        if array.ndim != 2 or array.shape[1] != self.bits:
            raise ValueError(f"masks must have shape [n, {self.bits}], a bit per operation; got shape {array.shape}")
        wrong = np.argwhere((array != 0) & (array != 1))
        if len(wrong):
            row, bit = map(int, wrong[0])
            raise ValueError(f"mask {row}: bit {bit} holds {array[row, bit]}, expected 0 or 1")
        array = (array == 1).reshape(len(array), len(self.cell_names), -1)
        ones = np.add.reduceat(array, self._starts[:-1], axis=2, dtype=np.int32)
        bad = np.argwhere(ones != ONES)
        if len(bad):
            row, cell, block = map(int, bad[0])
            raise ValueError(
                f"mask {row}: block {block} of the {self.cell_names[cell]} holds {ones[row, cell, block]} ones, "
                f"expected exactly {ONES}: the operations that it adds"
            )
        return array
