"""The forms of a candidate as programs to compile, estimate or time: one cell, or the training of a candidate.

- ``shared``: the code is data, and a step runs the selected operations by loops and conditionals
- ``branchless``: the code is data, and a step computes all operations and selects
- ``specialised``: a program for one code

All give the same outputs from the same weights (docs/candidates.md). The networks are those of NASNet, NAS-Bench-201
and NAS-Bench-101 cells.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from lanas_jax.candidates.cost_model import ENDLESS
from lanas_jax.candidates.population import AXIS, Population
from lanas_jax.candidates.step import CandidateTask, Network, TrainState, candidate_train_step, start_candidate
from lanas_jax.data.splits import SearchData
from lanas_jax.models.functional import Functional
from lanas_jax.models.layers.conv import Identity
from lanas_jax.models.nasbench import NASBench101, NASBench201, nasbench101_cell, nasbench201_cell
from lanas_jax.models.nasbench.nasbench101_network import NASBench101Cell
from lanas_jax.models.nasbench.nasbench201_network import NASBench201Cell
from lanas_jax.models.nasnet import NASNet, branchless_cell, cell
from lanas_jax.models.nasnet.network import NASNetCell
from lanas_jax.models.nasnet.operations import Arithmetic
from lanas_jax.planning.stages import shapes_of
from lanas_jax.runtime.devices import mesh_of
from lanas_jax.spaces import nasbench201
from lanas_jax.spaces.nasnet import OPERATIONS, SEP_CONV_3X3, SEP_CONV_5X5
from lanas_jax.training.sgd import TrainConfig

Form = Literal["shared", "branchless", "specialised"]
Part = Literal["cell", "candidate"]
Networks = NASNet | NASBench201 | NASBench101
SEPARABLE = (SEP_CONV_3X3, SEP_CONV_5X5)


@dataclasses.dataclass(frozen=True)
class CellSteps:
    """The operations that a normal cell runs, one after the other, if its code is data.

    Attributes:
      count: number of operations; a separable convolution counts as two.
      shares: share of each of `OPERATIONS` among them.
    """

    count: int
    shares: tuple[float, ...]


def cell_steps(network: NASNet, code: Int[np.ndarray, " dims"]) -> CellSteps:
    """Returns the operations of the normal cell of a code."""
    operations = network.space.operations(code[None])[0, network.space.shapes[0].cell].reshape(-1)
    steps = np.repeat(operations, np.where(np.isin(operations, SEPARABLE), 2, 1))
    counts = np.bincount(steps, minlength=len(OPERATIONS))
    return CellSteps(len(steps), tuple((counts / len(steps)).tolist()))


def control_flow_of(
    network: Networks, code: Int[np.ndarray, " dims"]
) -> tuple[tuple[float, ...], dict[int, Sequence[float]]]:
    """Returns what the code decides in the shared form.

    Returns:
      The number of iterations of the loops in a cell whose length depends on the code, and the share of the runs of
      each branch of a conditional, by number of branches, on average over a cell.
    """
    if isinstance(network, NASNet):
        run = cell_steps(network, code)
        # The forward pass of a reduction cell has a branch for each operation on the cell's inputs and one for others.
        return (run.count,), {len(run.shares): run.shares, 2 * len(run.shares): [share / 2 for share in run.shares * 2]}
    if isinstance(network, NASBench201):
        operations = len(nasbench201.OPERATIONS)
        return (), {operations: (np.bincount(code, minlength=operations) / len(code)).tolist()}
    with jax.ensure_compile_time_eval():
        cases = nasbench101_cell.branch_indices(nasbench101_cell.read_graph(network.space, code))
    kinds = 1 + len(nasbench101_cell.SHARES), 2 + 2 * len(nasbench101_cell.SHARES)
    counts = (np.bincount(np.asarray(case), minlength=kind) for case, kind in zip(cases, kinds, strict=True))
    return (), {len(count): (count / count.sum()).tolist() for count in counts}


def network_of(network: Networks, form: Form, code: Int[np.ndarray, " dims"]) -> Network:
    """Returns the network in a form."""
    if form == "specialised":
        return network.for_code(code)
    return network.as_branchless() if form == "branchless" else network


def population(
    network: Networks,
    form: Form,
    code: Int[np.ndarray, " dims"],
    training: TrainConfig,
    devices: Sequence[jax.Device],
    vmapped: int,
    steps: int,
) -> Population:
    """Returns the training of `vmapped` candidates on each device, with `steps` steps in each call."""
    return Population(network_of(network, form, code), training, devices, vmapped, vmapped > 1, steps)


def candidate_program(layout: Population, data: SearchData) -> jax.stages.Lowered:
    """Traces the training of candidates; the data may be a `stand_in`."""
    return layout.lower(shapes_of(data, layout))[1]


def step_program(layout: Population, classes: int, image_shape: tuple[int, ...], platform: str) -> jax.stages.Lowered:
    """Traces one step of all candidates of a device, without the loop over steps and the order of the images."""
    task = CandidateTask(layout.network, layout.config, classes)
    size, count = layout.config.batch_size, layout.per_device

    def start(code: Array, key: Array) -> TrainState:
        return start_candidate(task, code, key)

    def step(state: TrainState, code: Array, images: Array, labels: Array) -> TrainState:
        return candidate_train_step(task, state, code, jnp.int32(ENDLESS), images, labels)

    codes = jax.ShapeDtypeStruct((count, layout.network.space.dims), jnp.int32)
    states = jax.eval_shape(jax.vmap(start), codes, jax.eval_shape(lambda: jax.random.split(jax.random.key(0), count)))
    images = jax.ShapeDtypeStruct((count, size, *image_shape), jnp.float32)
    labels = jax.ShapeDtypeStruct((count, size), jnp.int32)
    each = jax.vmap(step) if layout.vmapped else lambda *own: step(*jax.tree.map(lambda x: x[0], own))
    return jax.jit(each).trace(states, codes, images, labels).lower(lowering_platforms=(platform,))


def cell_program(
    network: Networks,
    form: Form,
    code: Int[np.ndarray, " dims"],
    batch_size: int,
    device: jax.Device,
    vmapped: int,
    platform: str | None = None,
) -> jax.stages.Lowered:
    """Traces the forward and backward pass of the first cell: a normal one, without the 1x1 convolutions on its inputs.

    The loss is the sum of the squared outputs. The program takes inputs, weights, statistics and code, each with a
    leading axis of `vmapped` candidates, and returns the gradients of inputs and weights, and new statistics.
    """
    if isinstance(network, NASNet):
        cell = _specialised_cell(network, code) if form == "specialised" else _data_cell(network, form)
        images = (2, batch_size, *2 * [network.space.shapes[0].input_size], network.space.shapes[0].channels)
    else:
        cell = _specialised_bench_cell(network, code) if form == "specialised" else _bench_cell(network, form)
        images = (batch_size, *2 * [network.space.image_size], network.space.channels)
    run, params, stats = cell

    def loss(inputs: Array, params: Any, stats: Any, code: Array) -> tuple[Array, Any]:
        y, new = run(inputs, params, stats, code)
        return jnp.sum(jnp.square(y.astype(jnp.float32))), new

    def step(inputs: Array, params: Any, stats: Any, code: Array) -> Any:
        return jax.grad(loss, argnums=(0, 1), has_aux=True)(inputs, params, stats, code)

    place = NamedSharding(mesh_of([device], AXIS), PartitionSpec())
    inputs = jax.ShapeDtypeStruct(images, network.compute_dtype)
    codes = jax.ShapeDtypeStruct((network.space.dims,), jnp.int32)
    arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((vmapped, *x.shape), x.dtype, sharding=place), (inputs, params, stats, codes)
    )
    each = jax.vmap(step) if vmapped > 1 else lambda *own: step(*jax.tree.map(lambda x: x[0], own))
    return jax.jit(each).trace(*arguments).lower(lowering_platforms=None if platform is None else (platform,))


def _data_cell(network: NASNet, form: Form) -> tuple[Callable[..., Any], Any, Any]:
    """Returns the cell with its code as data, and the shapes of its weights and statistics."""
    space, shape = network.space, network.space.shapes[0]
    code = jax.ShapeDtypeStruct((space.dims,), jnp.int32)
    trees = jax.eval_shape(network.init, jax.random.key(0), code)
    params, stats = (
        jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((x.shape[0] * x.shape[1], *x.shape[2:]), x.dtype),
            tree["cells"][0]["branches"],
        )
        for tree in trees
    )
    rows = np.arange(4 * space.blocks, dtype=np.int32).reshape(-1, 2)
    run_cell = branchless_cell.run_cell if form == "branchless" else cell.run_cell

    def run(inputs: Array, params: Any, stats: Any, code: Array) -> tuple[Array, Any]:
        operations, sources = (of(code[None])[0, shape.cell].reshape(-1) for of in (space.operations, space.inputs))
        mode = cell.Mode(False, True, network.weight_standardisation)
        slots, new = run_cell(inputs, params, stats, cell.Branches(operations, sources, rows), mode)
        return slots[-space.blocks :], new

    return run, params, stats


def _specialised_cell(network: NASNet, code: Int[np.ndarray, " dims"]) -> tuple[Callable[..., Any], Any, Any]:
    """Returns the cell of one code, and the shapes of its weights and statistics."""
    arithmetic = Arithmetic(network.compute_dtype, network.weight_standardisation)

    def build() -> nnx.Module:
        module = NASNetCell(network.space, code, network.space.shapes[0], arithmetic=arithmetic, rngs=nnx.Rngs(0))
        module.inputs = nnx.List([Identity(), Identity()])
        return module

    module = Functional(build)

    def run(inputs: Array, params: Any, stats: Any, code: Array) -> tuple[Array, Any]:
        del code
        return module.run(params, stats, lambda cell: cell(inputs[0], inputs[1]), train=True)

    return run, module.params, module.batch_stats


def _bench_cell(network: NASBench201 | NASBench101, form: Form) -> tuple[Callable[..., Any], Any, Any]:
    """Returns the first cell of a benchmark with its code as data, and the shapes of its weights and statistics."""
    stack = "stages" if isinstance(network, NASBench201) else "stacks"
    trees = jax.eval_shape(network.init, jax.random.key(0), np.zeros(network.space.dims, np.int32))
    params, stats = (
        jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), tree[stack][0]) for tree in trees
    )

    def run(x: Array, params: Any, stats: Any, code: Array) -> tuple[Array, Any]:
        settings = {"train": True, "branchless": form == "branchless"}
        if isinstance(network, NASBench201):
            return nasbench201_cell.run_stage(x, params, stats, code, **settings)
        graph = nasbench101_cell.read_graph(network.space, code)
        return nasbench101_cell.run_stack(x, params, stats, graph, **settings)

    return run, params, stats


def _specialised_bench_cell(
    network: NASBench201 | NASBench101, code: Int[np.ndarray, " dims"]
) -> tuple[Callable[..., Any], Any, Any]:
    """Returns the first cell of one code of a benchmark, and the shapes of its weights and statistics."""

    def build() -> nnx.Module:
        settings: Any = {"dtype": network.compute_dtype, "rngs": nnx.Rngs(0)}
        if isinstance(network, NASBench201):
            return NASBench201Cell(code, network.space.channels, **settings)
        return NASBench101Cell(*network.space.to_graph(code), network.space.shapes[0], **settings)

    module = Functional(build)

    def run(x: Array, params: Any, stats: Any, code: Array) -> tuple[Array, Any]:
        del code
        return module.run(params, stats, lambda cell: cell(x), train=True)

    return run, module.params, module.batch_stats
