"""The stack of cells from stem to head, shared by the two NASNet networks that take the code as data.

`models/nasnet/candidate.py` has weights for the branches of one code, `models/nasnet/supernet.py` for all operations on
all edges. Both have one stem, one 1x1 convolution for each block of a cell's input, one head, and rows of weights for a
cell's branches, as read by `models/nasnet/cell.py`. They pass to this stack the existing rows and the rows that each
branch reads.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Int, PRNGKeyArray

from lanas_jax.models import layers
from lanas_jax.models.layers.initial import draw_weights
from lanas_jax.models.layers.norm import identity_norm, initial_stats, norm
from lanas_jax.models.nasnet import branchless_cell, cell
from lanas_jax.models.nasnet.cell import Branches, Mode
from lanas_jax.spaces.nasnet import OPERATIONS, SEP_CONV_3X3, SEP_CONV_5X5, NASNetCellShape, NASNetSpace

Tree = dict[str, Any]
Code = Int[Array | np.ndarray, " dims"]
AnyBool = Bool[Array | np.ndarray, "..."]

PIXELS = np.zeros((len(OPERATIONS), 5, 5), bool)  # pixels of the depthwise kernel that each operation uses
PIXELS[SEP_CONV_3X3, 1:4, 1:4] = True
PIXELS[SEP_CONV_5X5] = True


@dataclasses.dataclass(frozen=True)
class Stack:
    """The stack of a space.

    Attributes:
      space: search space, which defines the sizes.
      compute_dtype: dtype of activations and convolutions; parameters are always float32.
      weight_standardisation: True to standardise the kernels of 1x1 convolutions.
      branchless: True to compute all operations and select, without control flow; False to run the selected ones only.
    """

    space: NASNetSpace
    compute_dtype: DTypeLike
    weight_standardisation: bool
    branchless: bool = False

    def init(
        self, key: PRNGKeyArray, code: Code | None, branches: Callable[[NASNetCellShape], tuple[AnyBool, AnyBool]]
    ) -> tuple[Tree, Tree]:
        """Returns initial weights and batch statistics.

        Args:
          key: PRNG key; consumed.
          code: architecture, may be traced; weights for blocks that it does not concatenate are zero and do not count
            in the fan-in. None: all blocks count.
          branches: function from a cell to the masks of its rows of weights, ``bool[*rows]``, and of the pixels of its
            depthwise kernels, ``bool[*rows, 5, 5]``; masked weights are zero.
        """
        space = self.space
        used = [branches(shape) for shape in space.shapes]
        noise = draw_weights(key, self._kernel_shapes([rows.shape for rows, _ in used]))
        stem = _scaled(noise["stem"], 2 / (9 * space.image_channels))
        mask, channels = self._parts(code, space.cells - 1)
        head = _keep(_scaled(noise["head"], 1 / (mask.sum() * channels)), mask)
        cells = zip(noise["cells"], space.shapes, used, strict=True)
        params = {
            "stem": {"kernel": stem, **identity_norm(stem.shape[-1:])},
            "cells": [self._init_cell(cell, shape, code, *rows) for cell, shape, rows in cells],
            "head": {"kernel": head, "bias": jnp.zeros(space.classes)},
        }
        return params, self.init_stats([rows.shape for rows, _ in used])

    def init_stats(self, rows: Sequence[tuple[int, ...]]) -> Tree:
        """Returns initial batch statistics for the given shapes of rows in each cell."""
        space = self.space
        cells = [
            {
                "inputs": [initial_stats((shape.channels,)) for _ in shape.sources],
                "branches": initial_stats((*lead, shape.channels)),
            }
            for shape, lead in zip(space.shapes, rows, strict=True)
        ]
        return {"stem": initial_stats((space.stem_multiplier * space.channels,)), "cells": cells}

    def apply(
        self,
        params: Tree,
        batch_stats: Tree,
        code: Code,
        rows: Callable[[NASNetCellShape], Int[Array | np.ndarray, "branches 2"]],
        images: Float[Array, "n h w c"],
        *,
        train: bool,
    ) -> tuple[Float32[Array, "n classes"], Tree]:
        """Runs the network of a code, which may be traced.

        Args:
          params: weights, with ``[rows, ...]`` for branches.
          batch_stats: running means and variances, with ``[rows, ...]`` for branches.
          code: architecture, ``int32[dims]``.
          rows: function from a cell to the two rows that each branch reads.
          images: batch with the image size and channels of the space.
          train: True to normalise by the statistics of the batch, False by running statistics.

        Returns:
          Logits and updated batch statistics (unchanged unless training).
        """
        space = self.space
        codes = jnp.asarray(code, jnp.int32)[None]
        operations = space.operations(codes)[0].reshape(-1, 2 * space.blocks)
        sources = space.inputs(codes)[0].reshape(-1, 2 * space.blocks)
        x = layers.convolution(images.astype(self.compute_dtype), params["stem"]["kernel"])
        x, stem_stats = norm(x, params["stem"], batch_stats["stem"], train)
        outputs, new_stats = {-1: x[None]}, []
        run_cell, skip = (branchless_cell.run_cell, False) if self.branchless else (cell.run_cell, not train)
        for i, shape in enumerate(space.shapes):
            weights, stats = params["cells"][i], batch_stats["cells"][i]
            inputs, input_stats = [], []
            for j, source in enumerate(shape.sources):
                own, halve = weights["inputs"][j], j == 0 and shape.after_reduction
                kernel, (mask, _) = self._input_kernel(own["kernel"], code, source), self._parts(code, source)
                y, y_stats = _preprocess(outputs[source], kernel, mask, own, stats["inputs"][j], halve, train, skip)
                inputs.append(y)
                input_stats.append(y_stats)
            blocks, branch_stats = run_cell(
                jnp.stack(inputs),
                weights["branches"],
                stats["branches"],
                Branches(operations[shape.cell], sources[shape.cell], rows(shape)),
                Mode(shape.reduction, train, self.weight_standardisation),
            )
            outputs[i] = blocks
            new_stats.append({"inputs": input_stats, "branches": branch_stats})
        mask, _ = self._parts(code, space.cells - 1)
        pooled = jnp.mean(_concatenated(outputs[space.cells - 1][-space.blocks :]).astype(jnp.float32), axis=(1, 2))
        logits = pooled @ _matrix(params["head"]["kernel"], mask) + params["head"]["bias"][None]
        return logits, {"stem": stem_stats, "cells": new_stats}

    def _input_kernel(self, kernel: Float[Array, "parts c d"], code: Code, source: int) -> Float[Array, "parts c d"]:
        """Returns the 1x1 kernel for the output of the cell `source`; zero for blocks not in that output."""
        mask, channels = self._parts(code, source)
        if not self.weight_standardisation:
            return _keep(kernel, mask)
        return layers.standardise(_matrix(kernel, mask), jnp.repeat(mask, channels)).reshape(kernel.shape)

    def _parts(self, code: Code | None, source: int) -> tuple[Bool[Array, " parts"], int]:
        """Returns the mask of the blocks in a cell's output (-1: the stem) and the channels of each."""
        if source < 0:
            return jnp.ones(1, bool), self.space.stem_multiplier * self.space.channels
        shape = self.space.shapes[source]
        if code is None:
            return jnp.ones(self.space.blocks, bool), shape.channels
        return jnp.asarray(self.space.concatenated(jnp.asarray(code)[None])[0, shape.cell]), shape.channels

    def _kernel_shapes(self, rows: Sequence[tuple[int, ...]]) -> Tree:
        space = self.space
        stem = space.stem_multiplier * space.channels

        def parts(source: int) -> tuple[int, int]:
            return (1, stem) if source < 0 else (space.blocks, space.shapes[source].channels)

        cells = [
            {
                "inputs": [(*parts(source), shape.channels) for source in shape.sources],
                "depthwise": (*lead, 5, 5, shape.channels),
                "pointwise": (*lead, shape.channels, shape.channels),
            }
            for shape, lead in zip(space.shapes, rows, strict=True)
        ]
        return {
            "stem": (3, 3, space.image_channels, stem),
            "cells": cells,
            "head": (*parts(space.cells - 1), space.classes),
        }

    def _init_cell(
        self, noise: Tree, shape: NASNetCellShape, code: Code | None, rows: AnyBool, pixels: AnyBool
    ) -> Tree:
        inputs = []
        for source, kernel in zip(shape.sources, noise["inputs"], strict=True):
            mask, channels = self._parts(code, source)
            kernel = _keep(_scaled(kernel, 2 / (mask.sum() * channels)), mask)
            inputs.append({"kernel": kernel, **identity_norm((shape.channels,))})
        fan_in = jnp.maximum(jnp.asarray(pixels).sum(axis=(-2, -1)), 1)[..., None, None, None]
        branches = {
            "depthwise": _keep(_scaled(noise["depthwise"], 2 / fan_in), pixels),
            "pointwise": _keep(_scaled(noise["pointwise"], 2 / shape.channels), rows),
        }
        weights = identity_norm((*rows.shape, shape.channels))
        branches |= {name: _keep(value, rows) for name, value in weights.items()}
        return {"inputs": inputs, "branches": branches}


def map_branches(change: Callable[[Any, int], Any], tree: Tree) -> Tree:
    """Maps ``change(array, i)`` over the branch arrays of each cell ``i`` in weights or statistics."""
    cells = [
        cell | {"branches": {name: change(x, i) for name, x in cell["branches"].items()}}
        for i, cell in enumerate(tree["cells"])
    ]
    return tree | {"cells": cells}


def _concatenated(blocks: Float[Array, "blocks n h w c"]) -> Float[Array, "n h w bc"]:
    """Concatenates all blocks; the kernel that reads them is zero for blocks not in the cell's output."""
    blocks = jnp.moveaxis(blocks, 0, 3)
    return blocks.reshape(*blocks.shape[:3], -1)


def _preprocess(
    x: Float[Array, "slots n h w c"],
    kernel: Float[Array, "parts c d"],
    mask: Bool[Array, " parts"],
    weights: Tree,
    stats: Tree,
    halve: bool,
    train: bool,
    skip_unused: bool,
) -> tuple[Float[Array, "n h2 w2 d"], Tree]:
    """Applies ReLU, 1x1 convolution (with `halve`, at half the resolution) and normalisation to the last slots.

    With `skip_unused`, a loop computes the products of the blocks in the mask only; it cannot be differentiated.
    """
    product = layers.factorised_reduce if halve else layers.pointwise
    if not skip_unused or len(kernel) == 1:
        x = _concatenated(jax.nn.relu(x[-len(kernel) :]))
        return norm(product(x, kernel.reshape(-1, kernel.shape[2])), weights, stats, train)
    return norm(_sum_of_products(product, x, kernel, mask), weights, stats, train)


def _sum_of_products(
    product: Callable[[Array, Array], Array],
    x: Float[Array, "slots n h w c"],
    kernel: Float[Array, "parts c d"],
    mask: Bool[Array, " parts"],
) -> Float[Array, "n h2 w2 d"]:
    """Sums the products of all blocks in the mask, at least one; other blocks cost nothing. Not differentiable."""
    order, first = jnp.argsort(~mask, stable=True), len(x) - len(kernel)

    def part(i: Array | int) -> Float32[Array, "n h2 w2 d"]:
        return product(jax.nn.relu(x[first + order[i]]), kernel[order[i]]).astype(jnp.float32)

    count = jnp.sum(mask, dtype=jnp.int32)
    return lax.fori_loop(1, count, lambda i, total: total + part(i), part(0)).astype(x.dtype)


def _matrix(kernel: Float[Array, "parts c d"], mask: Bool[Array, " parts"]) -> Float[Array, "pc d"]:
    """Returns the matrix for all concatenated blocks; zero for blocks not in the cell's output."""
    return _keep(kernel, mask).reshape(-1, kernel.shape[-1])


def _keep(x: Array, mask: AnyBool) -> Array:
    """Sets `x` to zero where the mask, which lacks the trailing axes of `x`, is False."""
    return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), x, 0)


def _scaled(noise: Array, variance: float | Array) -> Array:
    return noise * jnp.sqrt(jnp.asarray(variance, jnp.float32))
