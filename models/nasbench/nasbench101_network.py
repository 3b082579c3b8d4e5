"""The network of one NAS-Bench-101 cell as a Flax module, with exactly the layers and parameters of the code.

The network, its initial weights and its constants are the benchmark's own (supplement of arXiv 1902.09635, with details
from its published code). `lanas_jax/spaces/nasbench101_network.py` describes its layers.
`models/nasbench/nasbench101.py` runs the same networks with the code as data; its `specialise` transfers the weights.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int

from lanas_jax.models.layers.conv import Conv, MaxPool
from lanas_jax.models.layers.norm import Norm, NormConstants, norm_state
from lanas_jax.spaces.nasbench101 import OPERATIONS, NASBench101Space
from lanas_jax.spaces.nasbench101_network import NASBench101CellShape, vertex_channels

CONSTANTS = NormConstants(momentum=0.997)
CONV_3X3, CONV_1X1, MAX_POOL = OPERATIONS

Code = Int[Array | np.ndarray, " dims"]
Tree = dict[Any, Any]  # keys of a module's state: names, and indices in lists


class ConvNormRelu(nnx.Module):
    """Convolution, normalisation, ReLU."""

    def __init__(self, inputs: int, channels: int, size: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv = Conv(inputs, channels, size, dtype=dtype, rngs=rngs)
        self.norm = Norm(channels, CONSTANTS, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w d"]:
        """Applies the three layers."""
        return jax.nn.relu(self.norm(self.conv(x)))


class NASBench101Cell(nnx.Module):
    """A pruned graph: inner vertices apply an operation to a sum; the output concatenates and adds."""

    def __init__(
        self,
        adjacency: Int[np.ndarray, "v v"],
        operations: tuple[str, ...],
        shape: NASBench101CellShape,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        widths = [*vertex_channels(adjacency[None], shape.channels)[0].tolist(), shape.channels]
        self.widths = tuple(widths)  # channels of the vertices 1, 2, ..., output
        self.sources = tuple(tuple(np.flatnonzero(column).tolist()) for column in adjacency.T[1:])
        self.projections = nnx.Dict(
            {
                str(v): ConvNormRelu(shape.inputs, width, 1, dtype=dtype, rngs=rngs)
                for v, (width, sources) in enumerate(zip(widths, self.sources, strict=True), 1)
                if 0 in sources
            }
        )
        inner = zip(operations[1:-1], widths, strict=False)
        self.operations = nnx.List([_operation(operation, width, dtype, rngs) for operation, width in inner])

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w d"]:
        """Runs the vertices in order."""
        states = [x]
        for v, (operation, width) in enumerate(zip(self.operations, self.widths, strict=False), 1):
            parts = [states[u][..., :width] for u in self.sources[v - 1] if u]
            states.append(operation(sum(parts, self._projected(x, v))))
        output = len(states)
        ends = [states[u] for u in self.sources[-1] if u]
        projected = self._projected(x, output)
        return jnp.concatenate(ends, axis=-1) + projected if ends else projected

    def _projected(self, x: Float[Array, "n h w c"], vertex: int) -> Array:
        """Returns the projected input of a vertex; zero if there is no edge from the input."""
        if 0 in self.sources[vertex - 1]:
            return self.projections[str(vertex)](x)
        return jnp.zeros((), x.dtype)


class NASBench101Network(nnx.Module):
    """The network of one code.

    Args:
      space: space of the code, which defines the sizes.
      code: architecture, ``int32[dims]``; vertices are built in its order.
      dtype: dtype of activations and operands of convolutions; parameters are float32.
      rngs: keys for the initial weights; convolutions are truncated normal with variance ``1 / fan_in``.

    Raises:
      ValueError: the code has the wrong length, an integer out of range, or no path from input to output.
    """

    def __init__(self, space: NASBench101Space, code: Code, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        adjacency, operations = space.to_graph(code)
        shapes = space.shapes
        self.cells_per_stack = space.cells
        self.stem = ConvNormRelu(space.image_channels, space.channels, 3, dtype=dtype, rngs=rngs)
        self.cells = nnx.List(
            [NASBench101Cell(adjacency, operations, shape, dtype=dtype, rngs=rngs) for shape in shapes]
        )
        initial = nnx.initializers.glorot_uniform()
        self.head = nnx.Linear(shapes[-1].channels, space.classes, kernel_init=initial, rngs=rngs)

    def __call__(self, images: Float[Array, "n h w c"]) -> Float32[Array, "n classes"]:
        """Returns logits; normalises by batch statistics after `train()`, by running statistics after `eval()`."""
        x = self.stem(images)
        for i, cell in enumerate(self.cells):
            if i and i % self.cells_per_stack == 0:
                x = pool_between_stacks(x)
            x = cell(x)
        return self.head(jnp.mean(x.astype(jnp.float32), axis=(1, 2)))


def pool_between_stacks(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """Halves the resolution by the maxima of 2x2 pixels."""
    return nnx.max_pool(x, (2, 2), (2, 2), "SAME")


def network_state(space: NASBench101Space, params: Tree, batch_stats: Tree, code: Int[np.ndarray, " dims"]) -> Tree:
    """Converts the arrays of the code-as-data form that a code uses to the pure state of its `NASBench101Network`."""
    cells = {}
    for i, shape in enumerate(space.shapes):
        stack, cell = divmod(i, space.cells)
        weights, stats = (
            jax.tree.map(lambda x, cell=cell: x[cell], tree["stacks"][stack]) for tree in (params, batch_stats)
        )
        cells[i] = cell_state(space, weights, stats, code, shape)
    stem = _layer_state(params["stem"], batch_stats["stem"])
    return {"stem": stem, "cells": cells, "head": dict(params["head"])}


def cell_state(
    space: NASBench101Space,
    params: Tree,
    batch_stats: Tree,
    code: Int[np.ndarray, " dims"],
    shape: NASBench101CellShape,
) -> Tree:
    """Converts the arrays of one cell, without an axis of cells, to the pure state of its `NASBench101Cell`."""
    adjacency, names = space.to_graph(code)
    widths = [*vertex_channels(adjacency[None], shape.channels)[0].tolist(), shape.channels]

    def layer(kind: str, vertex: int, size: int, inputs: int, width: int) -> Tree:
        weights, stats = ({name: x[vertex - 1] for name, x in tree[kind].items()} for tree in (params, batch_stats))
        kernel = weights["kernel"].reshape(-1, *weights["kernel"].shape[-2:])  # [pixels, inputs, channels]
        kernel = kernel if size == 3 else kernel[len(kernel) // 2]
        kernel = kernel[..., :inputs, :width].reshape(size, size, inputs, width)
        weights, stats = ({name: x[:width] for name, x in tree.items()} for tree in (weights, stats))
        return _layer_state(weights | {"kernel": kernel}, stats)

    projections, operations = {}, {}
    for i, (vertex, width) in enumerate(zip(space.vertices(code)[1:], widths, strict=True), 1):
        if adjacency[0, i]:
            projections[str(i)] = layer("projection", vertex, 1, shape.inputs, width)
        if names[i] in (CONV_3X3, CONV_1X1):
            operations[i - 1] = layer("operation", vertex, 3 if names[i] == CONV_3X3 else 1, width, width)
    return {"projections": projections, **({"operations": operations} if operations else {})}


def _layer_state(weights: Tree, stats: Tree) -> Tree:
    return {"conv": {"kernel": weights["kernel"]}, "norm": norm_state(weights, stats)}


def _operation(operation: str, channels: int, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Module:
    if operation == MAX_POOL:
        return MaxPool()
    return ConvNormRelu(channels, channels, 3 if operation == CONV_3X3 else 1, dtype=dtype, rngs=rngs)
