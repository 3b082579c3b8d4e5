"""The network of one NASNet code as a Flax module, with exactly the layers and parameters of the code.

`models/nasnet/candidate.py` runs the same networks with the code as data; its `specialise` transfers the weights. The
operations in the cells are in `models/nasnet/operations.py`.

Cells run one after the other, although those of a stage are equal but for their weights. A scan over them takes about
twice as long on a TPU, because it moves to memory whatever the gradient needs, and saves little compile time, because
XLA compiles equal operations once. Estimates for a TPU v5e, forward and backward, cells of 3 blocks, 32x32 pixels, 16
channels, batch 128, optimization level 1: two cells take 3.9 ms and 54 CPU-seconds to compile, by a scan 7.0 ms and 46;
three cells 5.7 ms and 49, by a scan 11.9 ms and 42 (jax 0.10.2, libtpu 0.0.52, 28 November 2026).
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int

from lanas_jax.models import layers
from lanas_jax.models.functional import last_of_each_size
from lanas_jax.models.layers.conv import Conv, Identity, MaxPool
from lanas_jax.models.layers.norm import AnyArray, Norm, norm_state
from lanas_jax.models.nasnet.auxiliary import AuxiliaryHead
from lanas_jax.models.nasnet.operations import (
    Arithmetic,
    FactorisedReduce,
    Preprocess,
    SeparableConv,
)
from lanas_jax.spaces.nasnet import MAX_POOL_3X3, SEP_CONV_3X3, SEP_CONV_5X5, SKIP_CONNECT, NASNetCellShape, NASNetSpace


class NASNetCell(nnx.Module):
    """A cell: two preprocessed inputs, blocks of two branches each, and the concatenation of the unread blocks."""

    def __init__(
        self,
        space: NASNetSpace,
        code: Int[np.ndarray, " dims"],
        shape: NASNetCellShape,
        *,
        arithmetic: Arithmetic,
        rngs: nnx.Rngs,
    ):
        self.blocks = space.blocks
        self.sources = tuple(space.inputs(code[None])[0, shape.cell].reshape(-1).tolist())
        self.ends = tuple(np.flatnonzero(space.concatenated(code[None])[0, shape.cell]).tolist())
        kinds = (FactorisedReduce if shape.after_reduction else Preprocess, Preprocess)
        self.inputs = nnx.List(
            [
                kind(output_channels(space, code, source), shape.channels, arithmetic=arithmetic, rngs=rngs)
                for kind, source in zip(kinds, shape.sources, strict=True)
            ]
        )
        operations = space.operations(code[None])[0, shape.cell].reshape(-1).tolist()
        self.branches = nnx.List(
            [
                _operation(operation, shape.channels, 2 if shape.reduction and source < 2 else 1, arithmetic, rngs)
                for operation, source in zip(operations, self.sources, strict=True)
            ]
        )

    def __call__(
        self,
        before_last: Float[Array, "n h w c"],
        last: Float[Array, "n h2 w2 d"],
        scales: Float[Array, "branches n"] | None = None,
    ) -> Array:
        """Runs the cell on the outputs of the two cells before it.

        Args:
          before_last: output of the second-last cell.
          last: output of the last cell.
          scales: factors of branch outputs for drop-path; identities are not dropped.
        """
        states = [self.inputs[0](before_last), self.inputs[1](last)]

        for b in range(self.blocks):
            left, right = (self._branch(i, states[self.sources[i]], scales) for i in (2 * b, 2 * b + 1))
            states.append(left + right)
        return jnp.concatenate([states[2 + b] for b in self.ends], axis=-1)

    def _branch(self, i: int, x: Array, scales: Array | None) -> Array:
        y = self.branches[i](x)
        return y if scales is None or isinstance(self.branches[i], Identity) else layers.scale_images(y, scales[i])


class NASNetNetwork(nnx.Module):
    """The network of one code.

    Args:
      space: space of the code, which defines the sizes.
      code: architecture, NumPy integers ``[dims]``.
      auxiliary: True to add an auxiliary head on the output of the second reduction cell.
      dtype: dtype of activations and operands of convolutions; parameters are float32.
      standardise: True to standardise the kernels of 1x1 convolutions.
      rngs: keys for Flax's default initial weights; `NASNet.build` initialises like the code-as-data form.
    """

    def __init__(
        self,
        space: NASNetSpace,
        code: Int[np.ndarray, " dims"],
        *,
        auxiliary: bool = False,
        dtype: DTypeLike = jnp.float32,
        standardise: bool = False,
        rngs: nnx.Rngs,
    ):
        shapes, arithmetic = space.shapes, Arithmetic(dtype, standardise)
        stem = output_channels(space, code, -1)
        self.sources = tuple(shape.sources for shape in shapes)
        self.stem = Conv(space.image_channels, stem, 3, dtype=dtype, rngs=rngs)
        self.stem_norm = Norm(stem, rngs=rngs)
        self.cells = nnx.List([NASNetCell(space, code, shape, arithmetic=arithmetic, rngs=rngs) for shape in shapes])
        self.head = nnx.Linear(output_channels(space, code, space.cells - 1), space.classes, rngs=rngs)
        self.auxiliary_cell = auxiliary_cell(space)
        self.auxiliary = auxiliary_head(space, code, dtype=dtype, rngs=rngs) if auxiliary else None

    def __call__(
        self, images: Float[Array, "n h w c"], scales: Float[Array, "cells branches n"] | None = None
    ) -> Float32[Array, "n classes"]:
        """Returns logits; normalises by batch statistics after `train()`, by running statistics after `eval()`.

        Args:
          images: batch of images.
          scales: factors of branch outputs for drop-path; identities are not dropped.
        """
        return self._classify(self._outputs(images, scales))

    def with_auxiliary(
        self, images: Float[Array, "n h w c"], scales: Float[Array, "cells branches n"] | None = None
    ) -> tuple[Float32[Array, "n classes"], Float32[Array, "n classes"]]:
        """Returns logits and auxiliary logits; arguments as for a call.

        Raises:
          ValueError: the network has no auxiliary head.
        """
        if self.auxiliary is None:
            raise ValueError("the network has no auxiliary head; build it with auxiliary=True")
        outputs = self._outputs(images, scales)
        return self._classify(outputs), self.auxiliary(outputs[self.auxiliary_cell])

    def features(self, images: Float[Array, "n h w c"]) -> tuple[Float[Array, "n h2 w2 d"], ...]:
        """Returns the output of the last cell of each resolution, before the ReLU of the cells that read it."""
        return last_of_each_size(self._outputs(images, None).values())

    def _outputs(self, images: Array, scales: Array | None) -> dict[int, Array]:
        """Returns the outputs of all cells; -1 is the stem."""
        outputs = {-1: self.stem_norm(self.stem(images))}
        for i, (cell, (before_last, last)) in enumerate(zip(self.cells, self.sources, strict=True)):
            outputs[i] = cell(outputs[before_last], outputs[last], None if scales is None else scales[i])
        return outputs

    def _classify(self, outputs: dict[int, Array]) -> Array:
        return self.head(jnp.mean(outputs[len(self.sources) - 1].astype(jnp.float32), axis=(1, 2)))


def auxiliary_cell(space: NASNetSpace) -> int:
    """Returns the index of the cell that an auxiliary head reads: the second reduction cell."""
    return 2 * space.cells // 3


def auxiliary_head(
    space: NASNetSpace, code: Int[np.ndarray, " dims"], *, dtype: DTypeLike, rngs: nnx.Rngs
) -> AuxiliaryHead:
    """Returns the auxiliary head of the network of a code."""
    cell = auxiliary_cell(space)
    size = space.shapes[cell].output_size
    return AuxiliaryHead(output_channels(space, code, cell), space.classes, size, dtype=dtype, rngs=rngs)


def output_channels(space: NASNetSpace, code: Int[np.ndarray, " dims"], source: int) -> int:
    """Returns the number of output channels of the cell `source`; -1 is the stem."""
    if source < 0:
        return space.stem_multiplier * space.channels
    shape = space.shapes[source]
    return int(space.concatenated(code[None])[0, shape.cell].sum()) * shape.channels


def network_state(
    space: NASNetSpace, params: dict[str, Any], batch_stats: dict[str, Any], code: Int[np.ndarray, " dims"]
) -> dict[str, Any]:
    """Converts the arrays of the code-as-data form that a code uses to the pure state of its `NASNetNetwork`."""
    stem, head = params["stem"], params["head"]
    cells = {
        i: _cell_state(space, params["cells"][i], batch_stats["cells"][i], code, shape)
        for i, shape in enumerate(space.shapes)
    }
    return {
        "stem": {"kernel": stem["kernel"]},
        "stem_norm": norm_state(stem, batch_stats["stem"]),
        "cells": cells,
        "head": {"kernel": _used_rows(space, head["kernel"], code, space.cells - 1), "bias": head["bias"]},
    }


def _cell_state(
    space: NASNetSpace, params: dict[str, Any], batch_stats: dict[str, Any], code: np.ndarray, shape: NASNetCellShape
) -> dict[str, Any]:
    inputs = {}
    for i, source in enumerate(shape.sources):
        kernel = _used_rows(space, params["inputs"][i]["kernel"], code, source)
        halve = i == 0 and shape.after_reduction
        norm = norm_state(params["inputs"][i], batch_stats["inputs"][i])
        inputs[i] = {**(_halves(kernel) if halve else {"pointwise": {"kernel": kernel}}), "norm": norm}
    branches = {}
    operations = space.operations(code[None])[0, shape.cell].reshape(-1).tolist()
    sources = space.inputs(code[None])[0, shape.cell].reshape(-1).tolist()
    for i, (operation, source) in enumerate(zip(operations, sources, strict=True)):
        weights, stats = ({name: x[i] for name, x in tree["branches"].items()} for tree in (params, batch_stats))
        state = _branch_state(operation, shape.reduction and source < 2, weights, stats)
        if state:
            branches[i] = state
    return {"inputs": inputs, "branches": branches} if branches else {"inputs": inputs}


def _branch_state(
    operation: int, halve: bool, weights: dict[str, AnyArray], stats: dict[str, AnyArray]
) -> dict[str, Any]:
    first, both = ([{name: x[half] for name, x in tree.items()} for tree in (weights, stats)] for half in range(2))
    norms = {half: norm_state(*trees) for half, trees in enumerate((first, both))}
    if operation == SKIP_CONNECT and halve:
        return {**_halves(weights["pointwise"][0]), "norm": norms[0]}
    if operation not in (SEP_CONV_3X3, SEP_CONV_5X5):
        return {}
    kernels = weights["depthwise"] if operation == SEP_CONV_5X5 else weights["depthwise"][:, 1:4, 1:4]
    return {
        "depthwise": {half: {"kernel": kernels[half][:, :, None]} for half in range(2)},
        "pointwise": {half: {"kernel": weights["pointwise"][half]} for half in range(2)},
        "norm": norms,
    }


def _halves(kernel: Float[AnyArray, "c d"]) -> dict[str, Any]:
    half = kernel.shape[1] // 2
    return {"even": {"kernel": kernel[:, :half]}, "odd": {"kernel": kernel[:, half:]}}


def _used_rows(space: NASNetSpace, kernel: Float[AnyArray, "parts c d"], code: np.ndarray, source: int) -> AnyArray:
    """Returns the matrix for the concatenated output of a cell, from the matrices for all its blocks."""
    used = np.ones(1, bool) if source < 0 else space.concatenated(code[None])[0, space.shapes[source].cell]
    return kernel[np.flatnonzero(used)].reshape(-1, kernel.shape[-1])


def _operation(operation: int, channels: int, stride: int, arithmetic: Arithmetic, rngs: nnx.Rngs) -> nnx.Module:
    if operation in (SEP_CONV_3X3, SEP_CONV_5X5):
        return SeparableConv(channels, 3 if operation == SEP_CONV_3X3 else 5, stride, arithmetic=arithmetic, rngs=rngs)
    if operation == MAX_POOL_3X3:
        return MaxPool(stride)
    if operation != SKIP_CONNECT:
        raise ValueError(f"unknown operation {operation}; expected 0 to 3")
    return FactorisedReduce(channels, channels, arithmetic=arithmetic, rngs=rngs) if stride == 2 else Identity()
