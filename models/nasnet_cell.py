"""A NASNet cell with its code as data: one program for every cell of one shape.

Each branch owns the union of what the four operations need, stacked over branches ``2 * block + i``:

- ``depthwise``: ``[branches, 2, 5, 5, c]``, of the two halves of a separable convolution; the 3x3 one reads the centre
- ``pointwise``: ``[branches, 2, c, c]``; a skip of stride 2 reads the first
- ``scale``, ``bias``: ``[branches, 2, c]``, as `pointwise`

and batch statistics ``mean``, ``variance`` likewise. What a code does not use is zero and stays zero. A loop over
branches holds the only `lax.switch`, so the operations of a cell are compiled once and only the chosen one runs. The
gradient of a switch would keep the residuals of all its branches; the cell therefore has one of its own, which keeps
the block outputs alone and runs each branch again.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from lanas_jax.spaces.nasnet import OPERATIONS
from models import layers

Tree = dict[str, Array]  # arrays that share the leading axis `branches`
Buffers = tuple[Array, ...]
Operation = Callable[..., tuple[Array, Tree]]


def run_cell(
    inputs: Float[Array, "2 n h w c"],
    params: Tree,
    batch_stats: Tree,
    operations: Int[Array, " branches"],
    sources: Int[Array, " branches"],
    *,
    reduction: bool,
    train: bool,
) -> tuple[Float[Array, "blocks n h2 w2 c"], Tree]:
    """The outputs of all blocks, and the batch statistics that follow.

    Args:
      inputs: the two previous cells, preprocessed.
      params: weights of all branches.
      batch_stats: running statistics of all branches.
      operations: of each branch.
      sources: the input of each branch, 0 to ``blocks``.
      reduction: whether branches on the cell's inputs have stride 2.
      train: whether to normalise by the statistics of the batch.
    """
    return _cell(reduction, train, inputs, params, batch_stats, operations, sources)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _cell(
    reduction: bool, train: bool, inputs: Array, params: Tree, batch_stats: Tree, operations: Array, sources: Array
) -> tuple[Array, Tree]:
    size = -(-inputs.shape[2] // (2 if reduction else 1))
    empty = jnp.zeros((operations.shape[0] // 2, inputs.shape[1], size, size, inputs.shape[4]), inputs.dtype)
    branches = _branches(reduction, train)

    def step(states: Buffers, xs: tuple) -> tuple[Buffers, Tree]:
        branch, operation, source, weights, stats = xs
        case = _case(operation, source, reduction)
        y, stats = lax.switch(case, branches, _read(states, source), weights, stats)
        return _add_to_block(states, branch // 2, y), stats

    xs = (jnp.arange(operations.shape[0], dtype=jnp.int32), operations, sources, params, batch_stats)
    states, batch_stats = lax.scan(step, _buffers(inputs, empty, reduction), xs)
    return _split(states)[1], batch_stats


def _cell_forward(
    reduction: bool, train: bool, inputs: Array, params: Tree, batch_stats: Tree, operations: Array, sources: Array
) -> tuple[tuple[Array, Tree], tuple]:
    blocks, new_stats = _cell(reduction, train, inputs, params, batch_stats, operations, sources)
    return (blocks, new_stats), (inputs, blocks, params, batch_stats, operations, sources)


def _cell_backward(reduction: bool, train: bool, saved: tuple, cotangents: tuple[Array, Tree]) -> tuple:
    inputs, blocks, params, batch_stats, operations, sources = saved
    dblocks, _ = cotangents  # running statistics carry no gradient
    states = _buffers(inputs, blocks, reduction)
    pullbacks = [partial(_pullback, branch) for branch in _branches(reduction, train)]

    def step(dstates: Buffers, xs: tuple) -> tuple[Buffers, Tree]:
        branch, operation, source, weights, stats = xs
        case = _case(operation, source, reduction)
        dy = _block(dstates, branch // 2)
        dx, dweights = lax.switch(case, pullbacks, _read(states, source), weights, stats, dy)
        return _add_to_input(dstates, source, dx), dweights

    xs = (jnp.arange(operations.shape[0], dtype=jnp.int32), operations, sources, params, batch_stats)
    dstates, dparams = lax.scan(step, _buffers(jnp.zeros_like(inputs), dblocks, reduction), xs, reverse=True)
    return _split(dstates)[0], dparams, jax.tree.map(jnp.zeros_like, batch_stats), None, None


_cell.defvjp(_cell_forward, _cell_backward)


def _pullback(branch: Operation, x: Buffers, weights: Tree, stats: Tree, dy: Array) -> tuple[Buffers, Tree]:
    _, pullback = jax.vjp(lambda x, weights: branch(x, weights, stats)[0], x, weights)
    return pullback(dy)


# In a normal cell, inputs and blocks are one buffer `[2 + blocks, n, h, w, c]`, so that a branch reads either. In a
# reduction cell they differ in size and are two buffers; a branch is handed one of each and takes that of its stride.


def _buffers(inputs: Array, blocks: Array, reduction: bool) -> Buffers:
    return (inputs, blocks) if reduction else (jnp.concatenate([inputs, blocks]),)


def _split(states: Buffers) -> tuple[Array, Array]:
    return (states[0], states[1]) if len(states) == 2 else (states[0][:2], states[0][2:])


def _read(states: Buffers, source: Array) -> Buffers:
    if len(states) == 1:
        return (states[0][source],)
    return states[0][jnp.minimum(source, 1)], states[1][jnp.maximum(source - 2, 0)]


def _add_to_input(states: Buffers, source: Array, x: Buffers) -> Buffers:
    if len(states) == 1:
        return (states[0].at[source].add(x[0]),)
    return states[0].at[jnp.minimum(source, 1)].add(x[0]), states[1].at[jnp.maximum(source - 2, 0)].add(x[1])


def _block(states: Buffers, block: Array) -> Array:
    return states[1][block] if len(states) == 2 else states[0][2 + block]


def _add_to_block(states: Buffers, block: Array, y: Array) -> Buffers:
    if len(states) == 2:
        return states[0], states[1].at[block].add(y)
    return (states[0].at[2 + block].add(y),)


def _case(operation: Array, source: Array, reduction: bool) -> Array:
    """Which of `_branches` runs."""
    return jnp.where(source >= 2, operation + len(OPERATIONS), operation) if reduction else operation


def _branches(reduction: bool, train: bool) -> Sequence[Operation]:
    """The operations at stride 1; in a reduction cell, those at stride 2 on a cell's input stand before them."""
    if not reduction:
        return [partial(_on, 0, operation) for operation in _operations(1, train)]
    on_input = [partial(_on, 0, operation) for operation in _operations(2, train)]
    return on_input + [partial(_on, 1, operation) for operation in _operations(1, train)]


def _on(buffer: int, operation: Operation, x: Buffers, weights: Tree, stats: Tree) -> tuple[Array, Tree]:
    return operation(x[buffer], weights, stats)


def _operations(stride: int, train: bool) -> list[Operation]:
    """The four operations in the order of a code, `(x, weights, stats) -> (y, stats)`."""
    return [
        partial(_separable, 3, stride, train),
        lambda x, weights, stats: (layers.max_pool(x, stride), stats),
        partial(_skip_reduce, train) if stride == 2 else lambda x, weights, stats: (x, stats),
        partial(_separable, 5, stride, train),
    ]


def _separable(size: int, stride: int, train: bool, x: Array, weights: Tree, stats: Tree) -> tuple[Array, Tree]:
    margin = (5 - size) // 2
    kernels = weights["depthwise"][:, margin : margin + size, margin : margin + size]
    means, variances = [], []
    for half in range(2):
        x = layers.depthwise(jax.nn.relu(x), kernels[half], stride if half == 0 else 1) @ weights["pointwise"][half]
        x, mean, variance = layers.batch_norm(x, *_norm(half, weights, stats), train=train)
        means.append(mean)
        variances.append(variance)
    return x, {"mean": jnp.stack(means), "variance": jnp.stack(variances)}


def _skip_reduce(train: bool, x: Array, weights: Tree, stats: Tree) -> tuple[Array, Tree]:
    x = layers.factorised_reduce(jax.nn.relu(x), weights["pointwise"][0])
    x, mean, variance = layers.batch_norm(x, *_norm(0, weights, stats), train=train)
    return x, {"mean": stats["mean"].at[0].set(mean), "variance": stats["variance"].at[0].set(variance)}


def _norm(half: int, weights: Tree, stats: Tree) -> tuple[Array, Array, Array, Array]:
    return weights["scale"][half], weights["bias"][half], stats["mean"][half], stats["variance"][half]
