"""A NASNet cell that takes the code as data and has no control flow: every branch computes all operations.

Inputs and outputs are those of `models/nasnet/cell.py`, which runs only the selected operations. Conditionals and loops
whose length is data make a GPU wait for its host hundreds of times in a step, so GPUs run this form. Each branch
computes one separable convolution of 5x5, whose kernel is masked for 3x3, one max pooling, and in reduction cells the
skip of stride 2; selections choose its input and its output.

A loop over all branches, whose length is known, compiles a branch once. The gradient is a loop too: a block's gradient
is the sum of the gradients of the branches that read it, which are selected in the same way. JAX's gradient would add
each branch's contribution to an array of all blocks. Of each branch, only its input and the results of its convolutions
before normalisation are saved for the gradient.

Weights and statistics that a code does not use have the values and gradients of the other form: gradients of unselected
operations are exactly zero, and their statistics are unchanged.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from lanas_jax.models import layers
from lanas_jax.models.layers.norm import norm
from lanas_jax.models.layers.shifted import total
from lanas_jax.models.nasnet.cell import Branches, Mode, Tree, halves_with_weights, pointwise_kernel
from lanas_jax.spaces.nasnet import MAX_POOL_3X3, SEP_CONV_5X5, SKIP_CONNECT

CENTRE = np.pad(np.ones((3, 3, 1), bool), ((1, 1), (1, 1), (0, 0)))  # pixels of a 3x3 kernel in a 5x5 kernel
SAVED = jax.checkpoint_policies.save_only_these_names("product")

Images = Float[Array, "n h w c"]


def run_cell(
    inputs: Float[Array, "2 n h w c"], params: Tree, batch_stats: Tree, branches: Branches, mode: Mode
) -> tuple[Float[Array, "blocks n h2 w2 c"], Tree]:
    """Runs a cell; returns the outputs of all blocks and updated batch statistics.

    Args:
      inputs: preprocessed outputs of the two previous cells.
      params: rows of weights, two consecutive ones per branch.
      batch_stats: rows of running statistics.
      branches: branches to run; its rows of weights are not read.
      mode: static properties of the cell.
    """
    weights, stats = (jax.tree.map(lambda x: x.reshape(-1, 2, *x.shape[1:]), tree) for tree in (params, batch_stats))
    blocks, stats = _run(mode, inputs, weights, stats, branches.operation, branches.source)
    return blocks, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), stats)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(
    mode: Mode, inputs: Array, params: Tree, batch_stats: Tree, operation: Array, source: Array
) -> tuple[Array, Tree]:
    return _run_forward(mode, inputs, params, batch_stats, operation, source)[0]


def _run_forward(
    mode: Mode, inputs: Array, params: Tree, batch_stats: Tree, operation: Array, source: Array
) -> tuple[tuple[Array, Tree], tuple]:
    """Runs the branches in order; saves for the gradient what each branch needs."""

    def branch(blocks: Array, own: tuple) -> tuple[Array, tuple[Tree, Any]]:
        i, operation, source, weights, stats = own
        read = _read(mode, inputs, blocks, source)
        run = jax.checkpoint(
            partial(_run_branch, mode, operation, source, stats=stats), prevent_cse=False, policy=SAVED
        )
        y, pullback, new_stats = jax.vjp(run, read, weights, has_aux=True)
        y += lax.dynamic_index_in_dim(blocks, i // 2, 0, keepdims=False)
        return lax.dynamic_update_index_in_dim(blocks, y, i // 2, 0), (new_stats, pullback)

    size = -(-inputs.shape[2] // 2) if mode.reduction else inputs.shape[2]
    empty = jnp.zeros((len(operation) // 2, inputs.shape[1], size, size, inputs.shape[4]), inputs.dtype)
    places = np.arange(len(operation), dtype=np.int32)
    blocks, (new_stats, pullbacks) = lax.scan(branch, empty, (places, operation, source, params, batch_stats))
    return (blocks, new_stats), (pullbacks, source, batch_stats)


def _run_backward(mode: Mode, saved: tuple, cotangents: tuple[Array, Tree]) -> tuple:
    """Runs the branches backwards; each writes the gradient of what it has read."""
    pullbacks, source, batch_stats = saved
    dblocks, _ = cotangents  # running statistics have no gradient
    count = len(source)

    def branch(dreads: Any, own: tuple) -> tuple[Any, Tree]:
        i, pullback = own
        block = lax.dynamic_index_in_dim(dblocks, i // 2, 0, keepdims=False)
        dy = block + _sum_of_reads(dreads[-1], source == 2 + i // 2)
        dread, dweights = pullback(dy)
        written = (lax.dynamic_update_index_in_dim(all, one, i, 0) for all, one in zip(dreads, dread, strict=True))
        return tuple(written), dweights

    first = jax.tree.map(lambda x: x[0], pullbacks)
    shapes, _ = jax.eval_shape(first, jax.ShapeDtypeStruct(dblocks.shape[1:], dblocks.dtype))
    empty = tuple(jnp.zeros((count, *x.shape), x.dtype) for x in shapes)
    places = np.arange(count, dtype=np.int32)
    dreads, dparams = lax.scan(branch, empty, (places, pullbacks), reverse=True)
    dinputs = jnp.stack([_sum_of_reads(dreads[0], source == j) for j in range(2)])
    return dinputs, dparams, jax.tree.map(jnp.zeros_like, batch_stats), None, None


_run.defvjp(_run_forward, _run_backward)


def _read(mode: Mode, inputs: Array, blocks: Array, source: Int[Array, ""]) -> tuple[Images, ...]:
    """Returns what a branch reads: in a reduction cell, of the inputs and of the blocks; zeros if of neither."""
    if mode.reduction:
        return _choose(source, inputs), _choose(source - 2, blocks)
    return (_choose(source, [*inputs, *blocks]),)


def _choose(index: Int[Array, ""], options: Sequence[Array] | Array) -> Array:
    """Returns one of several arrays; zeros if the index is out of range."""
    y = jnp.zeros_like(options[0])
    for i, x in enumerate(options):
        y = jnp.where(index == i, x, y)
    return y


def _sum_of_reads(dreads: Float[Array, "branches n h w c"], reads: Array) -> Images:
    """Sums the gradients of some branches, without those of others, in float32."""
    terms = (jnp.where(taken, x, 0).astype(jnp.float32) for taken, x in zip(reads, dreads, strict=True))
    return total(terms).astype(dreads.dtype)


def _run_branch(
    mode: Mode,
    operation: Int[Array, ""],
    source: Int[Array, ""],
    read: tuple[Float[Array, "..."], ...],
    weights: Tree,
    stats: Tree,
) -> tuple[Images, Tree]:
    """Runs one branch with the weights and statistics of its two halves; returns its output and new statistics."""
    uses = halves_with_weights(operation, source, mode.reduction)
    is_separable = uses[1]
    first, second = (jax.tree.map(lambda x, i=i: x[i], (weights, stats)) for i in range(2))
    half = partial(_separable_product, mode, operation)
    if mode.reduction:
        wide, x = read
        on_input, skips = source < 2, operation == SKIP_CONNECT
        halved = layers.factorised_reduce(jax.nn.relu(wide), pointwise_kernel(first[0], mode))
        product = jnp.where(on_input, jnp.where(skips, halved, half(wide, first[0], 2)), half(x, first[0], 1))
        pooled = jnp.where(on_input, layers.max_pool(wide, 2), layers.max_pool(x))
    else:
        (x,) = read
        product = half(x, first[0], 1)
        pooled = layers.max_pool(x)
    middle, first_stats = norm(checkpoint_name(product, "product"), first[0], first[1], mode.train)
    product = checkpoint_name(half(middle, second[0], 1), "product")
    y, second_stats = norm(product, second[0], second[1], mode.train)
    skipped = jnp.where(on_input, middle, x) if mode.reduction else x
    y = jnp.where(is_separable, y, jnp.where(operation == MAX_POOL_3X3, pooled, skipped))
    new = jax.tree.map(lambda *halves: jnp.stack(halves), first_stats, second_stats)
    return y, jax.tree.map(lambda new, old: jnp.where(jnp.stack(uses)[:, None], new, old), new, stats)


def _separable_product(
    mode: Mode, operation: Int[Array, ""], x: Float[Array, "n h w c"], weights: Tree, stride: int
) -> Float[Array, "n h2 w2 c"]:
    """Applies ReLU, depthwise and 1x1 convolution: half a separable convolution before its normalisation."""
    kernel = jnp.where((operation == SEP_CONV_5X5) | CENTRE, weights["depthwise"], 0)
    return layers.separable(jax.nn.relu(x), kernel, pointwise_kernel(weights, mode), stride)
