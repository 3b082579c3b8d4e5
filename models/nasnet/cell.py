"""A NASNet cell that takes the code as data: one program for every cell of one shape.

The weights of a cell are rows. Each row holds the union of the weights that a step of any operation needs:

- ``depthwise``: ``[rows, 5, 5, c]``, for half a separable convolution; a 3x3 convolution reads the centre
- ``pointwise``: ``[rows, c, c]``, for half a separable convolution, or for a skip of stride 2
- ``scale``, ``bias``: ``[rows, c]``, for the same operations as `pointwise`

The batch statistics ``mean`` and ``variance`` have the same layout. The network assigns rows to branches: in
`models/nasnet/candidate.py` each branch has two separate rows, in `models/nasnet/supernet.py` each operation on each
input of each block has. A step without weights may refer to any row: it changes no statistics and adds zero to the
gradient. Weights and statistics are float32; a cell computes in the dtype of its inputs and rounds kernels to it.

A cell runs as a list of steps. Each step reads one slot, runs one operation and adds the result to another slot. There
is a slot for the middle of each branch, which holds the result of the first half of a separable convolution, and one
for each of the two inputs and each block. A loop over steps contains the only `lax.switch`, so that each operation is
compiled once and only the selected ones run. The gradient of a switch would save the residuals of all branches, so the
cell has a custom gradient, which saves only the slots and recomputes each step. Inference needs no gradient: there a
step is a whole block with both branches, without slots for middles.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lanas_jax.models import layers
from lanas_jax.models.layers.norm import norm
from lanas_jax.spaces.nasnet import OPERATIONS, SEP_CONV_3X3, SEP_CONV_5X5, SKIP_CONNECT

Tree = dict[str, Array]
Buffers = tuple[Array, ...]
Operation = Callable[..., tuple[Array, Any]]


class Mode(NamedTuple):
    """The static properties of a cell, independent of its code."""

    reduction: bool  # True if branches on the cell's inputs have stride 2
    train: bool  # True to normalise by the statistics of the batch
    standardise: bool  # True to standardise the kernels of 1x1 convolutions


class Branches(NamedTuple):
    """The branches of a cell, two per block.

    Attributes:
      operation: operation of each branch.
      source: input of each branch, 0 to ``blocks``: the two inputs of the cell, then the blocks.
      rows: rows of weights for the first and second half of each branch.
    """

    operation: Int[Array, " branches"]
    source: Int[Array, " branches"]
    rows: Int[Array | np.ndarray, "branches 2"]


class CellProgram(NamedTuple):
    """The steps of a cell in training; the arrays have room for two steps per branch, of which `length` are used."""

    operation: Int[Array, " steps"]
    on_input: Bool[Array, " steps"]  # True if the step reads the buffer with only the inputs
    read: Int[Array, " steps"]  # slot to read, in that buffer or the last one
    write: Int[Array, " steps"]  # slot to add to, in the last buffer
    weights: Int[Array, " steps"]  # row of weights
    length: Int[Array, ""]  # number of steps


@dataclasses.dataclass(frozen=True)
class Case:
    """An operation on a slot of one buffer, whose result may be added to a slot of the last buffer.

    It receives whole buffers and indexes them itself, since slots passed to a conditional would be copied in memory.
    """

    buffer: int
    operation: Operation

    def output(self, buffers: Buffers, read: Array, weights: Any, stats: Any) -> Array:
        """Returns the result of the operation."""
        return self.operation(_get(buffers[self.buffer], read), weights, stats)[0]

    def added(self, buffers: Buffers, read: Array, write: Array, weights: Tree, stats: Tree) -> tuple[Array, Tree]:
        """Returns the written slot with the result of the operation added, and updated statistics."""
        y, stats = self.operation(_get(buffers[self.buffer], read), weights, stats)
        return y + _get(buffers[-1], write), stats

    def pullback(
        self,
        buffers: Buffers,
        dbuffers: Buffers,
        read: Array,
        dread: Array,
        dwrite: Array,
        fresh: Array,
        weights: Tree,
        stats: Tree,
    ) -> tuple[Array, Tree]:
        """Returns the gradients of the slot that was read, with this step's contribution added, and of the weights.

        Gradients have their own slots, `dread` and `dwrite`; nothing has been added yet to a `fresh` one.
        """
        x = _get(buffers[self.buffer], read)
        _, pullback = jax.vjp(lambda x, weights: self.operation(x, weights, stats)[0], x, weights)
        dx, dweights = pullback(_get(dbuffers[-1], dwrite))
        return dx + jnp.where(fresh, 0, _get(dbuffers[self.buffer], dread)), dweights


def run_cell(
    inputs: Float[Array, "2 n h w c"],
    params: Tree,
    batch_stats: Tree,
    branches: Branches,
    mode: Mode,
) -> tuple[Float[Array, "slots n h2 w2 c"], Tree]:
    """Runs a cell and returns its slots, the last of which are the outputs of all blocks, and updated batch statistics.

    The other slots are included only because slicing would copy; they must not be read.

    Args:
      inputs: preprocessed outputs of the two previous cells.
      params: rows of weights.
      batch_stats: rows of running statistics; rows that no branch reads are unchanged.
      branches: branches to run.
      mode: static properties of the cell; differentiable only if `mode.train` is True.
    """
    if not mode.train:
        return _read_blocks(mode, inputs, params, batch_stats, branches), batch_stats
    return _run(mode, inputs, params, batch_stats, _plan_steps(branches, mode.reduction))


def halves_with_weights(
    operation: Int[Array | np.ndarray, "..."], source: Int[Array | np.ndarray, "..."], reduction: bool
) -> tuple[Bool[Array | np.ndarray, "..."], Bool[Array | np.ndarray, "..."]]:
    """Returns whether the first and the second half of each branch has weights.

    Both halves of a separable convolution have weights, and so does the first half of a skip of stride 2.
    """
    separable = (operation == SEP_CONV_3X3) | (operation == SEP_CONV_5X5)
    return separable | ((operation == SKIP_CONNECT) & (source < 2) & reduction), separable


def _places(branches: Branches, reduction: bool, middles: int) -> tuple[Array, Array, Array]:
    """Returns, per branch: whether it reads the buffer with only the inputs, the slot it reads, its block's slot."""
    first = middles if reduction else middles + 2  # block
    on_input = (branches.source < 2) & reduction
    blocks = jnp.arange(branches.source.shape[0], dtype=jnp.int32) // 2
    return on_input, jnp.where(on_input, branches.source, first - 2 + branches.source), first + blocks


def _plan_steps(branches: Branches, reduction: bool) -> CellProgram:
    """Plans two steps for each separable convolution and one for any other branch."""
    operations, count = branches.operation, branches.operation.shape[0]
    on_input, source, block = _places(branches, reduction, count)
    middle = jnp.arange(count, dtype=jnp.int32)
    separable = (operations == SEP_CONV_3X3) | (operations == SEP_CONV_5X5)
    taken = jnp.stack([jnp.ones_like(separable), separable], axis=1).reshape(-1)
    order = jnp.argsort(~taken, stable=True)

    def column(first: Array, second: Array) -> Array:
        return jnp.stack([first, second], axis=1).reshape(-1)[order]

    return CellProgram(
        operation=column(operations, operations),
        on_input=column(on_input, jnp.zeros_like(on_input)),
        read=column(source, middle),
        write=column(jnp.where(separable, middle, block), block),
        weights=column(*jnp.asarray(branches.rows).T),
        length=jnp.sum(taken, dtype=jnp.int32),
    )


def _read_blocks(mode: Mode, inputs: Array, params: Tree, batch_stats: Tree, branches: Branches) -> Array:
    """Computes the outputs of all blocks with running statistics."""
    outputs = [case.output for case in _cases(mode, _branch_operations)]
    on_input, source, place = _places(branches, mode.reduction, 0)
    rows, blocks = jnp.asarray(branches.rows), len(branches.rows) // 2

    def branch(i: Array, buffers: Buffers) -> Array:
        case = _case(branches.operation[i], on_input[i], mode.reduction)
        weights, stats = ([_row(tree, rows[i, half]) for half in range(2)] for tree in (params, batch_stats))
        return lax.switch(case, outputs, buffers, source[i], weights, stats)

    def block(i: Array, buffers: Buffers) -> Buffers:
        return _set(buffers, -1, place[2 * i], branch(2 * i, buffers) + branch(2 * i + 1, buffers))

    return lax.fori_loop(0, blocks, block, _buffers(inputs, 0, blocks, mode.reduction))[-1]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(mode: Mode, inputs: Array, params: Tree, batch_stats: Tree, steps: CellProgram) -> tuple[Array, Tree]:
    return _run_forward(mode, inputs, params, batch_stats, steps)[0]


def _run_forward(
    mode: Mode, inputs: Array, params: Tree, batch_stats: Tree, steps: CellProgram
) -> tuple[tuple[Array, Tree], tuple]:
    middles = steps.read.shape[0] // 2
    cases = [case.added for case in _cases(mode, _operations)]

    def step(i: Array, carry: tuple[Buffers, Tree]) -> tuple[Buffers, Tree]:
        buffers, stats = carry
        case, row = _case(steps.operation[i], steps.on_input[i], mode.reduction), steps.weights[i]
        places = (buffers, steps.read[i], steps.write[i])
        y, new = lax.switch(case, cases, *places, _row(params, row), _row(stats, row))
        return _set(buffers, -1, steps.write[i], y), _set_row(stats, row, new)

    start = (_buffers(inputs, middles, middles // 2, mode.reduction), batch_stats)
    buffers, new_stats = lax.fori_loop(0, steps.length, step, start)
    return (buffers[-1], new_stats), (buffers, params, batch_stats, steps)


def _run_backward(mode: Mode, saved: tuple, cotangents: tuple[Array, Tree]) -> tuple:
    """Runs the steps backwards; in a reduction cell, the steps that read the cell's inputs run after all others.

    No other step depends on their gradients, so each of the two loops adds to one buffer only. In a normal cell the two
    halves of a convolution are adjacent, so the gradients of all middles share one slot.
    """
    buffers, params, batch_stats, steps = saved
    dlast, _ = cotangents  # gradient of the blocks; running statistics have no gradient
    cases = _cases(mode, _operations)
    middles = steps.read.shape[0] // 2
    left_out = 0 if mode.reduction else middles - 1
    is_middle = ~steps.on_input & (steps.read < middles)
    dread, dwrite = (jnp.maximum(slot - left_out, 0) for slot in (steps.read, steps.write))
    dread = jnp.where(steps.on_input, steps.read, dread)

    def run(which: int, cases: Sequence[Case], chosen: Array, carry: tuple[Buffers, Tree]) -> tuple[Buffers, Tree]:
        order, pullbacks = jnp.flip(jnp.argsort(chosen, stable=True)), [case.pullback for case in cases]

        def step(i: Array, carry: tuple[Buffers, Tree]) -> tuple[Buffers, Tree]:
            i, (dbuffers, dparams) = order[i], carry
            row, places = steps.weights[i], (buffers, dbuffers, steps.read[i], dread[i], dwrite[i], is_middle[i])
            dx, drow = lax.switch(steps.operation[i], pullbacks, *places, _row(params, row), _row(batch_stats, row))
            total = jax.tree.map(jnp.add, _row(dparams, row), drow)
            return _set(dbuffers, which, dread[i], dx), _set_row(dparams, row, total)

        return lax.fori_loop(0, jnp.sum(chosen, dtype=jnp.int32), step, carry)

    taken = jnp.arange(steps.read.shape[0]) < steps.length
    start = (*(jnp.zeros_like(buffer) for buffer in buffers[:-1]), dlast[left_out:])
    carry = (start, jax.tree.map(jnp.zeros_like, params))
    if mode.reduction:
        on_input, on_slot = cases[: len(OPERATIONS)], cases[len(OPERATIONS) :]
        carry = run(1, on_slot, taken & ~steps.on_input, carry)
        (dinputs, _), dparams = run(0, on_input, taken & steps.on_input, carry)
    else:
        (dslots,), dparams = run(0, cases, taken, carry)
        dinputs = dslots[1:3]
    return dinputs, dparams, jax.tree.map(jnp.zeros_like, batch_stats), None


_run.defvjp(_run_forward, _run_backward)


def _row(tree: Tree, i: Array) -> Tree:
    return jax.tree.map(lambda x: _get(x, i), tree)


def _set_row(tree: Tree, i: Array, row: Tree) -> Tree:
    return jax.tree.map(lambda x, y: lax.dynamic_update_index_in_dim(x, y, i, 0), tree, row)


def _get(x: Array, i: Array) -> Array:
    """Returns ``x[i]``; an index out of range is clamped."""
    return lax.dynamic_index_in_dim(x, i, 0, keepdims=False)


def _buffers(inputs: Array, middles: int, blocks: int, reduction: bool) -> Buffers:
    """Returns buffers with the inputs and empty slots for `middles` and `blocks`."""
    if not reduction:
        empty = jnp.zeros((middles + 2 + blocks, *inputs.shape[1:]), inputs.dtype)
        return (lax.dynamic_update_slice_in_dim(empty, inputs, middles, 0),)
    size = -(-inputs.shape[2] // 2)
    return inputs, jnp.zeros((middles + blocks, inputs.shape[1], size, size, inputs.shape[4]), inputs.dtype)


def _set(buffers: Buffers, which: int, slot: Array, x: Array) -> Buffers:
    """Returns the buffers with one slot of one buffer replaced."""
    changed = list(buffers)
    changed[which] = lax.dynamic_update_index_in_dim(changed[which], x, slot, 0)
    return tuple(changed)


def _case(operation: Array, on_input: Array, reduction: bool) -> Array:
    """Returns the index in `_cases` of the case that a step runs."""
    return jnp.where(on_input, operation, operation + len(OPERATIONS)) if reduction else operation


def _cases(mode: Mode, operations: Callable[[int, Mode], Sequence[Operation]]) -> Sequence[Case]:
    """Returns the cases of stride 1; in a reduction cell, preceded by the cases of stride 2 on the cell's inputs."""
    if not mode.reduction:
        return [Case(0, operation) for operation in operations(1, mode)]
    on_input = [Case(0, operation) for operation in operations(2, mode)]
    return on_input + [Case(1, operation) for operation in operations(1, mode)]


def _operations(stride: int, mode: Mode) -> Sequence[Operation]:
    """Returns one step of each of the four operations in code order, `(x, weights, stats) -> (y, stats)`."""
    return [
        partial(_separable_half, 3, stride, mode),
        lambda x, weights, stats: (layers.max_pool(x, stride), stats),
        partial(_skip_reduce, mode) if stride == 2 else lambda x, weights, stats: (x, stats),
        partial(_separable_half, 5, stride, mode),
    ]


def _branch_operations(stride: int, mode: Mode) -> Sequence[Operation]:
    """Returns the operations as whole branches, which take the weights and statistics of both steps."""

    def run(steps: Sequence[Operation], x: Array, weights: Sequence[Tree], stats: Sequence[Tree]) -> tuple[Array, None]:
        for step, *row in zip(steps, weights, stats, strict=False):
            x, _ = step(x, *row)
        return x, None

    separable = {SEP_CONV_3X3, SEP_CONV_5X5}
    both = zip(_operations(stride, mode), _operations(1, mode), strict=True)
    return [partial(run, steps if operation in separable else steps[:1]) for operation, steps in enumerate(both)]


def _separable_half(size: int, stride: int, mode: Mode, x: Array, weights: Tree, stats: Tree) -> tuple[Array, Tree]:
    margin = (5 - size) // 2
    kernel = weights["depthwise"][margin : margin + size, margin : margin + size]
    y = layers.separable(jax.nn.relu(x), kernel, pointwise_kernel(weights, mode), stride)
    return norm(y, weights, stats, mode.train)


def _skip_reduce(mode: Mode, x: Array, weights: Tree, stats: Tree) -> tuple[Array, Tree]:
    y = layers.factorised_reduce(jax.nn.relu(x), pointwise_kernel(weights, mode))
    return norm(y, weights, stats, mode.train)


def pointwise_kernel(weights: Tree, mode: Mode) -> Float[Array, "c c"]:
    """Returns the kernel of a 1x1 convolution, standardised if the mode says so."""
    return layers.standardise(weights["pointwise"]) if mode.standardise else weights["pointwise"]
