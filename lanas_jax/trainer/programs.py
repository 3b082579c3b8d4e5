"""The compiled programs of a training, over all devices: a batch spread along the axis ``data``, weights on each.

Everything that is the same on each device (weights, which images make a batch) is replicated; XLA divides the work on a
batch and adds gradients and batch statistics up. Devices may belong to several processes, each of which then calls
everything here, in the same order.

A `BatchSource` supplies the batches: `lanas_jax.trainer.in_memory` holds all training images on every device and takes
many steps in one call; `lanas_jax.trainer.streamed` reads batches from a stream.

What is compiled holds neither images nor weights nor the numbers of a recipe, so trainings that differ in these alone
share it (`shared`).
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
from lanas_jax.trainer.sharding import placed
from lanas_jax.trainer.step import FinalState, TrainerTask
from lanas_jax.trainer.task import AuxiliaryInputs, Training, Weights, beside, data_of, with_data

AXIS = "data"


class Advance(Protocol):
    """Takes steps; what `Programs.session` gives."""

    @property
    def waited(self) -> float:
        """Seconds for which there was no batch to go on with."""
        ...

    def __call__(
        self, state: FinalState, until: int, preemption: Preemption
    ) -> tuple[FinalState, Float[Array, " steps"]]:
        """Some steps further, to step `until` at most. The state is consumed.

        Returns:
          The state, and the loss of each step; 0 for those not taken.
        """
        ...


@runtime_checkable
class BatchSource(Protocol):
    """Where the batches of a training come from, and the programs that read them."""

    @property
    def count(self) -> int:
        """Training images."""
        ...

    def session(self, programs: "Programs", step: int) -> contextlib.AbstractContextManager[Advance]:
        """Steps from step `step` on, one after the other."""
        ...

    def accuracy(self, programs: "Programs", weights: Weights, split: Any) -> float:
        """Share of a split, of the kind that belongs to this source, that is classified correctly, in [0, 1]."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Programs:
    """The programs of one training. Make one with `compiled`.

    Attributes:
      task: what they were made for.
      mesh: the devices.
      source: where batches come from.
      total: steps of the whole training.
      data: what recipe, network and teacher read beside images, on all devices.
      initial: weights to begin with, by name, in place of those that `begin` draws.
      seed: of the training.
      keys: of the first weights, and of the training.
      begin: the state before the first step, from the data and a key; compiled at the first call.
      program: the step, or many, compiled: `lanas_jax.trainer.step.train` or `train_on_batch`.
      compile_seconds: what tracing and compiling took.
      at_peak: seconds that a training image would take at the peak of all devices; None: unknown.
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
    program: jax.stages.Compiled
    compile_seconds: float
    at_peak: float | None = None

    @property
    def count(self) -> int:
        """Training images."""
        return self.source.count

    @property
    def everywhere(self) -> NamedSharding:
        """How weights are placed."""
        return NamedSharding(self.mesh, PartitionSpec())

    def start(self) -> FinalState:
        """The state before the first step.

        Raises:
          ValueError: initial weights of another network; names one.
        """
        state = self.begin(self.data, self.keys[0])
        if not self.initial:
            return state
        weights = placed(filled(state.weights, self.initial, partly=True), self.everywhere)
        average = None if state.average is None else jax.tree.map(jnp.copy, weights)
        return state._replace(weights=weights, average=average)

    def instead(self, final: Training) -> "Programs":
        """The same programs, on the same images, for a training that differs as much as `shared` allows.

        Raises:
          ValueError: a recipe that differs in more than its numbers.
        """
        kinds = {jax.tree.structure(recipe.read_by_programs) for recipe in (self.task.recipe, final.recipe)}
        if len(kinds) > 1:
            raise ValueError(f"the programs were compiled for another kind of recipe, {self.task.recipe}")
        task = dataclasses.replace(self.task, network=final.network, recipe=final.recipe, teacher=final.teacher)
        return assembled(final, task, self.mesh, self.source, self.begin, self.program, self.compile_seconds)

    def session(self, step: int) -> contextlib.AbstractContextManager[Advance]:
        """What takes the steps after step `step`, one after the other."""
        return self.source.session(self, step)

    def advance(self, state: FinalState, until: int) -> tuple[FinalState, Float[Array, " steps"]]:
        """One dispatch of a session of its own; as `Advance`."""
        with self.session(int(state.step)) as advance:
            return advance(state, until, Preemption())

    def accuracy(self, weights: Weights, split: Any) -> float:
        """Share of a split that is classified correctly, in [0, 1]."""
        return self.source.accuracy(self, weights, split)


def _lowered(task: TrainerTask, read_from: tuple[Any, Any]) -> jax.stages.Lowered:
    everywhere = NamedSharding(task.batch.mesh, PartitionSpec())
    images, labels = (jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere) for x in read_from)
    read, state, key, number = abstract(task)
    advance = jax.jit(functools.partial(training.train, task), donate_argnums=1, out_shardings=everywhere)
    return advance.lower(read, state, key, number, number, images, labels)


class Compiled(NamedTuple):
    """What is compiled for a training, and holds nothing of its data; attributes as those of `Programs`."""

    begin: Callable[[AuxiliaryInputs, PRNGKeyArray], FinalState]
    program: jax.stages.Compiled
    right: Callable[..., Any]  # as that of `InMemory`, or of `Streamed`

    @classmethod
    def of(cls, task: TrainerTask, step: jax.stages.Lowered, right: Callable[..., Any]) -> "Compiled":
        """Compiles the steps of a training; what it begins with and how it counts at the first call."""
        everywhere = NamedSharding(task.batch.mesh, PartitionSpec())
        begin = jax.jit(functools.partial(training.begin, task), out_shardings=everywhere)
        return cls(begin, step.compile(), jax.jit(functools.partial(right, task)))


def shared(task: TrainerTask, images: Hashable, make: Callable[[TrainerTask], Compiled]) -> Compiled:
    """What an earlier training of this process compiled, or what `make` does now.

    Trainings share it that differ in the numbers of their recipes, in seeds, in initial weights and in the data of
    network and teacher, where these say by equality that they differ in nothing else.

    Args:
      task: what is trained.
      images: shapes and dtypes of what is read, and how.
      make: compiles, given the task without the data of network and teacher.
    """
    bare = _bare(task)
    if not (_equal(bare.network, task.network) and _equal(bare.teacher, task.teacher)):
        return make(task)
    leaves, structure = jax.tree.flatten(abstract_data(task))
    what = (bare.network, bare.teacher, task.augmentation, task.classes, task.scaling, task.batch)
    return MEMO.shared(("final", *what, structure, tuple(leaves), images), lambda: make(bare))[0]


def _equal(one: Any, other: Any) -> bool:
    """Whether two are equal; what cannot be hashed holds arrays, which have no equality of that kind."""
    try:
        return hash(one) == hash(other) and bool(one == other)
    except TypeError:
        return False


def _bare(task: TrainerTask) -> TrainerTask:
    """The task with zeros that take no memory in place of the data of network and teacher."""

    def zeros(data: PyTree[AnyArray]) -> PyTree[AnyArray]:
        return jax.tree.map(lambda leaf: np.broadcast_to(leaf.dtype.type(0), leaf.shape), data)

    network = with_data(task.network, zeros(data_of(task.network)))
    teacher = None if task.teacher is None else task.teacher.with_data(zeros(task.teacher.data))
    return dataclasses.replace(task, network=network, teacher=teacher)


def task_of(final: Training, mesh: Mesh, classes: int, scaling: Scaling | None) -> TrainerTask:
    """What programs over a mesh are made for."""
    batch = NamedSharding(mesh, PartitionSpec(AXIS))
    return TrainerTask(final.network, final.recipe, final.augmentation, classes, scaling, batch, final.teacher)


def abstract_data(task: TrainerTask) -> Any:
    """Shapes, dtypes and placement of a task's `AuxiliaryInputs`."""
    everywhere = NamedSharding(task.batch.mesh, PartitionSpec())
    shapes = jax.eval_shape(lambda read: read, beside(task.network, task.recipe, task.teacher))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), shapes)


def abstract(task: TrainerTask) -> tuple[Any, FinalState, Any, Any]:
    """Shapes, dtypes and placement of what every program takes: `AuxiliaryInputs`, state, key, and a step's number."""
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
    program: jax.stages.Compiled,
    compile_seconds: float,
) -> Programs:
    """The programs of a training: what was compiled, and what it is given."""
    first, key = jax.random.split(jax.random.key(final.seed))
    read = beside(task.network, task.recipe, task.teacher)
    keys, data = placed(((first, key), read), NamedSharding(mesh, PartitionSpec()))
    total = final.recipe.sgd.steps(source.count)
    initial = final.initial or {}
    return Programs(task, mesh, source, total, data, initial, final.seed, keys, begin, program, compile_seconds)
