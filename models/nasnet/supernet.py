"""The one-shot supernet of the NASNet space: every operation on every edge, of which a mask takes two for each block.

As in section 5.2 of arXiv 1906.06832, all networks of the space share the weights of one. A mask comes as its code
(`lanas_jax/spaces/nasnet_masks.py`), which is data: one compiled program runs every network, and an operation that is
off is not computed. What is on reads the weights of its own cell of the stack, block, input and operation; stem,
1x1 convolutions on cells' inputs (each part of an input has its own) and head are shared by all masks. The stack is
that of `models/nasnet/stack.py`; the weights that a mask uses make an ordinary network of `models/nasnet/final.py`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Int, PRNGKeyArray

from lanas_jax.spaces.nasnet import OPERATIONS, SEP_CONV_3X3, SEP_CONV_5X5, SKIP_CONNECT, NASNetCellShape
from lanas_jax.spaces.nasnet_masks import NASNetMasks
from models import layers
from models.functional import arrays
from models.nasnet.candidate import NASNet
from models.nasnet.final import FinalNASNet
from models.nasnet.stack import Code, Stack, Tree, map_branches


@dataclasses.dataclass(frozen=True)
class NASNetSupernet:
    """The supernet of a space.

    Args:
      space: says which masks there are, and how large the networks are.
      compute_dtype: float32, or bfloat16 for activations and convolutions; parameters are float32 in any case.
      weight_standardisation: whether 1x1 convolutions standardise their kernels, as in `NASNet`: over the inputs that
        the mask uses.

    Raises:
      ValueError: another dtype.
    """

    space: NASNetMasks
    compute_dtype: DTypeLike = jnp.float32
    weight_standardisation: bool = False

    def __post_init__(self) -> None:
        layers.check_compute_dtype(self.compute_dtype)

    def init(self, key: PRNGKeyArray) -> tuple[Tree, Tree]:
        """Weights and batch statistics of all operations. The key is consumed.

        Convolutions are normal with variance ``2 / fan_in``, the head with ``1 / fan_in``, where fan-in counts all
        blocks of what is read, although a mask concatenates but some of them.

        Returns:
          Parameters and batch statistics as `NASNet.init` gives them, but for branches, ``[rows, ...]``: a row for each
          of the two halves of a separable convolution and for each skip that halves.
        """
        return self._stack.init(key, None, lambda shape: _rows_used(self.space.blocks, shape.reduction))

    def apply(
        self, params: Tree, batch_stats: Tree, code: Code, images: Float[Array, "n h w c"], *, train: bool
    ) -> tuple[Float32[Array, "n classes"], Tree]:
        """Runs the network of `code`, which may be traced.

        Args:
          params: weights, as `init` gives them.
          batch_stats: running means and variances, as `init` gives them.
          code: the architecture.
          images: a batch of the space's image size and channels.
          train: whether to normalise by the statistics of the batch, else by the running ones.

        Returns:
          Logits, and the batch statistics that follow: when training, those that the code uses move.
        """
        rows = functools.partial(self._rows, jnp.asarray(code, jnp.int32))
        return self._stack.apply(params, batch_stats, code, rows, images, train=train)

    def statistics(self, params: Tree, code: Code, images: Float[Array, "n h w c"]) -> Tree:
        """Means and variances of one batch alone, by the code, which may be traced; zero for what it does not use.

        The running statistics mix all networks that were trained; those of one network are such means over batches.
        """
        rows = [(len(_rows_used(self.space.blocks, shape.reduction)[0]),) for shape in self.space.shapes]
        zeros = jax.tree.map(jnp.zeros_like, self._stack.init_stats(rows))
        _, moved = self.apply(params, zeros, code, images, train=True)
        return jax.tree.map(lambda x: x / (1 - layers.MOMENTUM), moved)

    def extract(self, params: Tree, batch_stats: Tree, code: Code) -> tuple[Tree, Tree]:
        """The weights and statistics that a code uses, as those of its `standalone` network.

        Raises:
          ValueError: a code of the wrong length, an integer out of range, or a block whose branches are the same.
        """
        code = self._check(code)
        params, batch_stats = (
            map_branches(lambda x, i: x[self._rows(code, self.space.shapes[i])], tree) for tree in (params, batch_stats)
        )
        network = self._networks.specialise(params, batch_stats, code)
        return arrays(network, nnx.Param), arrays(network, nnx.BatchStat)

    def standalone(self, code: Code) -> FinalNASNet:
        """The network of a code on its own; with what `extract` gives it has the same outputs.

        Raises:
          ValueError: as `extract`.
        """
        return FinalNASNet(self._networks, self._check(code), auxiliary=False)

    @property
    def _networks(self) -> NASNet:
        return NASNet(self.space, self.compute_dtype, self.weight_standardisation)

    @property
    def _stack(self) -> Stack:
        return Stack(self.space, self.compute_dtype, self.weight_standardisation)

    def _rows(self, code: Code, shape: NASNetCellShape) -> Int[Array | np.ndarray, "branches 2"]:
        """Of weights, that the branches of a cell read; of branches without weights, any. NumPy codes give NumPy."""
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
                f"block {block} of the {self.space.cell_names[cell]} adds one operation on one input twice; "
                "expected two different ones"
            )
        return codes[0]


@functools.cache
def _row_table(blocks: int, reduction: bool) -> Int[np.ndarray, "blocks sources operations 2"]:
    """Which rows the halves of each operation on each input of each block have; 0 where there is none."""
    halves = _halves(blocks, reduction)
    table = np.zeros(halves.shape, np.int32)
    table[halves] = np.arange(halves.sum())
    return table


def _halves(blocks: int, reduction: bool) -> Bool[np.ndarray, "blocks sources operations 2"]:
    """Which halves have weights: both of separable convolutions, the first of skips that halve."""
    block, source, operation, half = np.ogrid[:blocks, : blocks + 1, : len(OPERATIONS), :2]
    separable = (operation == SEP_CONV_3X3) | (operation == SEP_CONV_5X5)
    skip_reduce = (operation == SKIP_CONNECT) & (source < 2) & (half == 0) & reduction
    return (source < block + 2) & (separable | skip_reduce)


@functools.cache
def _rows_used(blocks: int, reduction: bool) -> tuple[Bool[np.ndarray, " rows"], Bool[np.ndarray, "rows 5 5"]]:
    """For `Stack.init`: all rows, and the pixels of their depthwise kernels."""
    operation = np.nonzero(_halves(blocks, reduction))[2]
    pixels = np.zeros((len(operation), 5, 5), bool)
    pixels[operation == SEP_CONV_5X5] = True
    pixels[operation == SEP_CONV_3X3, 1:4, 1:4] = True
    return np.ones(len(operation), bool), pixels
