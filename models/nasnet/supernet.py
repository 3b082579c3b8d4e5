"""The one-shot supernet of the NASNet space: every operation on every edge; a mask selects two per block.

As in section 5.2 of arXiv 1906.06832, all networks of the space share the weights of one. A mask is given as its code
(`lanas_jax/spaces/nasnet_masks.py`), which is data: one compiled program runs every network, and operations that are
off are not computed. Each operation has its own weights per cell, block and input. All masks share the stem, the 1x1
convolutions on cells' inputs (one per block of an input) and the head. The stack is that of `models/nasnet/stack.py`;
the weights that a mask uses form an ordinary network of `models/nasnet/final.py`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Int, PRNGKeyArray

from lanas_jax.models import layers
from lanas_jax.models.functional import arrays
from lanas_jax.models.layers.norm import batch_statistics
from lanas_jax.models.nasnet.candidate import NASNet
from lanas_jax.models.nasnet.cell import halves_with_weights
from lanas_jax.models.nasnet.final import FinalNASNet
from lanas_jax.models.nasnet.stack import PIXELS, Code, Stack, Tree, map_branches
from lanas_jax.spaces.nasnet import OPERATIONS, NASNetCellShape
from lanas_jax.spaces.nasnet_masks import NASNetMasks


@dataclasses.dataclass(frozen=True)
class NASNetSupernet:
    """The supernet of a space.

    Args:
      space: space of masks, which defines the sizes of the networks.
      compute_dtype: float32, or bfloat16 for activations and convolutions; parameters are always float32.
      weight_standardisation: True to standardise the kernels of 1x1 convolutions over the inputs that the mask uses, as
        in `NASNet`.

    Raises:
      ValueError: the dtype is neither float32 nor bfloat16.
    """

    space: NASNetMasks
    compute_dtype: DTypeLike = jnp.float32
    weight_standardisation: bool = False

    def __post_init__(self) -> None:
        layers.check_compute_dtype(self.compute_dtype)

    def init(self, key: PRNGKeyArray) -> tuple[Tree, Tree]:
        """Returns initial weights and batch statistics of all operations. The key is consumed.

        Convolutions are normal with variance ``2 / fan_in``, the head with ``1 / fan_in``; fan-in counts all blocks of
        an input, although a mask concatenates only some of them.

        Returns:
          Parameters and batch statistics in the layout of `NASNet.init`, except for branches, ``[rows, ...]``: one row
          for each of the two halves of a separable convolution and for each skip of stride 2.
        """
        return self._stack.init(key, None, lambda shape: _rows_used(self.space.blocks, shape.reduction))

    def apply(
        self, params: Tree, batch_stats: Tree, code: Code, images: Float[Array, "n h w c"], *, train: bool
    ) -> tuple[Float32[Array, "n classes"], Tree]:
        """Runs the network of one code; `code` may be traced.

        Args:
          params: weights in the layout of `init`.
          batch_stats: running means and variances in the layout of `init`.
          code: architecture, ``int32[dims]``.
          images: batch with the image size and channels of the space.
          train: True to normalise by the statistics of the batch, False by running statistics.

        Returns:
          Logits and updated batch statistics: training updates only the statistics that the code uses.
        """
        rows = functools.partial(self._rows, jnp.asarray(code, jnp.int32))
        return self._stack.apply(params, batch_stats, code, rows, images, train=train)

    def statistics(self, params: Tree, code: Code, images: Float[Array, "n h w c"]) -> Tree:
        """Returns `batch_statistics` of one code, which may be traced."""
        rows = [(len(_rows_used(self.space.blocks, shape.reduction)[0]),) for shape in self.space.shapes]
        stats = jax.eval_shape(lambda: self._stack.init_stats(rows))
        return batch_statistics(lambda stats: self.apply(params, stats, code, images, train=True)[1], stats)

    def extract(self, params: Tree, batch_stats: Tree, code: Code) -> tuple[Tree, Tree]:
        """Returns the weights and batch statistics that a code uses, in the layout of its `standalone` network.

        Raises:
          ValueError: the code has the wrong length, an integer out of range, or a block with two equal branches.
        """
        code = self._check(code)
        params, batch_stats = (
            map_branches(lambda x, i: x[self._rows(code, self.space.shapes[i])], tree) for tree in (params, batch_stats)
        )
        network = self._networks.specialise(params, batch_stats, code)
        return arrays(network, nnx.Param), arrays(network, nnx.BatchStat)

    def standalone(self, code: Code) -> FinalNASNet:
        """Returns the network of a code as a separate network; the weights from `extract` give the same outputs.

        Raises:
          ValueError: see `extract`.
        """
        return FinalNASNet(self._networks, self._check(code), auxiliary=False)

    @property
    def _networks(self) -> NASNet:
        return NASNet(self.space, self.compute_dtype, self.weight_standardisation)

    @property
    def _stack(self) -> Stack:
        return Stack(self.space, self.compute_dtype, self.weight_standardisation)

    def _rows(self, code: Code, shape: NASNetCellShape) -> Int[Array | np.ndarray, "branches 2"]:
        """Returns the rows that a cell's branches read; arbitrary without weights. NumPy codes give NumPy arrays."""
        operations = self.space.operations(code[None])[0, shape.cell].reshape(-1)
        sources = self.space.inputs(code[None])[0, shape.cell].reshape(-1)
        table = _row_table(self.space.blocks, shape.reduction)
        blocks = np.arange(2 * self.space.blocks, dtype=np.int32) // 2
        return (table if isinstance(code, np.ndarray) else jnp.asarray(table))[blocks, sources, operations]

    def _check(self, code: Code) -> Int[np.ndarray, " dims"]:
        codes = self.space.check(np.asarray(code)[None])
        repeated = np.argwhere(~np.asarray(self.space.differ(codes)[0]))
        if len(repeated):
            cell, block = map(int, repeated[0])
            raise ValueError(
                f"block {block} of the {self.space.cell_names[cell]} has the same operation on the same input "
                "twice; expected two different branches"
            )
        return codes[0]


@functools.cache
def _row_table(blocks: int, reduction: bool) -> Int[np.ndarray, "blocks sources operations 2"]:
    """Returns the row of each half of each operation on each input of each block; 0 for halves without weights."""
    halves = _halves(blocks, reduction)
    table = np.zeros(halves.shape, np.int32)
    table[halves] = np.arange(halves.sum())
    return table


def _halves(blocks: int, reduction: bool) -> Bool[np.ndarray, "blocks sources operations 2"]:
    """Returns which halves of each operation on each input of each block have weights."""
    block, source, operation = np.ogrid[:blocks, : blocks + 1, : len(OPERATIONS)]
    halves = (half & (source < block + 2) for half in halves_with_weights(operation, source, reduction))
    return np.stack(np.broadcast_arrays(*halves), axis=-1)


@functools.cache
def _rows_used(blocks: int, reduction: bool) -> tuple[Bool[np.ndarray, " rows"], Bool[np.ndarray, "rows 5 5"]]:
    """Returns the masks for `Stack.init`: all rows, and the pixels of their depthwise kernels."""
    operation = np.nonzero(_halves(blocks, reduction))[2]
    return np.ones(len(operation), bool), PIXELS[operation]
