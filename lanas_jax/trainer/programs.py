"""The compiled programs of a training: batches are sharded along the mesh axis ``data``, weights are replicated.

XLA divides the work on a batch among the devices and sums gradients and batch statistics over them. The devices may
belong to several processes; every process must then call the functions of this file in the same order.

A `BatchSource` supplies the batches: that of `lanas_jax.trainer.compilation` holds all training images on every device
and takes many steps in one call; that of `lanas_jax.trainer.streamed` reads batches from a stream.

A compiled program contains neither images nor weights nor the numbers of a recipe, so trainings that differ only in
these share it (`shared_programs`).
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from lanas_jax.data.scaling import Scaling
from lanas_jax.runtime.distributed import Preemption
from lanas_jax.runtime.program_memo import MEMO
from lanas_jax.storage.weights import AnyArray, filled
from lanas_jax.trainer import step as training
from lanas_jax.trainer.step import FinalState, TrainerTask
from lanas_jax.trainer.task import (
    AuxiliaryInputs,
    FinalNetwork,
    Training,
    Weights,
    auxiliary_inputs,
    data_of,
    with_data,
)

AXIS = "data"


def placed(tree: Any, everywhere: NamedSharding) -> Any:
    """Places a tree of arrays on every device of a replicated sharding. Each process holds the whole tree."""
    if everywhere.is_fully_addressable:
        return jax.device_put(tree, everywhere)
    return jax.tree.map(lambda leaf: _on_all(leaf, everywhere), tree)


def _on_all(leaf: Any, everywhere: NamedSharding) -> Array:
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_on_all(jax.random.key_data(leaf), everywhere), impl=jax.random.key_impl(leaf))
    array = np.asarray(leaf)
    return jax.make_array_from_process_local_data(everywhere, array, array.shape)


class Advance(Protocol):
    """A function that takes training steps; returned by `Programs.session`."""

    @property
    def waited(self) -> float:
        """The seconds spent waiting for a batch."""
        ...

    def __call__(
        self, state: FinalState, until: int, preemption: Preemption
    ) -> tuple[FinalState, Float[Array, " steps"]]:
        """Takes some steps, at most up to step `until`. The state is consumed.

        Returns:
          The new state, and the loss of each step, 0 for steps not taken.
        """
        ...


@runtime_checkable
class BatchSource(Protocol):
    """A source of the batches of a training."""

    @property
    def count(self) -> int:
        """The number of training images."""
        ...

    def session(self, programs: "Programs", step: int) -> contextlib.AbstractContextManager[Advance]:
        """Returns a context manager that yields the function taking the steps after step `step`."""
        ...

    def accuracy(self, programs: "Programs", weights: Weights, split: Any) -> float:
        """Returns the accuracy on a split, in [0, 1]. The split must be of this source's kind."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Programs:
    """The programs of one training, created by `assembled`.

    Attributes:
      task: task that the programs were compiled for.
      mesh: mesh of all devices.
      source: source of the batches.
      total: number of steps of the whole training.
      data: auxiliary inputs, on all devices.
      initial: initial weights by name, which replace those that `begin` initializes.
      seed: seed of the training.
      keys: PRNG keys of the initial weights and of the training.
      begin: function from auxiliary inputs and a key to the initial state; compiled at the first call.
      program: compiled training program: `lanas_jax.trainer.step.train_steps`, `train_on_batch`, or
        `lanas_jax.trainer.passes.PassPrograms`.
      compile_seconds: seconds of tracing and compiling.
      at_peak: seconds per training image at the peak throughput of all devices; None if unknown.
    """

    task: TrainerTask
    mesh: Mesh
    source: BatchSource
    total: int
    data: AuxiliaryInputs
    initial: Mapping[str, AnyArray]
    seed: int
    keys: tuple[PRNGKeyArray, PRNGKeyArray]
    begin: Callable[[AuxiliaryInputs, PRNGKeyArray], FinalState]
    program: Any
    compile_seconds: float
    at_peak: float | None = None

    @property
    def count(self) -> int:
        """The number of training images."""
        return self.source.count

    @property
    def everywhere(self) -> NamedSharding:
        """The replicated sharding of the weights."""
        return NamedSharding(self.mesh, PartitionSpec())

    def start(self) -> FinalState:
        """Returns the state before the first step.

        Raises:
          ValueError: the initial weights belong to another network; the message names one array.
        """
        state = self.begin(self.data, self.keys[0])
        if not self.initial:
            return state
        weights = placed(filled(state.weights, self.initial, partly=True), self.everywhere)
        average = None if state.average is None else jax.tree.map(jnp.copy, weights)
        return state._replace(weights=weights, average=average)

    def fits(self, network: FinalNetwork) -> bool:
        """Returns whether the programs are those of a network except for its data; False if it cannot be compared."""
        return _equal(network, with_data(self.task.network, data_of(network)))

    def rebind(self, final: Training) -> "Programs":
        """Returns the same programs for another training on the same images, if `shared_programs` allows sharing.

        Raises:
          ValueError: the recipes differ in more than their numbers, or the networks in more than their data.
        """
        if not self.fits(final.network):
            raise ValueError("the programs were compiled for another network; compile new programs")
        kinds = {jax.tree.structure(recipe.read_by_programs) for recipe in (self.task.recipe, final.recipe)}
        if len(kinds) > 1:
            raise ValueError(
                f"the programs were compiled for another kind of recipe: expected {self.task.recipe} except for "
                f"numbers, got {final.recipe}; compile new programs"
            )
        task = dataclasses.replace(self.task, network=final.network, recipe=final.recipe, teacher=final.teacher)
        return assembled(final, task, self.mesh, self.source, self.begin, self.program, self.compile_seconds)

    def session(self, step: int) -> contextlib.AbstractContextManager[Advance]:
        """Returns a context manager that yields the function taking the steps after step `step`."""
        return self.source.session(self, step)

    def advance(self, state: FinalState, until: int) -> tuple[FinalState, Float[Array, " steps"]]:
        """Runs one dispatch in a separate session; arguments and result as in `Advance`."""
        with self.session(int(state.step)) as advance:
            return advance(state, until, Preemption())

    def accuracy(self, weights: Weights, split: Any) -> float:
        """Returns the accuracy on a split, in [0, 1]."""
        return self.source.accuracy(self, weights, split)


class Compiled(NamedTuple):
    """The compiled functions of a training, which contain none of its data; attributes as in `Programs`."""

    begin: Callable[[AuxiliaryInputs, PRNGKeyArray], FinalState]
    program: Any
    count_correct: Callable[..., Any]  # counts correct images; as in `InMemory` or `Streamed`

    @classmethod
    def of(cls, task: TrainerTask, program: Any, count_correct: Callable[..., Any]) -> "Compiled":
        """Returns the functions of a compiled training program; the others are compiled at their first call."""
        everywhere = NamedSharding(task.batch.mesh, PartitionSpec())
        begin = jax.jit(functools.partial(training.begin, task), out_shardings=everywhere)
        return cls(begin, program, jax.jit(functools.partial(count_correct, task)))


def shared_programs(task: TrainerTask, images: Hashable, make: Callable[[TrainerTask], Compiled]) -> Compiled:
    """Returns the functions that an earlier training of this process compiled, or compiles them with `make`.

    Trainings share compiled functions if they differ only in the numbers of their recipes, their seeds, their initial
    weights and the data of their networks and teachers. Networks and teachers must compare equal otherwise.

    Args:
      task: task to compile for.
      images: shapes and dtypes of the images, and their source.
      make: function that compiles the task, given without the data of network and teacher.
    """
    bare = _bare(task)
    if not (_equal(bare.network, task.network) and _equal(bare.teacher, task.teacher)):
        return make(task)
    leaves, structure = jax.tree.flatten(abstract_data(task))
    what = (bare.network, bare.teacher, task.augmentation, task.classes, task.scaling, task.batch)
    return MEMO.shared(("final", *what, structure, tuple(leaves), images), lambda: make(bare))[0]


def _equal(one: Any, other: Any) -> bool:
    """Returns whether two objects are equal. Unhashable objects hold arrays, which cannot be compared by ``==``."""
    try:
        return hash(one) == hash(other) and bool(one == other)
    except TypeError:
        return False


def _bare(task: TrainerTask) -> TrainerTask:
    """Returns the task with the data of network and teacher replaced by zeros that take no memory."""

    def zeros(data: PyTree[AnyArray]) -> PyTree[AnyArray]:
        return jax.tree.map(lambda leaf: np.broadcast_to(leaf.dtype.type(0), leaf.shape), data)

    network = with_data(task.network, zeros(data_of(task.network)))
    teacher = None if task.teacher is None else task.teacher.with_data(zeros(task.teacher.data))
    return dataclasses.replace(task, network=network, teacher=teacher)


def task_of(final: Training, mesh: Mesh, classes: int, scaling: Scaling | None) -> TrainerTask:
    """Returns the task of a training over a mesh."""
    batch = NamedSharding(mesh, PartitionSpec(AXIS))
    return TrainerTask(final.network, final.recipe, final.augmentation, classes, scaling, batch, final.teacher)


def abstract_data(task: TrainerTask) -> Any:
    """Returns the shapes, dtypes and shardings of a task's `AuxiliaryInputs`."""
    everywhere = NamedSharding(task.batch.mesh, PartitionSpec())
    shapes = jax.eval_shape(lambda read: read, auxiliary_inputs(task.network, task.recipe, task.teacher))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), shapes)


def abstract(task: TrainerTask) -> tuple[Any, FinalState, Any, Any]:
    """Returns the shapes, dtypes and shardings of the arguments that all programs take.

    They are: `AuxiliaryInputs`, state, key and a step number.
    """
    everywhere = NamedSharding(task.batch.mesh, PartitionSpec())
    described: tuple[FinalState, Any, Any] = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
        (
            training.shapes(task.network, task.recipe),
            jax.eval_shape(lambda: jax.random.key(0)),
            jax.ShapeDtypeStruct((), np.int32),
        ),
    )
    return abstract_data(task), *described


def assembled(
    final: Training,
    task: TrainerTask,
    mesh: Mesh,
    source: BatchSource,
    begin: Callable[[AuxiliaryInputs, PRNGKeyArray], FinalState],
    program: Any,
    compile_seconds: float,
) -> Programs:
    """Returns the `Programs` of a training from its compiled functions and its inputs."""
    first, key = jax.random.split(jax.random.key(final.seed))
    read = auxiliary_inputs(task.network, task.recipe, task.teacher)
    keys, data = placed(((first, key), read), NamedSharding(mesh, PartitionSpec()))
    total = final.recipe.sgd.steps(source.count)
    initial = final.initial or {}
    return Programs(task, mesh, source, total, data, initial, final.seed, keys, begin, program, compile_seconds)
