"""Networks of the NAS-Bench-101 space, each built for its code.

The network is the benchmark's own (supplement of arXiv 1902.09635, with details from its published code), which
`lanas_jax/spaces/nasbench101_network.py` describes, with its initial weights and constants. The width of a
vertex depends on the graph, so there is no code-as-data form: each candidate has its own program.

In bfloat16, images, activations between layers and the operands of convolutions are rounded; parameters, gradients,
statistics, global average pooling and the head stay float32.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int, PRNGKeyArray

from lanas_jax.models import layers
from lanas_jax.models.fixed import FixedNetwork
from lanas_jax.models.layers.conv import Conv, MaxPool
from lanas_jax.models.layers.norm import Norm, NormConstants
from lanas_jax.spaces.nasbench101 import OPERATIONS, NASBench101Space
from lanas_jax.spaces.nasbench101_network import NASBench101CellShape, vertex_channels

MOMENTUM = 0.997  # momentum of running batch statistics
CONV_3X3, CONV_1X1, MAX_POOL = OPERATIONS

Code = Int[Array | np.ndarray, " dims"]


@dataclasses.dataclass(frozen=True)
class NASBench101:
    """The family of all networks of a space.

    Args:
      space: search space, which defines the sizes of the networks.
      compute_dtype: float32, or bfloat16 for activations and convolutions; parameters are always float32.

    Raises:
      ValueError: the dtype is neither float32 nor bfloat16.
    """

    space: NASBench101Space
    compute_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        layers.check_compute_dtype(self.compute_dtype)

    def build(self, code: Code, rngs: nnx.Rngs) -> "NASBench101Network":
        """Builds the network of one code, with vertices in the order of the code.

        Raises:
          ValueError: the code has the wrong length, an integer out of range, or no path from input to output.
        """
        return NASBench101Network(self.space, code, dtype=self.compute_dtype, rngs=rngs)

    def for_code(self, code: Code) -> FixedNetwork:
        """Returns the network of one code with the interface of trainers.

        Raises:
          ValueError: see `build`.
        """
        self.space.to_graph(code)
        return FixedNetwork(self.space, BuiltFor(self, tuple(np.asarray(code).tolist())))


@dataclasses.dataclass(frozen=True)
class BuiltFor:
    """Builds the network of one code; equal if family and code are equal.

    Args:
      networks: family of networks of the space.
      code: architecture, ``int32[dims]``.
    """

    networks: NASBench101
    code: tuple[int, ...]

    def __call__(self, key: PRNGKeyArray) -> "NASBench101Network":
        """Builds the network. The key is consumed."""
        return self.networks.build(np.array(self.code, np.int32), nnx.Rngs(key))


class ConvNormRelu(nnx.Module):
    """Convolution, normalisation, ReLU."""

    def __init__(self, inputs: int, channels: int, size: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv = Conv(inputs, channels, size, dtype=dtype, rngs=rngs)
        self.norm = Norm(channels, NormConstants(MOMENTUM), rngs=rngs)

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
                x = nnx.max_pool(x, (2, 2), (2, 2), "SAME")
            x = cell(x)
        return self.head(jnp.mean(x.astype(jnp.float32), axis=(1, 2)))


def _operation(operation: str, channels: int, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Module:
    if operation == MAX_POOL:
        return MaxPool()
    return ConvNormRelu(channels, channels, 3 if operation == CONV_3X3 else 1, dtype=dtype, rngs=rngs)
