"""Networks of the NAS-Bench-201 space, in two forms that give the same outputs from the same weights.

`NASBench201.apply` takes the code as data: one compiled program trains every candidate of the space. `specialise`,
`build` and `for_code` return the network of one code, which has only the parameters of that code
(`models/nasbench/nasbench201_network.py`). The code-as-data form holds the union of the weights that codes may need
(`models/nasbench/nasbench201_cell.py`). Weights that a code does not use are zero and have zero gradient, so weight
decay, clipping and parameter counts ignore them.

The network is the benchmark's own (section 2 of arXiv 2001.00326, with details from its published code), with
PyTorch's default initial weights. In bfloat16, images, activations between layers and the operands of
convolutions are rounded; parameters, gradients, statistics, global average pooling and the head stay float32.
"""

import dataclasses
import functools
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
from lanas_jax.models.nasbench.nasbench201_cell import relu_conv_norm, run_stage
from lanas_jax.models.nasbench.nasbench201_network import NASBench201Network, network_state
from lanas_jax.spaces.nasbench201 import CONV_1X1, CONV_3X3, EDGES, NASBench201Space, NASBench201Stage

Tree = dict[str, Any]
Code = Int[Array | np.ndarray, " dims"]


@dataclasses.dataclass(frozen=True)
class NASBench201:
    """The family of all networks of a space.

    Args:
      space: search space, which defines the sizes of the networks.
      compute_dtype: float32, or bfloat16 for activations and convolutions; parameters are always float32.
      branchless: True for `apply` without control flow: it computes all operations and selects, as GPUs prefer. False
        to run the selected operations only.

    Raises:
      ValueError: the dtype is neither float32 nor bfloat16.
    """

    space: NASBench201Space
    compute_dtype: DTypeLike = jnp.float32
    branchless: bool = False

    def __post_init__(self) -> None:
        layers.check_compute_dtype(self.compute_dtype)

    def init(self, key: PRNGKeyArray, code: Code) -> tuple[Tree, Tree]:
        """Returns initial weights and batch statistics of one network; `code` may be traced.

        Kernels and the head's biases are uniform within ``1 / sqrt(fan_in)`` of zero; fan-in counts the inputs that the
        code uses. The key is consumed.

        Returns:
          Parameters and batch statistics with the keys ``stem``, ``stages`` and ``reductions`` (lists), ``last_norm``
          and, for parameters, ``head``.
        """
        space, noise = self.space, self._noise(key)
        last = space.stages[-1].channels
        bound = 1 / math.sqrt(last)
        params = {
            "stem": _conv_weights(noise["stem"]),
            "stages": [self._edge_weights(kernels, code) for kernels in noise["stages"]],
            "reductions": [
                {
                    "first": _conv_weights(kernels["first"]),
                    "second": _conv_weights(kernels["second"]),
                    "shortcut": {"kernel": _scaled(kernels["shortcut"])},
                }
                for kernels in noise["reductions"]
            ],
            "last_norm": identity_norm((last,)),
            "head": {name: bound * value for name, value in noise["head"].items()},
        }
        return params, self._stats()

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
          Logits and updated batch statistics (unchanged unless training).
        """
        code = jnp.asarray(code, jnp.int32)
        x = layers.convolution(images.astype(self.compute_dtype), params["stem"]["kernel"])
        x, stem = norm(x, params["stem"], batch_stats["stem"], train)
        stages, reductions = [], []
        for i, (weights, stats) in enumerate(zip(params["stages"], batch_stats["stages"], strict=True)):
            if i:
                x, new = _reduce(x, params["reductions"][i - 1], batch_stats["reductions"][i - 1], train)
                reductions.append(new)
            x, new = run_stage(x, weights, stats, code, train=train, branchless=self.branchless)
            stages.append(new)
        x, last = norm(x, params["last_norm"], batch_stats["last_norm"], train)
        pooled = jnp.mean(jax.nn.relu(x).astype(jnp.float32), axis=(1, 2))
        logits = pooled @ params["head"]["kernel"] + params["head"]["bias"][None]
        return logits, {"stem": stem, "stages": stages, "reductions": reductions, "last_norm": last}

    def as_branchless(self) -> "NASBench201":
        """Returns the same networks with `apply` without control flow."""
        return dataclasses.replace(self, branchless=True)

    def specialise(self, params: Tree, batch_stats: Tree, code: Code) -> NASBench201Network:
        """Returns the network of one code as a module, with the weights that the code uses.

        Raises:
          ValueError: the code has the wrong length or an integer out of range.
        """
        checked = self.space.check(np.asarray(code)[None])[0]
        module = nnx.eval_shape(
            lambda: NASBench201Network(self.space, checked, dtype=self.compute_dtype, rngs=nnx.Rngs(0))
        )
        return nnx.merge(nnx.graphdef(module), network_state(params, batch_stats, checked))

    def build(self, code: Code, rngs: nnx.Rngs) -> NASBench201Network:
        """Builds the network of one code, initialised as by `init`; consumes one key of the stream ``params``."""
        params, batch_stats = jax.jit(self.init)(rngs.params(), jnp.asarray(code, jnp.int32))
        return self.specialise(params, batch_stats, code)

    def for_code(self, code: Code) -> FixedNetwork:
        """Returns the network of one code with the interface of this class; the same key gives the same weights.

        Raises:
          ValueError: the code has the wrong length or an integer out of range.
        """
        return fixed_network(self, code)

    def _noise(self, key: PRNGKeyArray) -> Tree:
        """Draws uniform numbers in [-1, 1) for all kernels."""
        space, stages = self.space, self.space.stages
        last = stages[-1].channels
        shapes = {
            "stem": (3, 3, space.image_channels, space.channels),
            "stages": [(space.cells, len(EDGES), 3, 3, stage.channels, stage.channels) for stage in stages],
            "reductions": [_reduction_shapes(stage) for stage in stages[:-1]],
            "head": {"kernel": (last, space.classes), "bias": (space.classes,)},
        }
        return draw_weights(key, shapes, functools.partial(jax.random.uniform, minval=-1.0))

    def _edge_weights(self, noise: Float[Array, "cells edges 3 3 c c"], code: Code) -> Tree:
        """Returns the edge weights of a stage; zero for weights that the code does not use."""
        code = jnp.asarray(code, jnp.int32)[None]
        centre = np.pad(np.ones((1, 1), bool), 1)
        wide, narrow = ((code == operation)[:, :, None, None] for operation in (CONV_3X3, CONV_1X1))
        window = wide | (narrow & centre[None, None])  # [1, edges, 3, 3]
        fan_in = noise.shape[-1] * jnp.maximum(window.sum(axis=(2, 3), keepdims=True), 1)
        bound = jnp.where(window, 1 / jnp.sqrt(fan_in.astype(jnp.float32)), 0)[..., None, None]
        uses = window[:, :, 1, 1, None].astype(jnp.float32)
        shape = (*noise.shape[:2], noise.shape[-1])
        return {"kernel": noise * bound, "scale": jnp.ones(shape) * uses, "bias": jnp.zeros(shape)}

    def _stats(self) -> Tree:
        space = self.space
        after = [stage.channels for stage in space.stages[1:]]
        return {
            "stem": initial_stats((space.channels,)),
            "stages": [initial_stats((space.cells, len(EDGES), stage.channels)) for stage in space.stages],
            "reductions": [{name: initial_stats((c,)) for name in ("first", "second")} for c in after],
            "last_norm": initial_stats((space.stages[-1].channels,)),
        }


def _reduce(x: Float[Array, "n h w c"], weights: Tree, stats: Tree, train: bool) -> tuple[Array, Tree]:
    """Runs a residual block: two 3x3 convolutions, and a 1x1 convolution on averages over 2x2 pixels."""
    y, first = relu_conv_norm(x, weights["first"], stats["first"], train, stride=2)
    y, second = relu_conv_norm(y, weights["second"], stats["second"], train)
    shortcut = layers.convolution(layers.average_of_four(x), weights["shortcut"]["kernel"])
    return shortcut + y, {"first": first, "second": second}


def _reduction_shapes(before: NASBench201Stage) -> dict[str, tuple[int, ...]]:
    c = before.channels
    return {"first": (3, 3, c, 2 * c), "second": (3, 3, 2 * c, 2 * c), "shortcut": (1, 1, c, 2 * c)}


def _conv_weights(noise: Float[Array, "k k c d"]) -> Tree:
    return {"kernel": _scaled(noise), **identity_norm(noise.shape[-1:])}


def _scaled(noise: Float[Array, "k k c d"]) -> Array:
    return noise / math.sqrt(math.prod(noise.shape[:3]))
