"""The NASNet space as masks: subsets of the operations of a supernet, which has every operation on every edge.

The one-shot experiments of arXiv 1906.06832 (section 5.2) search the normal and the reduction cell together: five
nodes, here called blocks, that each add two (input, operation) pairs. A mask has one bit per pair of every block, in
the order cell, block, input, operation, and exactly two ones per block: 160 bits, 1.35e20 masks. Masks correspond to
canonical codes of `lanas_jax/spaces/nasnet.py`, except codes in which a block holds the same pair twice.
`models/nasnet/supernet.py` has the weights of all pairs.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lanas_jax.spaces.base import Codes
from lanas_jax.spaces.nasnet import INPUT_NAMES, OPERATIONS, NASNetSpace

ONES = 2  # ones per block


@dataclasses.dataclass(frozen=True, init=False)
class NASNetMasks(NASNetSpace):
    """Separate normal and reduction cells of NASNet, whose blocks have two different (input, operation) pairs.

    Args:
      blocks: number of blocks per cell.
      sizes: other settings of `NASNetSpace`, except `two_cells`.

    Raises:
      ValueError: if `NASNetSpace` rejects the settings.
    """

    def __init__(self, blocks: int = 5, **sizes: Any):
        super().__init__(blocks, two_cells=True, **sizes)

    @property
    def bits(self) -> int:
        """Length of a mask."""
        return len(self.cell_names) * int(self._starts[-1])

    @property
    def masks(self) -> int:
        """Exact number of masks."""
        per_cell = math.prod(math.comb(int(pairs), ONES) for pairs in np.diff(self._starts))
        return per_cell ** len(self.cell_names)

    def mask(self, codes: Codes) -> Bool[Array, "n bits"]:
        """Returns the masks of codes."""
        codes = jnp.asarray(codes, jnp.int32)
        cells, starts = np.arange(len(self.cell_names), dtype=np.int32) * self._starts[-1], self._starts[:-1]
        first = (cells[:, None] + starts)[None, :, :, None]
        bit = first + self.inputs(codes) * len(OPERATIONS) + self.operations(codes)
        bit = bit.reshape(codes.shape[0], self.dims // 2, 1)
        return (bit == np.arange(self.bits, dtype=np.int32)[None, None]).any(axis=1)

    def codes_of(self, masks: object) -> Int[np.ndarray, "n dims"]:
        """Checks masks and returns their canonical codes; ignores cost limits.

        Args:
          masks: zeros and ones of shape ``[n, bits]``, in any form that `numpy.asarray` accepts.

        Raises:
          ValueError: if the shape is wrong, an entry is not 0 or 1, or a block does not have exactly two ones.
        """
        array = self._check_masks(masks)
        columns = []
        for start, end in zip(self._starts[:-1], self._starts[1:], strict=True):
            columns.append(np.argwhere(array[:, :, start:end])[:, 2].reshape(*array.shape[:2], ONES))
        pairs = np.stack(columns, axis=2)  # [n, cells, blocks, 2], ascending
        codes = np.stack([pairs % len(OPERATIONS), pairs // len(OPERATIONS)], axis=2)
        return codes.reshape(len(array), self.dims).astype(np.int32)

    def valid(self, codes: Codes) -> Bool[Array, " n"]:
        """Returns which codes are valid in `NASNetSpace` and have different branches in each block."""
        codes = jnp.asarray(codes, jnp.int32)
        return super().valid(codes) & self.differ(codes).all(axis=(1, 2))

    def differ(self, codes: Codes) -> Bool[Array | np.ndarray, "n cells blocks"]:
        """Returns which blocks have branches that differ in operation or input; NumPy codes give a NumPy array."""
        operations, inputs = self.operations(codes), self.inputs(codes)
        return (operations[..., 0] != operations[..., 1]) | (inputs[..., 0] != inputs[..., 1])

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Name of each column of `features`."""
        return super().feature_names + tuple(
            f"{cell}: block {b}: {operation} of {source}"
            for cell in self.cell_names
            for b in range(self.blocks)
            for source in (*INPUT_NAMES, *(f"block {i}" for i in range(b)))
            for operation in OPERATIONS
        )

    def features(self, codes: Codes) -> Float[Array, "n d"]:
        """Returns the features of `NASNetSpace`, then the mask."""
        return jnp.concatenate([super().features(codes), self.mask(codes).astype(jnp.float32)], axis=1)

    @property
    def _starts(self) -> Int[np.ndarray, " starts"]:
        """First bit of each block within a cell, and the number of bits per cell."""
        pairs = len(OPERATIONS) * np.arange(2, 2 + self.blocks, dtype=np.int32)
        return np.concatenate([[0], np.cumsum(pairs)]).astype(np.int32)

    def _check_masks(self, masks: object) -> Bool[np.ndarray, "n cells bits_of_cell"]:
        array = np.asarray(masks)
        if array.ndim != 2 or array.shape[1] != self.bits:
            raise ValueError(f"masks must have shape [n, {self.bits}], one bit per operation; got shape {array.shape}")
        wrong = np.argwhere((array != 0) & (array != 1))
        if len(wrong):
            row, bit = map(int, wrong[0])
            raise ValueError(f"mask {row}: bit {bit} holds {array[row, bit]}, expected 0 or 1")
        array = (array == 1).reshape(len(array), len(self.cell_names), self._starts[-1])
        ones = np.add.reduceat(array, self._starts[:-1], axis=2, dtype=np.int32)
        bad = np.argwhere(ones != ONES)
        if len(bad):
            row, cell, block = map(int, bad[0])
            raise ValueError(
                f"mask {row}: block {block} of the {self.cell_names[cell]} holds {ones[row, cell, block]} ones, "
                f"expected exactly {ONES}, the operations the block adds"
            )
        return array
