"""A training step whose passes are programs of their own, compiled side by side.

A step of a sandwich runs several subnetworks, each of which takes minutes to compile for an accelerator. In one
program, their compile times and the compiler's memory add up. Here each pass is a program that adds its gradient to
that of the passes before; a last, small program clips and applies the sum. The codes of a step are functions of seed
and step, so the host knows which programs to call.

Each group of devices that normalises together (`lanas_jax.trainer.step.group_mesh`) sums its own gradient; the last
program adds those of all groups. So the groups exchange a gradient once a step, as if all passes were one program.
"""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from lanas_jax.runtime.devices import cores
from lanas_jax.trainer import step as training
from lanas_jax.trainer.programs import Programs, abstract, placed
from lanas_jax.trainer.step import FinalState, TrainerTask
from lanas_jax.trainer.task import AuxiliaryInputs, BatchStats, Params, SeparatePasses, StepPass, Weights
from lanas_jax.training.sgd import matmul_precision

APPLY = "apply"  # name of the program that ends a step


class PassResult(NamedTuple):
    """The running result of a step's passes. All fields but `images` and `taught` have a leading axis of groups."""

    loss: Float[Array, " groups"]  # sum over passes
    batch_stats: BatchStats
    gradient: Params  # sum over passes
    images: Float[Array, "n height width channels"]  # augmented batch
    taught: Float[Array, "n classes"]  # distributions that the first pass predicted


def begin_step(
    task: TrainerTask,
    data: AuxiliaryInputs,
    state: FinalState,
    key: PRNGKeyArray,
    images: Array,
    labels: Int[Array, " n"],
) -> PassResult:
    """Augments a batch and runs the first pass of a step; arguments as in `lanas_jax.trainer.step.train_on_batch`."""
    task = training.with_auxiliary_inputs(task, data)
    augmenting, dropping = training.step_keys(jax.random.split(key)[1], state.step)
    batch = training.batch_of(task, augmenting, images, labels, None)
    targets = optax.smooth_labels(batch.targets, task.recipe.label_smoothing)

    def run(
        group: Int[Array, ""] | int, weights: Weights, images: Array, targets: Array, key: PRNGKeyArray
    ) -> PassResult:
        loss, stats, gradient, taught = _network(task).first_pass(
            weights, images, targets, jax.random.fold_in(key, group)
        )
        loss, stats, gradient = _stacked((loss, stats, gradient))
        return PassResult(loss, stats, gradient, images, taught)

    whole, share = PartitionSpec(), PartitionSpec("group")
    return _by_group(task, run, (whole, share, share, whole), share)(state.weights, batch.images, targets, dropping)


def run_pass(
    task: TrainerTask,
    program: str,
    data: AuxiliaryInputs,
    state: FinalState,
    so_far: PassResult,
    code: Int[Array, " dims"],
) -> PassResult:
    """Runs one more pass of a step.

    Args:
      task: task to train.
      program: name of the program, one of the network's `pass_programs`.
      data: auxiliary inputs.
      state: state before the step.
      so_far: result of the earlier passes; donated.
      code: architecture of the pass.
    """
    task = training.with_auxiliary_inputs(task, data)

    def run(group: Int[Array, ""] | int, params: Params, so_far: PassResult, code: Array) -> PassResult:
        del group
        total, stats, summed = jax.tree.map(lambda x: x[0], so_far[:3])
        loss, stats, gradient = _network(task).later_pass(
            program, Weights(params, stats), so_far.images, so_far.taught, code
        )
        found = total + loss, stats, jax.tree.map(jnp.add, summed, gradient)
        return so_far._replace(**dict(zip(PassResult._fields[:3], _stacked(found), strict=True)))

    whole, share = PartitionSpec(), PartitionSpec("group")
    return _by_group(task, run, (whole, share, whole), share)(state.weights.params, so_far, code)


def end_step(
    task: TrainerTask,
    data: AuxiliaryInputs,
    state: FinalState,
    found: tuple[Float[Array, " groups"], BatchStats, Params],
    total: Int[Array, ""],
) -> tuple[FinalState, Float[Array, ""]]:
    """Ends a step, unless loss or weights are no longer finite.

    Args:
      task: task to train.
      data: auxiliary inputs.
      state: state before the step; consumed.
      found: loss, batch statistics and gradient after all passes (`PassResult`).
      total: number of steps of the whole training.

    Returns:
      The new state, and the loss of the step, 0 if it was not taken.
    """
    task = training.with_auxiliary_inputs(task, data)

    def run(group: Int[Array, ""] | int, *sums: Any) -> tuple[Array, BatchStats, Params]:
        loss, stats, gradient = jax.tree.map(lambda x: x[0], sums)
        loss, gradient = _network(task).combined(loss, gradient)
        if isinstance(group, int):
            return loss, stats, gradient
        return training.summed_over_groups(task.recipe, loss, stats, gradient)

    share = PartitionSpec("group")
    sums = _by_group(task, run, (share, share, share), PartitionSpec())(*found)
    going = state.is_finite
    after = lax.cond(going, lambda state: training.updated(task, state, total, *sums), lambda state: state, state)
    return after, jnp.where(going, after.loss, 0.0)


class Lowered(NamedTuple):
    """The programs of a step, not yet compiled."""

    passes: Mapping[str, jax.stages.Lowered]  # by name; the first one begins a step
    apply: jax.stages.Lowered


def lowered_passes(task: TrainerTask, images: jax.ShapeDtypeStruct, labels: jax.ShapeDtypeStruct) -> Lowered:
    """Lowers the programs of a step, from shapes alone.

    All programs have the whole state as an argument, so that their memory is that of a training at that time.

    Args:
      task: task whose network has `pass_programs`.
      images: shape, dtype and sharding of a batch.
      labels: shape, dtype and sharding of its labels.
    """
    everywhere = NamedSharding(task.batch.mesh, PartitionSpec())
    mesh = training.group_mesh(task)
    of_group = everywhere if mesh is None else NamedSharding(mesh, PartitionSpec("group"))
    data, state, key, number = abstract(task)
    handed_on = PassResult(of_group, of_group, of_group, task.batch, task.batch)  # type: ignore[arg-type]
    first, *others = _network(task).pass_programs

    begin = jax.jit(functools.partial(begin_step, task), out_shardings=handed_on, keep_unused=True)
    begun = begin.lower(data, state, key, images, labels)
    loss, stats, gradient, augmented, taught = (
        jax.tree.map(lambda x, place=place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), part)
        for part, place in zip(begun.out_info, handed_on, strict=True)
    )
    result = PassResult(loss, stats, gradient, augmented, taught)
    code = jax.ShapeDtypeStruct((task.network.space.dims,), np.int32, sharding=everywhere)
    passes = {first: begun}
    for name in others:
        run = functools.partial(run_pass, task, name)
        passes[name] = jax.jit(run, donate_argnums=2, out_shardings=handed_on, keep_unused=True).lower(
            data, state, result, code
        )
    end = jax.jit(functools.partial(end_step, task), donate_argnums=1, out_shardings=everywhere, keep_unused=True)
    return Lowered(passes, end.lower(data, state, (loss, stats, gradient), number))


@dataclasses.dataclass(frozen=True, eq=False)
class PassPrograms:
    """The compiled programs of a step.

    Attributes:
      passes: programs of the passes by name; the first one begins a step.
      apply: program that ends a step.
    """

    passes: Mapping[str, jax.stages.Compiled]
    apply: jax.stages.Compiled

    @classmethod
    def of(cls, lowered: Lowered) -> "PassPrograms":
        """Compiles the programs side by side, one for each core of this machine at a time."""
        with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
            *passes, apply = pool.map(lambda one: one.compile(), (*lowered.passes.values(), lowered.apply))
        return cls(dict(zip(lowered.passes, passes, strict=True)), apply)

    def steps(self, programs: Programs, first: int) -> "Iterator[TakeStep]":
        """Yields functions that take the steps after step `first`, each as `train_on_batch` does."""
        network, count = programs.task.network, programs.task.recipe.steps_per_dispatch
        assert isinstance(network, SeparatePasses)
        key = jax.random.split(jax.random.key(programs.seed))[1]
        while True:
            for passes in network.passes(_keys_of_passes(key, np.int32(first), count)):
                yield TakeStep(self, programs, passes)
            first += count


@dataclasses.dataclass(frozen=True)
class TakeStep:
    """A function that takes one step with given passes."""

    compiled: PassPrograms
    programs: Programs
    passes: list[StepPass]

    def __call__(
        self,
        data: AuxiliaryInputs,
        state: FinalState,
        key: PRNGKeyArray,
        total: Int[Array, ""],
        images: Array,
        labels: Int[Array, " n"],
    ) -> tuple[FinalState, Float[Array, ""]]:
        """Takes the step; arguments and result as in `lanas_jax.trainer.step.train_on_batch`."""
        first, *others = self.passes
        found = self.compiled.passes[first.program](data, state, key, images, labels)
        for one in others:
            code = placed(one.code.astype(np.int32), self.programs.everywhere)
            found = self.compiled.passes[one.program](data, state, found, code)
        after: tuple[FinalState, Array] = self.compiled.apply(data, state, tuple(found[:3]), total)
        return after


@functools.partial(jax.jit, static_argnums=2)
def _keys_of_passes(key: PRNGKeyArray, first: Int[Array, ""], count: int) -> Key[Array, " steps"]:
    """Returns the keys of the passes of `count` steps, from the key of the training."""
    noise = jax.random.split(key)[1]
    return jax.vmap(lambda step: training.step_keys(noise, step)[1])(first + jnp.arange(count))


def _network(task: TrainerTask) -> SeparatePasses:
    assert isinstance(task.network, SeparatePasses)
    return task.network


def _stacked(values: Any) -> Any:
    """Adds a leading axis of one group."""
    return jax.tree.map(lambda x: x[None], values)


def _by_group(task: TrainerTask, run: Any, in_specs: Any, out_specs: Any) -> Any:
    """Returns `run` mapped over the groups of devices, with the index of the group as its first argument."""
    mesh = training.group_mesh(task)

    def in_group(*arguments: Any) -> Any:
        return run(lax.axis_index("group"), *arguments)

    function = functools.partial(run, 0) if mesh is None else training.over_groups(mesh, in_group, in_specs, out_specs)

    def precisely(*arguments: Any) -> Any:
        with matmul_precision(task.recipe.matmul_precision):
            return function(*arguments)

    return precisely
