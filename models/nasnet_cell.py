"""A NASNet cell with its code as data: one program for every cell of one shape.

A cell is given its weights in rows, each of which holds the union of what a step of any operation needs:

- ``depthwise``: ``[rows, 5, 5, c]``, of half a separable convolution; the 3x3 one reads the centre
- ``pointwise``: ``[rows, c, c]``, of half a separable convolution, or of a skip of stride 2
- ``scale``, ``bias``: ``[rows, c]``, as `pointwise`

and batch statistics ``mean``, ``variance`` likewise. Which rows a branch reads is up to the network: in
`models/nasnet.py` each branch has two of its own, in `models/nasnet_supernet.py` each operation on each input of each
block. A step without weights may be pointed at any row: it changes no statistics and adds zero to the gradient. All of
these are float32; a cell computes in the dtype of its inputs, to which each step rounds the kernels it reads.

A cell is run as a list of steps, each of which reads one slot, runs one operation and adds to another slot; slots are
the two inputs, the blocks, and a middle for each branch, where a separable convolution is after its first half. A loop
over steps holds the only `lax.switch`, so that each operation is compiled once and only the chosen ones run. The
gradient of a switch would keep the residuals of all its branches; the cell therefore has one of its own, which keeps
the slots alone and runs each step again. Where a trained network is only read there is no gradient, and one middle
serves all branches in turn.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from lanas_jax.spaces.nasnet import OPERATIONS, SEP_CONV_3X3, SEP_CONV_5X5
from models import layers
from models.norm import norm

Tree = dict[str, Array]
Buffers = tuple[Array, ...]
Operation = Callable[..., tuple[Array, Tree]]


class Mode(NamedTuple):
    """What is known of a cell before its code is."""

    reduction: bool  # whether branches on the cell's inputs have stride 2
    train: bool  # whether to normalise by the statistics of the batch
    standardise: bool  # whether kernels of 1x1 convolutions are standardised


class Steps(NamedTuple):
    """The program of a cell; the arrays have room for two steps per branch, of which `length` are taken."""

    operation: Int[Array, " steps"]
    read: Int[Array, " steps"]  # slot: 0 and 1 are the inputs, then come the blocks, then the middles of branches
    write: Int[Array, " steps"]  # slot
    weights: Int[Array, " steps"]  # row
    length: Int[Array, ""]


def run_cell(
    inputs: Float[Array, "2 n h w c"],
    params: Tree,
    batch_stats: Tree,
    steps: Steps,
    mode: Mode,
) -> tuple[Float[Array, "blocks n h2 w2 c"], Tree]:
    """The outputs of all blocks, and the batch statistics that follow.

    Args:
      inputs: the two previous cells, preprocessed.
      params: rows of weights.
      batch_stats: rows of running statistics; those that no step reads stay as they are.
      steps: what to run.
      mode: how to run it; by running statistics a cell has no gradient.
    """
    if not mode.train:
        return _read_blocks(mode, inputs, params, batch_stats, steps), batch_stats
    return _run(mode, inputs, params, batch_stats, steps)


def plan_steps(
    operations: Int[Array, " branches"], sources: Int[Array, " branches"], rows: Int[Array | np.ndarray, "branches 2"]
) -> Steps:
    """The steps of a cell: two for a separable convolution, one for any other branch.

    Args:
      operations: of each branch.
      sources: the input of each branch, 0 to ``blocks``.
      rows: of weights, that the first and the second step of each branch read.
    """
    branches = operations.shape[0]
    branch = jnp.arange(branches, dtype=jnp.int32)
    middle, block = 2 + branches // 2 + branch, 2 + branch // 2
    separable = (operations == SEP_CONV_3X3) | (operations == SEP_CONV_5X5)
    taken = jnp.stack([jnp.ones_like(separable), separable], axis=1).reshape(-1)
    order = jnp.argsort(~taken, stable=True)

    def column(first: Array, second: Array) -> Array:
        return jnp.stack([first, second], axis=1).reshape(-1)[order]

    return Steps(
        operation=column(operations, operations),
        read=column(sources, middle),
        write=column(jnp.where(separable, middle, block), block),
        weights=column(*jnp.asarray(rows).T),
        length=jnp.sum(taken, dtype=jnp.int32),
    )


def _read_blocks(mode: Mode, inputs: Array, params: Tree, batch_stats: Tree, steps: Steps) -> Array:
    """The outputs of all blocks, by running statistics."""
    blocks = steps.read.shape[0] // 4
    middle = 2 + blocks
    cases = _cases(mode)

    def step(i: Array, buffers: Buffers) -> Buffers:
        read, write = (jnp.minimum(slot[i], middle) for slot in (steps.read, steps.write))
        case, row = _case(steps, i, mode.reduction), steps.weights[i]
        y, _ = lax.switch(case, cases, _read(buffers, read), _row(params, row), _row(batch_stats, row))
        return _add(buffers, write, y, fresh=write == middle)

    start = _buffers(inputs, _empty_slots(inputs, blocks + 1, mode.reduction), mode.reduction)
    return _split(lax.fori_loop(0, steps.length, step, start))[1][:blocks]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(mode: Mode, inputs: Array, params: Tree, batch_stats: Tree, steps: Steps) -> tuple[Array, Tree]:
    return _run_forward(mode, inputs, params, batch_stats, steps)[0]


def _run_forward(
    mode: Mode, inputs: Array, params: Tree, batch_stats: Tree, steps: Steps
) -> tuple[tuple[Array, Tree], tuple]:
    blocks = steps.read.shape[0] // 4
    slots = _empty_slots(inputs, 3 * blocks, mode.reduction)
    cases = _cases(mode)

    def step(i: Array, carry: tuple[Buffers, Tree]) -> tuple[Buffers, Tree]:
        buffers, stats = carry
        case, row = _case(steps, i, mode.reduction), steps.weights[i]
        y, new = lax.switch(case, cases, _read(buffers, steps.read[i]), _row(params, row), _row(stats, row))
        return _add(buffers, steps.write[i], y), _set_row(stats, row, new)

    start = (_buffers(inputs, slots, mode.reduction), batch_stats)
    buffers, new_stats = lax.fori_loop(0, steps.length, step, start)
    return (_split(buffers)[1][:blocks], new_stats), (buffers, params, batch_stats, steps)


def _run_backward(mode: Mode, saved: tuple, cotangents: tuple[Array, Tree]) -> tuple:
    buffers, params, batch_stats, steps = saved
    dblocks, _ = cotangents  # running statistics carry no gradient
    pullbacks = [partial(_pullback, operation) for operation in _cases(mode)]

    def step(i: Array, carry: tuple[Buffers, Tree]) -> tuple[Buffers, Tree]:
        i = steps.length - 1 - i
        dbuffers, dparams = carry
        case, row, dy = _case(steps, i, mode.reduction), steps.weights[i], _at(dbuffers, steps.write[i])
        x = _read(buffers, steps.read[i])
        dx, drow = lax.switch(case, pullbacks, x, _row(params, row), _row(batch_stats, row), dy)
        return _add_read(dbuffers, steps.read[i], dx), _increase_row(dparams, row, drow)

    inputs, slots = (jnp.zeros_like(x) for x in _split(buffers))
    dslots = slots.at[: dblocks.shape[0]].set(dblocks)
    start = (_buffers(inputs, dslots, mode.reduction), jax.tree.map(jnp.zeros_like, params))
    dbuffers, dparams = lax.fori_loop(0, steps.length, step, start)
    return _split(dbuffers)[0], dparams, jax.tree.map(jnp.zeros_like, batch_stats), None


_run.defvjp(_run_forward, _run_backward)


def _pullback(operation: Operation, x: Buffers, weights: Tree, stats: Tree, dy: Array) -> tuple[Buffers, Tree]:
    _, pullback = jax.vjp(lambda x, weights: operation(x, weights, stats)[0], x, weights)
    return pullback(dy)


def _row(tree: Tree, i: Array) -> Tree:
    return jax.tree.map(lambda x: _get(x, i), tree)


def _set_row(tree: Tree, i: Array, row: Tree) -> Tree:
    return jax.tree.map(lambda x, y: lax.dynamic_update_index_in_dim(x, y, i, 0), tree, row)


def _increase_row(tree: Tree, i: Array, row: Tree) -> Tree:
    return jax.tree.map(lambda x, y: _increase(x, i, y), tree, row)


def _get(x: Array, i: Array) -> Array:
    """``x[i]``; an index beyond the ends reads the end, and costs no check."""
    return lax.dynamic_index_in_dim(x, i, 0, keepdims=False)


def _increase(x: Array, i: Array, y: Array) -> Array:
    return lax.dynamic_update_index_in_dim(x, _get(x, i) + y, i, 0)


# In a normal cell all slots are one buffer, so that an operation reads any. In a reduction cell the inputs are larger
# than the rest and there are two buffers; an operation is handed one slot of each and takes that of its stride.


def _empty_slots(inputs: Array, count: int, reduction: bool) -> Array:
    size = -(-inputs.shape[2] // (2 if reduction else 1))
    return jnp.zeros((count, inputs.shape[1], size, size, inputs.shape[4]), inputs.dtype)


def _buffers(inputs: Array, slots: Array, reduction: bool) -> Buffers:
    return (inputs, slots) if reduction else (jnp.concatenate([inputs, slots]),)


def _split(buffers: Buffers) -> tuple[Array, Array]:
    return (buffers[0], buffers[1]) if len(buffers) == 2 else (buffers[0][:2], buffers[0][2:])


def _read(buffers: Buffers, slot: Array) -> Buffers:
    if len(buffers) == 1:
        return (_get(buffers[0], slot),)
    return _get(buffers[0], jnp.minimum(slot, 1)), _get(buffers[1], jnp.maximum(slot - 2, 0))


def _add_read(buffers: Buffers, slot: Array, x: Buffers) -> Buffers:
    if len(buffers) == 1:
        return (_increase(buffers[0], slot, x[0]),)
    inputs, slots = buffers
    return _increase(inputs, jnp.minimum(slot, 1), x[0]), _increase(slots, jnp.maximum(slot - 2, 0), x[1])


def _at(buffers: Buffers, slot: Array) -> Array:
    """The slot of a block or a middle."""
    return _get(buffers[1], slot - 2) if len(buffers) == 2 else _get(buffers[0], slot)


def _add(buffers: Buffers, slot: Array, y: Array, fresh: Array | bool = False) -> Buffers:
    """Adds to the slot of a block or a middle; a fresh one holds nothing that counts."""
    which, slot = (1, slot - 2) if len(buffers) == 2 else (0, slot)
    before = jnp.where(fresh, 0, _get(buffers[which], slot))
    return *buffers[:which], lax.dynamic_update_index_in_dim(buffers[which], before + y, slot, 0)


def _case(steps: Steps, i: Array, reduction: bool) -> Array:
    """Which of `_cases` a step runs."""
    operation = steps.operation[i]
    return jnp.where(steps.read[i] >= 2, operation + len(OPERATIONS), operation) if reduction else operation


def _cases(mode: Mode) -> Sequence[Operation]:
    """The operations at stride 1; in a reduction cell, those at stride 2 on a cell's input stand before them."""
    if not mode.reduction:
        return [partial(_on, 0, operation) for operation in _operations(1, mode)]
    on_input = [partial(_on, 0, operation) for operation in _operations(2, mode)]
    return on_input + [partial(_on, 1, operation) for operation in _operations(1, mode)]


def _on(buffer: int, operation: Operation, x: Buffers, weights: Tree, stats: Tree) -> tuple[Array, Tree]:
    return operation(x[buffer], weights, stats)


def _operations(stride: int, mode: Mode) -> Sequence[Operation]:
    """One step of the four operations, in the order of a code, `(x, weights, stats) -> (y, stats)`."""
    return [
        partial(_separable_half, 3, stride, mode),
        lambda x, weights, stats: (layers.max_pool(x, stride), stats),
        partial(_skip_reduce, mode) if stride == 2 else lambda x, weights, stats: (x, stats),
        partial(_separable_half, 5, stride, mode),
    ]


def _separable_half(size: int, stride: int, mode: Mode, x: Array, weights: Tree, stats: Tree) -> tuple[Array, Tree]:
    margin = (5 - size) // 2
    kernel = weights["depthwise"][margin : margin + size, margin : margin + size].astype(x.dtype)
    y = layers.pointwise(layers.depthwise(jax.nn.relu(x), kernel, stride), _pointwise(weights, mode).astype(x.dtype))
    return norm(y, weights, stats, mode.train)


def _skip_reduce(mode: Mode, x: Array, weights: Tree, stats: Tree) -> tuple[Array, Tree]:
    y = layers.factorised_reduce(jax.nn.relu(x), _pointwise(weights, mode).astype(x.dtype))
    return norm(y, weights, stats, mode.train)


def _pointwise(weights: Tree, mode: Mode) -> Array:
    return layers.standardise(weights["pointwise"]) if mode.standardise else weights["pointwise"]
