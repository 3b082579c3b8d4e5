"""The NASNet space: cells of blocks, each block the sum of two operations on two inputs.

Section 5.1 of arXiv 1906.06832 searches the cells of NASNet (arXiv 1707.07012) over four operations. A block applies
one operation to each of its two inputs and adds the results. An input is one of the two previous cells or an earlier
block of the same cell. The cell's output is the concatenation of the block outputs that no block reads. Cells are
stacked as in the evaluation network of DARTS (arXiv 1806.09055): two reduction cells, at a third and two thirds of the
depth, halve the resolution and double the channels. `models/nasnet/candidate.py` builds the network.

A code holds, for each searched cell, ``2 B`` operations (two per block) and then ``2 B`` inputs (two per block). Input
0 is the output of the cell before the last, 1 the output of the last cell, ``2 + i`` the output of block ``i``. The
published space has one cell of seven blocks, used as normal and as reduction cell: 28 integers.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lanas_jax.runtime.numbers import whole_number
from lanas_jax.spaces.base import CellGraph, Codes, Cost, LimitedCost, SearchSpace
from lanas_jax.spaces.choices import Choice
from lanas_jax.spaces.exact import carry_digits, check_countable, digits, exceeds, nearest_floats
from lanas_jax.spaces.feature_scale import feature_scale

OPERATIONS = ("sep_conv_3x3", "max_pool_3x3", "skip_connect", "sep_conv_5x5")
SEP_CONV_3X3, MAX_POOL_3X3, SKIP_CONNECT, SEP_CONV_5X5 = range(4)
# Costs count the branches of a cell in sums that hold numbers below 2**7; more cells would take minutes to list.
LARGEST = {"blocks": 63, "cells": 1_000}
INPUT_NAMES = ("cell before last", "last cell")


class NASNetCellShape(NamedTuple):
    """Shape of one cell of the stack, determined by its position in the network."""

    cell: int  # index of the code's cell it is built from
    reduction: bool  # True for a reduction cell, which halves the resolution
    after_reduction: bool  # True after a reduction cell, where input 0 is twice as large as input 1
    channels: int  # channels of each block's output
    input_size: int  # height and width of input 1, and of both inputs after preprocessing
    output_size: int  # height and width of the block outputs
    sources: tuple[int, int]  # indices of the cells read as inputs 0 and 1; -1 is the stem


@dataclasses.dataclass(frozen=True)
class NASNetSpace(SearchSpace):
    """NASNet cells and the network of stacked cells.

    Args:
      blocks: number of blocks per cell.
      two_cells: separate search of normal and reduction cell (``8 B`` integers), instead of one cell (``4 B``).
      channels: channels of the first cell's blocks.
      cells: number of cells in the stack; those at ``cells // 3`` and ``2 * cells // 3`` are reduction cells.
      image_size: height and width of the images, in pixels.
      image_channels: number of image channels.
      classes: number of classes.
      stem_multiplier: channels of the stem, as a multiple of `channels`.
      max_multiply_adds: hard limit on the multiply-adds of one image's forward pass; part of `valid`.
      max_parameters: hard limit on the trainable parameters; part of `valid`.

    Raises:
      ValueError: if a setting is below one or too large to count the costs, or a limit excludes every network.
    """

    blocks: int
    two_cells: bool
    channels: int
    cells: int
    image_size: int
    image_channels: int
    classes: int
    stem_multiplier: int
    max_multiply_adds: int | None
    max_parameters: int | None

    def __init__(
        self,
        blocks: int = 7,
        *,
        two_cells: bool = False,
        channels: int = 36,
        cells: int = 20,
        image_size: int = 32,
        image_channels: int = 3,
        classes: int = 10,
        stem_multiplier: int = 3,
        max_multiply_adds: int | None = None,
        max_parameters: int | None = None,
    ):
        settings = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        for name, value in settings.items():
            anything = name == "two_cells" or (name.startswith("max_") and value is None)
            size = value if anything else whole_number(name, value, 1, LARGEST.get(name))
            object.__setattr__(self, name, size)
        prefixes = ("normal ", "reduction ") if two_cells else ("",)
        super().__init__(choice for prefix in prefixes for choice in _cell_choices(prefix, self.blocks))
        constant, weights = self._cost_weights(object)
        check_countable(*(constant + 2 * self.blocks * weights.sum(axis=0)))
        self._check_limits()

    def _check_limits(self) -> None:
        """Checks that the cheapest network is within each limit.

        Raises:
          ValueError: if a limit is below its cost; names both.
        """
        for found in self.limited(self._cheapest[None]):
            if found.limit < found.costs[0]:
                raise ValueError(
                    f"a limit of {found.limit:,} {found.name} is below the smallest network of the space, which has "
                    f"{int(found.costs[0]):,}"
                )

    @property
    def _cheapest(self) -> Int[np.ndarray, " dims"]:
        """Code of a network that no other undercuts: each block pools or skips the previous one, at no cost."""
        operations = [MAX_POOL_3X3, MAX_POOL_3X3, *[MAX_POOL_3X3, SKIP_CONNECT] * (self.blocks - 1)]
        inputs = [0, 1, *(block + 1 for block in range(1, self.blocks) for _ in range(2))]
        return np.tile(np.array(operations + inputs, np.int32), len(self.cell_names))

    def starting_codes(self) -> Int[np.ndarray, "k dims"]:
        """Returns the cheapest network if there is a limit, below which random codes may rarely be."""
        limited = (self.max_multiply_adds, self.max_parameters) != (None, None)
        return self._cheapest[None] if limited else super().starting_codes()

    @property
    def cell_names(self) -> tuple[str, ...]:
        """Names of the cells of a code, in order."""
        return ("normal cell", "reduction cell") if self.two_cells else ("cell",)

    @property
    def shapes(self) -> tuple[NASNetCellShape, ...]:
        """Shapes of the cells, from stem to head."""
        reductions = {self.cells // 3, 2 * self.cells // 3}
        shapes, channels, size = [], self.channels, self.image_size
        for i in range(self.cells):
            reduction = i in reductions
            channels = 2 * channels if reduction else channels
            output_size = -(-size // 2) if reduction else size
            kind = int(reduction and self.two_cells)
            sources = (max(i - 2, -1), i - 1)
            shapes.append(NASNetCellShape(kind, reduction, i - 1 in reductions, channels, size, output_size, sources))
            size = output_size
        return tuple(shapes)

    def operations(self, codes: Codes) -> Int[Array | np.ndarray, "n cells blocks 2"]:
        """Returns the operation of every branch; NumPy codes give a NumPy array."""
        return self._split(codes)[:, :, 0]

    def inputs(self, codes: Codes) -> Int[Array | np.ndarray, "n cells blocks 2"]:
        """Returns the input of every branch; NumPy codes give a NumPy array."""
        return self._split(codes)[:, :, 1]

    def concatenated(self, codes: Codes) -> Bool[Array | np.ndarray, "n cells blocks"]:
        """Returns which blocks are read by no block and form the cell's output; NumPy codes give a NumPy array."""
        block = np.arange(2, 2 + self.blocks, dtype=np.int32)
        reads = self.inputs(codes)[..., None] == block[None, None, None, None]
        return ~reads.any(axis=(2, 3))

    def valid(self, codes: Codes) -> Bool[Array, " n"]:
        """Returns which codes are valid: integers in range, and exact costs within the hard limits."""
        codes = jnp.asarray(codes, jnp.int32)
        allowed = super().valid(codes)
        constant, weights = self._cost_weights()
        for column, limit in enumerate((self.max_multiply_adds, self.max_parameters)):
            if limit is not None:
                total = self._limbs(codes, constant[column], weights[:, column])
                allowed &= ~exceeds(total, limit)
        return allowed

    def canonical(self, codes: Codes) -> Int[Array, "n dims"]:
        """Returns codes with the branches of each block, which commute, sorted by input, then operation."""
        codes = jnp.asarray(codes, jnp.int32)
        rank = self.inputs(codes) * len(OPERATIONS) + self.operations(codes)
        rank = jnp.sort(rank, axis=-1)
        operations, inputs = rank % len(OPERATIONS), rank // len(OPERATIONS)
        return jnp.stack([operations, inputs], axis=2).reshape(codes.shape)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Name of each column of `features`."""
        prefixes = [f"{name}: " for name in self.cell_names] if self.two_cells else [""]
        return tuple(prefix + name for prefix in prefixes for name in _feature_names(self.blocks))

    def features(self, codes: Codes) -> Float[Array, "n d"]:
        """Returns the inputs of the tree's regressions: counts per cell, independent of the order of branches.

        Counts per block: branches with each operation and with each input (0, 1 or 2). Counts per cell: each operation
        on each kind of input (cell before last, last cell, a block), each operation, a mask and the number of
        concatenated blocks, and the depth (the longest chain of blocks). The cost is linear in these features.
        """
        codes = jnp.asarray(codes, jnp.int32)
        operations, inputs = self.operations(codes), self.inputs(codes)
        op = jax.nn.one_hot(operations, len(OPERATIONS), dtype=jnp.int32)  # [n, cells, blocks, 2, 4]
        source = jax.nn.one_hot(inputs, self.blocks + 1, dtype=jnp.int32)  # [n, cells, blocks, 2, blocks + 1]
        kind = jax.nn.one_hot(jnp.minimum(inputs, 2), 3, dtype=jnp.int32)
        op_on_kind = jnp.einsum("ncbio,ncbik->ncok", op, kind)
        ends = jnp.asarray(self.concatenated(codes), jnp.int32)
        columns = [op[:, :, b].sum(axis=2) for b in range(self.blocks)]
        columns += [source[:, :, b, :, : b + 2].sum(axis=2) for b in range(self.blocks)]
        columns += [jax.lax.collapse(op_on_kind, 2), op_on_kind.sum(axis=3)]
        columns += [ends, ends.sum(axis=2, keepdims=True), self._depth(inputs)[..., None]]
        return jax.lax.collapse(jnp.concatenate(columns, axis=2), 1).astype(jnp.float32)

    def terms(self, codes: Codes) -> Float[Array, "n t"]:
        """Returns the features, centred to mean 0 over random codes."""
        return self.features(codes) - feature_scale(self)[0][None]

    @property
    def term_embedding(self) -> Float[np.ndarray, "t e"]:
        """Diagonal matrix that scales features to equal variance over random codes; squared norms are about 1."""
        return np.diag(feature_scale(self)[1])

    def cost(self, codes: Codes) -> Cost:
        """Returns exact multiply-adds of one image's forward pass (convolutions and head) and trainable parameters."""
        constant, weights = self._cost_weights()
        totals = np.asarray(self._cost_counts(np.asarray(codes)), np.int64) @ weights + constant
        return Cost(totals[:, 0], totals[:, 1])

    def traced_cost(self, codes: Codes) -> Float[Array, "n 2"]:
        """Returns multiply-adds and parameters of valid codes, rounded to float32, inside a compiled program."""
        codes, (constant, weights) = jnp.asarray(codes, jnp.int32), self._cost_weights()
        totals = [self._limbs(codes, constant[column], weights[:, column]) for column in range(2)]
        return nearest_floats(jnp.stack(totals, axis=1))

    def limited(self, codes: Codes) -> tuple[LimitedCost, ...]:
        """Returns each limited cost with its limit."""
        cost = self.cost(codes)
        limited = [("multiply-adds", self.max_multiply_adds, cost.multiply_adds)]
        limited += [("parameters", self.max_parameters, cost.parameters)]
        return tuple(LimitedCost(name, limit, costs) for name, limit, costs in limited if limit is not None)

    def describe(self, code: Int[Array | np.ndarray, " dims"]) -> str:
        """Returns the cells as text: one line per block, then the concatenated blocks."""
        code = self.check(np.asarray(code)[None])
        operations, inputs, ends = self.operations(code)[0], self.inputs(code)[0], self.concatenated(code)[0]
        names = (*INPUT_NAMES, *(f"block {b}" for b in range(self.blocks)))
        lines = []
        for cell, name in enumerate(self.cell_names):
            lines.append(name)
            for b in range(self.blocks):
                left, right = (
                    f"{OPERATIONS[op]}({names[i]})" for op, i in zip(operations[cell, b], inputs[cell, b], strict=True)
                )
                mark = " -> output" if ends[cell, b] else ""
                lines.append(f"  block {b} = {left:<30} + {right}{mark}")
            lines.append(f"  output  = concat({', '.join(f'block {b}' for b in np.flatnonzero(ends[cell]))})")
        return "\n".join(lines)

    def graphs(self, code: Int[Array | np.ndarray, " dims"]) -> tuple[CellGraph, ...]:
        """Returns one graph per cell: two inputs, the blocks and the output; an edge is a branch or a concatenation."""
        code = self.check(np.asarray(code)[None])
        operations, inputs, ends = self.operations(code)[0], self.inputs(code)[0], self.concatenated(code)[0]
        nodes = (*INPUT_NAMES, *(f"block {b}" for b in range(self.blocks)), "output")
        graphs = []
        for cell, name in enumerate(self.cell_names):
            edges = [
                (int(inputs[cell, b, i]), 2 + b, OPERATIONS[operations[cell, b, i]])
                for b in range(self.blocks)
                for i in range(2)
            ]
            edges += [(2 + int(b), 2 + self.blocks, "concat") for b in np.flatnonzero(ends[cell])]
            graphs.append(CellGraph(name, nodes, tuple(edges)))
        return tuple(graphs)

    def _split(self, codes: Codes) -> Int[Array | np.ndarray, "n cells 2 blocks 2"]:
        return codes.reshape(codes.shape[0], len(self.cell_names), 2, self.blocks, 2)

    def _depth(self, inputs: Int[Array | np.ndarray, "n cells blocks 2"]) -> Int[Array, "n cells"]:
        depth = jnp.zeros((*inputs.shape[:2], 2 + self.blocks), jnp.int32)
        for b in range(self.blocks):
            below = jnp.take_along_axis(depth, inputs[:, :, b], axis=2, mode="clip").max(axis=2)
            depth = depth.at[:, :, 2 + b].set(below + 1)
        return depth.max(axis=2)

    def _cost_counts(self, codes: Codes) -> Int[Array | np.ndarray, "n counts"]:
        """Returns the counts per cell that determine its cost.

        These are the 3x3 convolutions, 5x5 convolutions, skips from the cell's inputs and concatenated blocks.
        """
        operations = self.operations(codes)
        columns = [
            (operations == SEP_CONV_3X3).sum(axis=(2, 3)),
            (operations == SEP_CONV_5X5).sum(axis=(2, 3)),
            ((operations == SKIP_CONNECT) & (self.inputs(codes) < 2)).sum(axis=(2, 3)),
            self.concatenated(codes).sum(axis=2),
        ]
        stack = np.stack if isinstance(codes, np.ndarray) else jnp.stack
        counts = stack(columns, axis=2)
        return counts.reshape(counts.shape[0], counts.shape[1] * counts.shape[2])

    def _cost_weights(self, dtype: type = np.int64) -> tuple[np.ndarray, np.ndarray]:
        """Returns the constant ``int64[2]`` and weights ``int64[counts, 2]`` of the cost, linear in `_cost_counts`.

        Args:
          dtype: type of the result; with `object`, Python integers, which cannot overflow.
        """
        constant = np.zeros(2, object)
        weights = np.zeros((len(self.cell_names), 4, 2), object)
        stem = self.stem_multiplier * self.channels
        constant += _convolution(9 * self.image_channels * stem, self.image_size, normalised=stem)

        def concatenation(source: int, parameters: int, pixels: int) -> None:
            """Adds a matrix with `parameters` weights per output channel of the cell `source`."""
            if source < 0:
                constant[:] += stem * parameters * np.array([pixels, 1], object)
            else:
                shape = shapes[source]
                weights[shape.cell, 3] += shape.channels * parameters * np.array([pixels, 1], object)

        shapes = self.shapes
        for shape in shapes:
            c = shape.channels
            for source in shape.sources:
                concatenation(source, c, shape.input_size**2)
                constant[1] += 2 * c
            for row, kernel in enumerate((3, 5)):
                weights[shape.cell, row] += 2 * _convolution((kernel**2 + c) * c, shape.output_size, normalised=c)
            if shape.reduction:
                weights[shape.cell, 2] += _convolution(c * c, shape.output_size, normalised=c)
        concatenation(self.cells - 1, self.classes, 1)
        constant[1] += self.classes
        return constant.astype(dtype), weights.reshape(-1, 2).astype(dtype)

    def _limbs(self, codes: Int[Array, "n dims"], constant: np.integer, weights: np.ndarray) -> Int[Array, "n limbs"]:
        """Returns a cost as digits; exact in int32, because counts are below 2**7."""
        counts = jnp.asarray(self._cost_counts(codes), jnp.int32)
        pairs = zip(digits(weights), digits(np.asarray(constant)), strict=True)
        return carry_digits([(counts * weight[None]).sum(axis=1) + offset for weight, offset in pairs])


def _cell_choices(prefix: str, blocks: int) -> list[Choice]:
    """Returns the choices of one cell, in the order of a code."""
    operations = [Choice(f"{prefix}block {b} op {i}", OPERATIONS) for b in range(blocks) for i in range(2)]
    sources = (*INPUT_NAMES, *(f"block {b}" for b in range(blocks)))
    inputs = [Choice(f"{prefix}block {b} input {i}", sources[: b + 2]) for b in range(blocks) for i in range(2)]
    return operations + inputs


def _feature_names(blocks: int) -> list[str]:
    """Returns the feature names of one cell."""
    sources = (*INPUT_NAMES, *(f"block {b}" for b in range(blocks)))
    names = [f"block {b}: {op}" for b in range(blocks) for op in OPERATIONS]
    names += [f"block {b} reads {source}" for b in range(blocks) for source in sources[: b + 2]]
    names += [f"{op} of {kind}" for op in OPERATIONS for kind in (*INPUT_NAMES, "a block")]
    names += [f"{op} in all" for op in OPERATIONS]
    return names + [f"block {b} in output" for b in range(blocks)] + ["blocks in output", "depth"]


def _convolution(weights: int, size: int, *, normalised: int) -> np.ndarray:
    """Returns the multiply-adds and parameters of a bias-free convolution and the normalisation of its output."""
    return np.array([weights * size**2, weights + 2 * normalised], object)
