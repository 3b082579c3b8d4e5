"""The network of one NAS-Bench-201 cell as a Flax module, with exactly the layers and parameters of the code.

As in the benchmark's published code: a 3x3 stem with normalisation, three stages of cells, residual blocks that halve
the resolution between them, then normalisation, ReLU, global average pooling and a linear head.
`models/nasbench/nasbench201.py` runs the same networks with the code as data; its `specialise` transfers the weights.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int

from lanas_jax.models import layers
from lanas_jax.models.layers.conv import Conv, Identity
from lanas_jax.models.layers.norm import Norm, norm_state
from lanas_jax.spaces.nasbench201 import (
    AVERAGE_POOL,
    CONV_1X1,
    CONV_3X3,
    EDGES,
    NONE,
    SKIP_CONNECT,
    NASBench201Space,
)

Tree = dict[Any, Any]  # keys of a module's state: names, and indices in lists


class ReluConvNorm(nnx.Module):
    """ReLU, convolution, normalisation."""

    def __init__(self, inputs: int, channels: int, size: int, stride: int = 1, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv = Conv(inputs, channels, size, stride, dtype=dtype, rngs=rngs)
        self.norm = Norm(channels, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 d"]:
        """Applies the three layers."""
        return self.norm(self.conv(jax.nn.relu(x)))


class AveragePool(nnx.Module):
    """Average pooling over 3x3 pixels."""

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Applies the pooling."""
        return layers.average_pool(x)


class Zero(nnx.Module):
    """A missing edge."""

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Returns zeros."""
        return jnp.zeros_like(x)


class NASBench201Cell(nnx.Module):
    """A cell of four nodes; each node except the first is the sum of its incoming edges."""

    def __init__(self, code: Int[np.ndarray, " dims"], channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.edges = nnx.List([_operation(int(operation), channels, dtype, rngs) for operation in code])

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Runs the edges in order."""
        nodes = [x] + 3 * [jnp.zeros_like(x)]
        for (source, target), edge in zip(EDGES, self.edges, strict=True):
            nodes[target] += edge(nodes[source])
        return nodes[-1]


class Reduction(nnx.Module):
    """A residual block that halves the resolution and doubles the channels."""

    def __init__(self, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.first = ReluConvNorm(channels, 2 * channels, 3, 2, dtype=dtype, rngs=rngs)
        self.second = ReluConvNorm(2 * channels, 2 * channels, 3, dtype=dtype, rngs=rngs)
        self.shortcut = Conv(channels, 2 * channels, 1, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 d"]:
        """Returns the sum of shortcut and residual."""
        return self.shortcut(layers.average_of_four(x)) + self.second(self.first(x))


class NASBench201Network(nnx.Module):
    """The network of one code.

    Args:
      space: space of the code, which defines the sizes.
      code: architecture, NumPy integers ``[dims]``.
      dtype: dtype of activations and operands of convolutions; parameters are float32.
      rngs: keys for Flax's default initial weights; `NASBench201.build` initialises like the code-as-data form.
    """

    def __init__(
        self, space: NASBench201Space, code: Int[np.ndarray, " dims"], *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs
    ):
        self.stem = Conv(space.image_channels, space.channels, 3, dtype=dtype, rngs=rngs)
        self.stem_norm = Norm(space.channels, rngs=rngs)
        self.stages = nnx.List(
            [
                nnx.List([NASBench201Cell(code, stage.channels, dtype=dtype, rngs=rngs) for _ in range(space.cells)])
                for stage in space.stages
            ]
        )
        self.reductions = nnx.List([Reduction(stage.channels, dtype=dtype, rngs=rngs) for stage in space.stages[:-1]])
        self.last_norm = Norm(space.stages[-1].channels, rngs=rngs)
        self.head = nnx.Linear(space.stages[-1].channels, space.classes, rngs=rngs)

    def __call__(self, images: Float[Array, "n h w c"]) -> Float32[Array, "n classes"]:
        """Returns logits; normalises by batch statistics after `train()`, by running statistics after `eval()`."""
        x = self.stem_norm(self.stem(images))
        for i, stage in enumerate(self.stages):
            x = self.reductions[i - 1](x) if i else x
            for cell in stage:
                x = cell(x)
        x = jax.nn.relu(self.last_norm(x))
        return self.head(jnp.mean(x.astype(jnp.float32), axis=(1, 2)))


def network_state(params: Tree, batch_stats: Tree, code: Int[np.ndarray, " dims"]) -> Tree:
    """Converts the arrays of the code-as-data form that a code uses to the pure state of its `NASBench201Network`."""
    reductions = zip(params["reductions"], batch_stats["reductions"], strict=True)
    state = {
        "stem": {"kernel": params["stem"]["kernel"]},
        "stem_norm": norm_state(params["stem"], batch_stats["stem"]),
        "reductions": {i: _reduction_state(*trees) for i, trees in enumerate(reductions)},
        "last_norm": norm_state(params["last_norm"], batch_stats["last_norm"]),
        "head": dict(params["head"]),
    }
    if not np.isin(code, (CONV_1X1, CONV_3X3)).any():
        return state
    stages = zip(params["stages"], batch_stats["stages"], strict=True)
    return state | {"stages": {i: _stage_state(*trees, code) for i, trees in enumerate(stages)}}


def _stage_state(params: Tree, batch_stats: Tree, code: Int[np.ndarray, " dims"]) -> Tree:
    """Returns the state of the cells of a stage, which have at least one edge with parameters."""

    def edge(cell: int, i: int) -> Tree:
        weights, stats = ({name: x[cell, i] for name, x in tree.items()} for tree in (params, batch_stats))
        kernel = weights["kernel"] if code[i] == CONV_3X3 else weights["kernel"][1:2, 1:2]
        return _conv_state(weights | {"kernel": kernel}, stats)

    used = np.flatnonzero(np.isin(code, (CONV_1X1, CONV_3X3))).tolist()
    return {cell: {"edges": {i: edge(cell, i) for i in used}} for cell in range(len(params["kernel"]))}


def _reduction_state(params: Tree, batch_stats: Tree) -> Tree:
    convs = {name: _conv_state(params[name], batch_stats[name]) for name in ("first", "second")}
    return convs | {"shortcut": {"kernel": params["shortcut"]["kernel"]}}


def _conv_state(weights: Tree, stats: Tree) -> Tree:
    return {"conv": {"kernel": weights["kernel"]}, "norm": norm_state(weights, stats)}


def _operation(operation: int, channels: int, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Module:
    if operation in (CONV_1X1, CONV_3X3):
        return ReluConvNorm(channels, channels, 3 if operation == CONV_3X3 else 1, dtype=dtype, rngs=rngs)
    return {NONE: Zero, SKIP_CONNECT: Identity, AVERAGE_POOL: AveragePool}[operation]()
