"""Networks of the NAS-Bench-101 space, in two forms that give the same outputs from the same weights.

`NASBench101.apply` takes the code as data: one compiled program trains every candidate of the space. `specialise`,
`build` and `for_code` return the network of one code, which has only the parameters of that code
(`models/nasbench/nasbench101_network.py`). The code-as-data form holds the union of the weights that graphs may need
(`models/nasbench/nasbench101_cell.py`). Weights that a code does not use are zero and have zero gradient, so weight
decay, clipping and parameter counts ignore them.

The network, its initial weights and its constants are the benchmark's own (supplement of arXiv 1902.09635, with details
from its published code). `lanas_jax/spaces/nasbench101_network.py` describes its layers.

In bfloat16, images, activations between layers and the operands of convolutions are rounded; parameters, gradients,
statistics, global average pooling and the head stay float32.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int, PRNGKeyArray

from lanas_jax.models import layers
from lanas_jax.models.fixed import FixedNetwork, fixed_network
from lanas_jax.models.layers.initial import draw_weights
from lanas_jax.models.layers.norm import identity_norm, initial_stats, norm
from lanas_jax.models.nasbench.nasbench101_cell import (
    CENTRE,
    POOL,
    WIDE,
    Graph,
    channel_masks,
    read_graph,
    run_stack,
)
from lanas_jax.models.nasbench.nasbench101_network import (
    CONSTANTS,
    NASBench101Network,
    network_state,
    pool_between_stacks,
)
from lanas_jax.spaces.nasbench101 import NASBench101Space
from lanas_jax.spaces.nasbench101_network import STACKS
from lanas_jax.spaces.packed_graphs import INNER

Tree = dict[str, Any]
Code = Int[Array | np.ndarray, " dims"]

TRUNCATED = 0.87962566103423978  # standard deviation of a standard normal number between -2 and 2


@dataclasses.dataclass(frozen=True)
class NASBench101:
    """The family of all networks of a space.

    Args:
      space: search space, which defines the sizes of the networks.
      compute_dtype: float32, or bfloat16 for activations and convolutions; parameters are always float32.
      branchless: True for `apply` without control flow: it computes all operations and selects, as GPUs prefer. False
        to run the selected operations only.

    Raises:
      ValueError: the dtype is neither float32 nor bfloat16.
    """

    space: NASBench101Space
    compute_dtype: DTypeLike = jnp.float32
    branchless: bool = False

    def __post_init__(self) -> None:
        layers.check_compute_dtype(self.compute_dtype)

    def init(self, key: PRNGKeyArray, code: Code) -> tuple[Tree, Tree]:
        """Returns initial weights and batch statistics of one network; `code` may be traced.

        Kernels are truncated normal with variance ``1 / fan_in``; fan-in counts the inputs that the code uses. The
        head's kernel is uniform with variance ``2 / (fan_in + fan_out)``. The key is consumed.

        Returns:
          Parameters and batch statistics with the keys ``stem``, ``stacks`` (a list) and, for parameters, ``head``.
        """
        space, graph = self.space, read_graph(self.space, code)
        widths, last = self._stack_channels, self._stack_channels[-1]
        own, head = jax.random.split(key)
        shapes = {
            "stem": (3, 3, space.image_channels, space.channels),
            "stacks": [
                {"projection": (space.cells, INNER + 1, c, c), "operation": (space.cells, INNER, 3, 3, c, c)}
                for c in widths
            ],
        }
        noise = draw_weights(own, shapes, _truncated_normal)
        bound = math.sqrt(6 / (last + space.classes))
        params = {
            "stem": {"kernel": noise["stem"] / math.sqrt(9 * space.image_channels), **identity_norm((space.channels,))},
            "stacks": [_stack_weights(graph, drawn, self._first_inputs(i)) for i, drawn in enumerate(noise["stacks"])],
            "head": {
                "kernel": jax.random.uniform(head, (last, space.classes), minval=-bound, maxval=bound),
                "bias": jnp.zeros(space.classes),
            },
        }
        stats = {
            "stem": initial_stats((space.channels,)),
            "stacks": [
                {
                    "projection": initial_stats((space.cells, INNER + 1, c)),
                    "operation": initial_stats((space.cells, INNER, c)),
                }
                for c in widths
            ],
        }
        return params, stats

    def apply(
        self, params: Tree, batch_stats: Tree, code: Code, images: Float[Array, "n h w c"], *, train: bool
    ) -> tuple[Float32[Array, "n classes"], Tree]:
        """Runs the network of one code; `code` may be traced.

        Args:
          params: weights in the layout of `init`.
          batch_stats: running means and variances in the layout of `init`.
          code: architecture with a path from input to output, ``int32[dims]``.
          images: batch with the image size and channels of the space.
          train: True to normalise by the statistics of the batch, False by running statistics.

        Returns:
          Logits and updated batch statistics (unchanged unless training).
        """
        graph, stacks = read_graph(self.space, code), []
        x = layers.convolution(images.astype(self.compute_dtype), params["stem"]["kernel"])
        x, stem = norm(x, params["stem"], batch_stats["stem"], train, CONSTANTS)
        x = jax.nn.relu(x)
        for i, (weights, stats) in enumerate(zip(params["stacks"], batch_stats["stacks"], strict=True)):
            x = pool_between_stacks(x) if i else x
            x, new = run_stack(x, weights, stats, graph, train=train, branchless=self.branchless)
            stacks.append(new)
        pooled = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        logits = pooled @ params["head"]["kernel"] + params["head"]["bias"][None]
        return logits, {"stem": stem, "stacks": stacks}

    def as_branchless(self) -> "NASBench101":
        """Returns the same networks with `apply` without control flow."""
        return dataclasses.replace(self, branchless=True)

    def specialise(self, params: Tree, batch_stats: Tree, code: Code) -> NASBench101Network:
        """Returns the network of one code as a module, with the weights that the code uses.

        Raises:
          ValueError: the code has the wrong length, an integer out of range, or no path from input to output.
        """
        checked = self.space.check(np.asarray(code)[None])[0]
        module = nnx.eval_shape(
            lambda: NASBench101Network(self.space, checked, dtype=self.compute_dtype, rngs=nnx.Rngs(0))
        )
        return nnx.merge(nnx.graphdef(module), network_state(self.space, params, batch_stats, checked))

    def build(self, code: Code, rngs: nnx.Rngs) -> NASBench101Network:
        """Builds the network of one code, initialised as by `init`; consumes one key of the stream ``params``.

        Raises:
          ValueError: see `specialise`.
        """
        self.space.vertices(code)
        params, batch_stats = jax.jit(self.init)(rngs.params(), jnp.asarray(code, jnp.int32))
        return self.specialise(params, batch_stats, code)

    def for_code(self, code: Code) -> FixedNetwork:
        """Returns the network of one code with the interface of this class; the same key gives the same weights.

        Raises:
          ValueError: see `specialise`.
        """
        self.space.vertices(code)
        return fixed_network(self, code)

    @property
    def _stack_channels(self) -> tuple[int, ...]:
        return tuple(self.space.channels << stack for stack in range(STACKS))

    def _first_inputs(self, stack: int) -> int:
        """Returns the number of channels that the first cell of a stack reads."""
        return self.space.shapes[stack * self.space.cells].inputs


def _truncated_normal(key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
    """Draws from a normal distribution truncated at two of its deviations, with variance 1."""
    return jax.random.truncated_normal(key, -2.0, 2.0, shape) / TRUNCATED


def _stack_weights(graph: Graph, noise: Tree, first_inputs: int) -> Tree:
    """Returns the weights of the cells of a stack; zero for weights that the code does not use."""
    cells, channels = len(noise["operation"]), noise["operation"].shape[-1]
    masks = channel_masks(graph, channels)  # [6, c]
    inputs = np.array([first_inputs] + [channels] * (cells - 1), np.int32)
    reads = np.arange(channels)[None] < inputs[:, None]  # [cells, c]
    projects = graph.edges[0, 1:, None] & masks  # [6, c]
    projection = projects[None, :, None] & reads[:, None, :, None]
    convolves = ((graph.operation != POOL) & graph.kept)[:, None] & masks[:-1]  # [5, c]
    pixels = (graph.operation == WIDE)[:, None, None] | CENTRE[None, :, :, 0, 0]  # [5, 3, 3]
    kernels = pixels[..., None, None] & (convolves[:, :, None] & convolves[:, None])[:, None, None]  # [5, 3, 3, c, c]
    fan_in = jnp.maximum(pixels.sum(axis=(1, 2)) * masks[:-1].sum(axis=1), 1).astype(jnp.float32)
    scaled = {
        "projection": noise["projection"] / np.sqrt(inputs, dtype=np.float32)[:, None, None, None],
        "operation": noise["operation"] / jnp.sqrt(fan_in)[None, :, None, None, None, None],
    }
    uses = {"projection": (projection, projects), "operation": (kernels[None], convolves)}
    return {
        kind: {
            "kernel": jnp.where(kernel, scaled[kind], 0),
            "scale": jnp.broadcast_to(layer.astype(jnp.float32)[None], (cells, *layer.shape)),
            "bias": jnp.zeros((cells, *layer.shape)),
        }
        for kind, (kernel, layer) in uses.items()
    }
