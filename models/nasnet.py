"""Networks of the NASNet space, in two forms that give the same outputs from the same weights.

`NASNet.apply` takes the code as data: one compiled program trains every candidate of the space. `NASNet.specialise`
and `NASNet.build` give the network of one code as a Flax module (`models/nasnet_network.py`), which has its parameters
alone, and `NASNet.for_code` gives it the face that trainers want (`models/fixed.py`); a search's final network has more
to it (`models/nasnet_final.py`). The code-as-data form carries the
union of what codes may need; what a code does not need is zero, has zero gradient, and thus takes no part in weight
decay, clipping or counting.

The stack is the evaluation network of DARTS (arXiv 1806.09055): a 3x3 stem, cells that preprocess their two inputs by
ReLU, 1x1 convolution and normalisation, a linear head on the average of the pixels.

A network may compute in bfloat16: images, what lies between layers, and the operands of convolutions and 1x1
convolutions are rounded to it. Parameters, gradients, statistics of normalisation, the average of the pixels and the
head, one product per image, stay float32, and so do logits and loss.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Int, PRNGKeyArray

from lanas_jax.spaces.nasnet import SEP_CONV_3X3, SEP_CONV_5X5, SKIP_CONNECT, CellShape, NASNetSpace
from models import layers
from models.auxiliary import AuxiliaryHead
from models.fixed import FixedNetwork
from models.nasnet_cell import Mode, run_cell
from models.nasnet_network import NASNetNetwork, network_state
from models.norm import identity_norm, initial_stats, norm

Tree = dict[str, Any]
Code = Int[Array | np.ndarray, " dims"]


@dataclasses.dataclass(frozen=True)
class NASNet:
    """The networks of a space.

    Args:
      space: says which codes there are, and how large the networks are.
      compute_dtype: float32, or bfloat16 for activations and convolutions; parameters are float32 in any case.
      weight_standardisation: whether 1x1 convolutions standardise their kernels (`models.layers.standardise`) over the
        inputs that the code uses: in separable convolutions, skips that halve, and on a cell's inputs.

    Raises:
      ValueError: another dtype.
    """

    space: NASNetSpace
    compute_dtype: DTypeLike = jnp.float32
    weight_standardisation: bool = False

    def __post_init__(self) -> None:
        layers.check_compute_dtype(self.compute_dtype)

    def init(self, key: PRNGKeyArray, code: Code) -> tuple[Tree, Tree]:
        """Weights and batch statistics of one network; `code` may be traced.

        Convolutions are normal with variance ``2 / fan_in``, the head with ``1 / fan_in``, where fan-in counts what the
        code uses. The key is consumed.

        Returns:
          Parameters and batch statistics: the keys are ``stem``, ``cells`` (a list) and, for parameters, ``head``.
        """
        noise = _draw(key, self._kernel_shapes())
        image_channels = self.space.image_channels
        stem = _scaled(noise["stem"], 2 / (9 * image_channels))
        mask, channels = self._parts(code, self.space.cells - 1)
        head = _keep(_scaled(noise["head"], 1 / (mask.sum() * channels)), mask)
        params = {
            "stem": {"kernel": stem, **identity_norm(stem.shape[-1:])},
            "cells": [self._init_cell(*both, code) for both in zip(noise["cells"], self.space.shapes, strict=True)],
            "head": {"kernel": head, "bias": jnp.zeros(self.space.classes)},
        }
        return params, self._init_stats()

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
          Logits, and the batch statistics that follow (unchanged unless training).
        """
        space = self.space
        codes = jnp.asarray(code, jnp.int32)[None]
        operations = space.operations(codes)[0].reshape(-1, 2 * space.blocks)
        sources = space.inputs(codes)[0].reshape(-1, 2 * space.blocks)
        images, kernel = images.astype(self.compute_dtype), params["stem"]["kernel"].astype(self.compute_dtype)
        x = layers.convolution(images, kernel)
        x, stem_stats = norm(x, params["stem"], batch_stats["stem"], train)
        outputs, new_stats = {-1: x}, []
        for i, shape in enumerate(space.shapes):
            weights, stats = params["cells"][i], batch_stats["cells"][i]
            inputs, input_stats = [], []
            for j, source in enumerate(shape.sources):
                own, halve = weights["inputs"][j], j == 0 and shape.after_reduction
                kernel = self._input_matrix(own["kernel"], code, source)
                y, y_stats = _preprocess(outputs[source], kernel, own, stats["inputs"][j], halve, train)
                inputs.append(y)
                input_stats.append(y_stats)
            blocks, branch_stats = run_cell(
                jnp.stack(inputs),
                weights["branches"],
                stats["branches"],
                operations[shape.cell],
                sources[shape.cell],
                Mode(shape.reduction, train, self.weight_standardisation),
            )
            outputs[i] = _concatenated(blocks)
            new_stats.append({"inputs": input_stats, "branches": branch_stats})
        mask, _ = self._parts(code, space.cells - 1)
        pooled = jnp.mean(outputs[space.cells - 1].astype(jnp.float32), axis=(1, 2))
        logits = pooled @ _matrix(params["head"]["kernel"], mask) + params["head"]["bias"][None]
        return logits, {"stem": stem_stats, "cells": new_stats}

    def specialise(
        self, params: Tree, batch_stats: Tree, code: Code, auxiliary: AuxiliaryHead | None = None
    ) -> NASNetNetwork:
        """The network built for one code, with the weights that the code uses, and with an auxiliary head if given.

        Raises:
          ValueError: a code of the wrong length, or an integer out of range.
        """
        checked = self.space.check(np.asarray(code)[None])[0]
        arrays = network_state(self.space, params, batch_stats, checked)
        if auxiliary is not None:
            arrays["auxiliary"] = nnx.to_pure_dict(nnx.state(auxiliary))
        graph, state = nnx.split(nnx.eval_shape(lambda: self._network(checked, auxiliary is not None)))
        nnx.replace_by_pure_dict(state, arrays)
        return nnx.merge(graph, state)

    def build(self, code: Code, rngs: nnx.Rngs) -> NASNetNetwork:
        """The network built for one code, initialised as `init` does; takes one key of the stream ``params``."""
        params, batch_stats = jax.jit(self.init)(rngs.params(), jnp.asarray(code, jnp.int32))
        return self.specialise(params, batch_stats, code)

    def for_code(self, code: Code) -> FixedNetwork:
        """The network built for one code with the face of this one, for trainers; the same key, the same weights.

        Raises:
          ValueError: a code of the wrong length, or an integer out of range.
        """
        checked = self.space.check(np.asarray(code)[None])[0]
        return FixedNetwork(self.space, lambda key: self.specialise(*self.init(key, checked), checked))

    def _network(self, code: Int[np.ndarray, " dims"], auxiliary: bool) -> NASNetNetwork:
        return NASNetNetwork(
            self.space,
            code,
            auxiliary=auxiliary,
            dtype=self.compute_dtype,
            standardise=self.weight_standardisation,
            rngs=_OneKey(),
        )

    def _input_matrix(self, kernel: Float[Array, "parts c d"], code: Code, source: int) -> Float[Array, "pc d"]:
        """Of the 1x1 convolution on what the cell `source` puts out."""
        mask, channels = self._parts(code, source)
        matrix = _matrix(kernel, mask)
        return layers.standardise(matrix, jnp.repeat(mask, channels)) if self.weight_standardisation else matrix

    def _parts(self, code: Code, source: int) -> tuple[Bool[Array, " parts"], int]:
        """Which parts a cell's output (-1: the stem's) has, and the channels of each."""
        if source < 0:
            return jnp.ones(1, bool), self.space.stem_multiplier * self.space.channels
        shape = self.space.shapes[source]
        return jnp.asarray(self.space.concatenated(jnp.asarray(code)[None])[0, shape.cell]), shape.channels

    def _kernel_shapes(self) -> Tree:
        space = self.space
        stem = space.stem_multiplier * space.channels
        branches = 2 * space.blocks

        def parts(source: int) -> tuple[int, int]:
            return (1, stem) if source < 0 else (space.blocks, space.shapes[source].channels)

        cells = [
            {
                "inputs": [(*parts(source), shape.channels) for source in shape.sources],
                "depthwise": (branches, 2, 5, 5, shape.channels),
                "pointwise": (branches, 2, shape.channels, shape.channels),
            }
            for shape in space.shapes
        ]
        return {
            "stem": (3, 3, space.image_channels, stem),
            "cells": cells,
            "head": (*parts(space.cells - 1), space.classes),
        }

    def _init_cell(self, noise: Tree, shape: CellShape, code: Code) -> Tree:
        inputs = []
        for source, kernel in zip(shape.sources, noise["inputs"], strict=True):
            mask, channels = self._parts(code, source)
            kernel = _keep(_scaled(kernel, 2 / (mask.sum() * channels)), mask)
            inputs.append({"kernel": kernel, **identity_norm((shape.channels,))})
        uses, window = self._uses(code, shape)
        fan_in = jnp.maximum(window.sum(axis=(2, 3)), 1)[:, :, None, None, None]
        branches = {
            "depthwise": _keep(_scaled(noise["depthwise"], 2 / fan_in), window),
            "pointwise": _keep(_scaled(noise["pointwise"], 2 / shape.channels), uses),
        }
        weights = identity_norm(noise["pointwise"].shape[:3])
        branches |= {name: _keep(value, uses) for name, value in weights.items()}
        return {"inputs": inputs, "branches": branches}

    def _uses(self, code: Code, shape: CellShape) -> tuple[Bool[Array, "branches 2"], Bool[Array, "branches 2 5 5"]]:
        """Which halves of a branch its code uses, and which pixels of the depthwise kernels."""
        codes = jnp.asarray(code, jnp.int32)[None]
        operations = self.space.operations(codes)[0, shape.cell].reshape(-1)
        sources = self.space.inputs(codes)[0, shape.cell].reshape(-1)
        separable = (operations == SEP_CONV_3X3) | (operations == SEP_CONV_5X5)
        skip_reduce = (operations == SKIP_CONNECT) & (sources < 2) & shape.reduction
        uses = jnp.stack([separable | skip_reduce, separable], axis=1)
        centre = np.pad(np.ones((3, 3), bool), 1)[None]
        window = (operations == SEP_CONV_5X5)[:, None, None] | ((operations == SEP_CONV_3X3)[:, None, None] & centre)
        return uses, jnp.repeat(window[:, None], 2, axis=1)

    def _init_stats(self) -> Tree:
        space = self.space
        cells = [
            {
                "inputs": [initial_stats((shape.channels,)) for _ in shape.sources],
                "branches": initial_stats((2 * space.blocks, 2, shape.channels)),
            }
            for shape in space.shapes
        ]
        return {"stem": initial_stats((space.stem_multiplier * space.channels,)), "cells": cells}


class _OneKey(nnx.Rngs):
    """Always the same key, for modules whose weights will be replaced.

    The streams of Flax count in an array; where that is traced, each draw searches all that was traced before.
    """

    def __init__(self) -> None:
        pass

    def params(self) -> PRNGKeyArray:
        """The key."""
        return jax.random.key(0)


def _concatenated(blocks: Float[Array, "blocks n h w c"]) -> Float[Array, "n h w bc"]:
    """All blocks side by side; what reads them has zeros for those that are not in the cell's output."""
    blocks = jnp.moveaxis(blocks, 0, 3)
    return blocks.reshape(*blocks.shape[:3], -1)


def _preprocess(
    x: Float[Array, "n h w c"], kernel: Float[Array, "c d"], weights: Tree, stats: Tree, halve: bool, train: bool
) -> tuple[Float[Array, "n h2 w2 d"], Tree]:
    """ReLU, 1x1 convolution (to half the resolution, if so asked) and normalisation."""
    x, kernel = jax.nn.relu(x), kernel.astype(x.dtype)
    return norm(layers.factorised_reduce(x, kernel) if halve else x @ kernel, weights, stats, train)


def _matrix(kernel: Float[Array, "parts c d"], mask: Bool[Array, " parts"]) -> Float[Array, "pc d"]:
    """The matrix on all parts side by side that ignores those which are not in the cell's output."""
    return _keep(kernel, mask).reshape(-1, kernel.shape[-1])


def _keep(x: Array, mask: Bool[Array, "..."]) -> Array:
    """Zero where the mask, which lacks the trailing axes of `x`, is false."""
    return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), x, 0)


def _draw(key: PRNGKeyArray, shapes: Tree) -> Tree:
    """Standard normal numbers for a tree of shapes, in one draw: each draw of its own would compile for a second."""
    leaves, structure = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    sizes = [math.prod(shape) for shape in leaves]
    pieces = jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
    return jax.tree.unflatten(structure, [x.reshape(shape) for x, shape in zip(pieces, leaves, strict=True)])


def _scaled(noise: Array, variance: float | Array) -> Array:
    return noise * jnp.sqrt(jnp.asarray(variance, jnp.float32))
