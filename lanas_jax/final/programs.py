"""The compiled programs of a training, over all devices: a batch spread along the axis ``data``, weights on each.

Everything that is the same on each device (weights, which images make a batch) is replicated; XLA divides the work on a
batch and adds gradients and batch statistics up. Devices may belong to several processes, each of which then calls
everything here, in the same order.

Where batches come from is a `Source`: `InMemory` keeps all training images on every device and takes many steps in one
call; `lanas_jax.final.streamed` is given its batches.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray

from lanas_jax.data.scaling import Scaling
from lanas_jax.data.splits import SearchData, Split
from lanas_jax.data.streams import StreamedDataset
from lanas_jax.distributed import Preemption
from lanas_jax.final import step as training
from lanas_jax.final.placing import placed
from lanas_jax.final.recipe import Recipe
from lanas_jax.final.step import FinalState, Task, Weights
from lanas_jax.final.task import Beside, Training, beside, training_images
from lanas_jax.final.weights import AnyArray, filled

AXIS = "data"


def mesh_of(devices: Sequence[jax.Device]) -> Mesh:
    """Devices along the axis ``data``."""
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=list(devices))


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
class Source(Protocol):
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
      data: what network and teacher read beside images.
      initial: weights to begin with, by name, in place of those that `begin` draws.
      seed: of the training.
      keys: of the first weights, and of the training.
      begin: the state before the first step, from a key; compiled at the first call.
      program: the step, or many, compiled: `lanas_jax.final.step.train` or `train_on_batch`.
      compile_seconds: what tracing and compiling took.
      at_peak: seconds that a training image would take at the peak of all devices; None: unknown.
    """

    task: Task
    mesh: Mesh
    source: Source
    total: int
    data: Beside
    initial: Mapping[str, AnyArray]
    seed: int
    keys: tuple[PRNGKeyArray, PRNGKeyArray]
    begin: Callable[[PRNGKeyArray], FinalState]
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
        state = self.begin(self.keys[0])
        if not self.initial:
            return state
        weights = placed(filled(state.weights, self.initial, partly=True), self.everywhere)
        average = None if state.average is None else jax.tree.map(jnp.copy, weights)
        return state._replace(weights=weights, average=average)

    def instead(self, final: Training) -> "Programs":
        """The same programs for a training that differs in seed, initial weights and its network's data alone."""
        keys, data = _placed(final, self.everywhere)
        return dataclasses.replace(self, data=data, seed=final.seed, keys=keys, initial=final.initial or {})

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


@dataclasses.dataclass(frozen=True, eq=False)
class InMemory:
    """Batches of images that are on every device; a `Source`.

    Attributes:
      images: training images and labels.
      right: how many images of a split are classified correctly; compiled at the first call.
    """

    images: tuple[Array, Array]
    right: Callable[[Weights, Array, Array], Array]

    @property
    def count(self) -> int:
        """Training images."""
        return len(self.images[1])

    def session(self, programs: Programs, step: int) -> contextlib.AbstractContextManager[Advance]:
        """One call of the program at a time, of up to `steps_per_dispatch` steps."""
        return contextlib.nullcontext(_Dispatch(programs, self.images))

    def accuracy(self, programs: Programs, weights: Weights, split: Split) -> float:
        """Share of a split that is classified correctly, in [0, 1]."""
        size = programs.task.recipe.batch_size
        padding = -len(split) % size
        labels = np.pad(split.labels, (0, padding), constant_values=-1).reshape(-1, size)
        images = np.pad(split.images, ((0, padding), (0, 0), (0, 0), (0, 0))).reshape(-1, size, *split.images.shape[1:])
        return int(self.right(weights, *placed((images, labels), programs.everywhere))) / len(split)


@dataclasses.dataclass(frozen=True, eq=False)
class _Dispatch:
    """Calls of the program of an `InMemory`."""

    programs: Programs
    images: tuple[Array, Array]
    waited: float = 0.0

    def __call__(
        self, state: FinalState, until: int, preemption: Preemption
    ) -> tuple[FinalState, Float[Array, " steps"]]:
        programs = self.programs
        bounds = placed((np.int32(programs.total), np.int32(until)), programs.everywhere)
        found = programs.program(programs.data, state, programs.keys[1], *bounds, *self.images)
        preemption.reached()
        return found


def check(recipe: Recipe, data: SearchData | StreamedDataset, devices: Sequence[jax.Device]) -> None:
    """Checks, at the door, a recipe against images and devices.

    Raises:
      ValueError: a batch that the devices cannot share equally or that there are not enough images for, more epochs
        than can be counted, or validation images to be trained on that come as a stream.
    """
    if recipe.batch_size % len(devices):
        raise ValueError(
            f"batch_size must be a multiple of the number of devices, {len(devices)}; got {recipe.batch_size}"
        )
    count = len(data.train)
    if recipe.train_on == "all":
        if isinstance(data, StreamedDataset):
            raise ValueError("train_on must be 'train' with streamed data, whose search-validation images stand apart")
        count += len(data.validation)
    if recipe.batch_size > count:
        raise ValueError(f"batch_size must be at most the number of training images, {count}; got {recipe.batch_size}")
    if (recipe.epochs + 1) * count >= 2**31:
        raise ValueError(f"epochs must be below {2**31 // count - 1} with {count} images; got {recipe.epochs}")


def compiled(final: Training, data: SearchData | StreamedDataset, devices: Sequence[jax.Device]) -> Programs:
    """Puts the images on the devices, unless they come as a stream, and compiles.

    Args:
      final: what to train.
      data: what on.
      devices: of all processes; equal shares of a batch go to them (`check`).
    """
    if isinstance(data, StreamedDataset):
        from lanas_jax.final import streamed

        return streamed.compiled(final, data, devices)
    began = time.perf_counter()
    mesh = mesh_of(devices)
    everywhere = NamedSharding(mesh, PartitionSpec())
    task = task_of(final, mesh, data.classes, data.scaling)
    program = lowered_steps(final, mesh, data).compile()
    split = training_images(data, final.recipe)
    images = placed((split.images, split.labels), everywhere)
    source = InMemory(images, jax.jit(functools.partial(training.right, task)))
    return assembled(final, task, mesh, source, program, began)


def lowered_steps(final: Training, mesh: Mesh, data: SearchData) -> jax.stages.Lowered:
    """One dispatch of a training on images in memory, lowered for a mesh from shapes alone.

    Args:
      final: what is trained.
      mesh: devices along the axis ``data``; they need not be there.
      data: of which numbers, shapes and dtypes are looked at.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    task = task_of(final, mesh, data.classes, data.scaling)
    count = len(data.train) + (len(data.validation) if final.recipe.train_on == "all" else 0)
    images = jax.ShapeDtypeStruct((count, *data.image_shape), data.train.images.dtype, sharding=everywhere)
    labels = jax.ShapeDtypeStruct((count,), np.int32, sharding=everywhere)
    read, state, key, number = abstract(final, everywhere)
    advance = jax.jit(functools.partial(training.train, task), donate_argnums=1, out_shardings=everywhere)
    return advance.lower(read, state, key, number, number, images, labels)


def task_of(final: Training, mesh: Mesh, classes: int, scaling: Scaling | None) -> Task:
    """What programs over a mesh are made for."""
    batch = NamedSharding(mesh, PartitionSpec(AXIS))
    return Task(final.network, final.recipe, final.augmentation, classes, scaling, batch, final.teacher)


def abstract(final: Training, everywhere: NamedSharding) -> tuple[Any, FinalState, Any, Any]:
    """Shapes, dtypes and placement of what every program takes: `Beside`, state, key, and a step's number."""
    described: tuple[Any, FinalState, Any, Any] = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
        (
            jax.eval_shape(lambda read: read, beside(final)),
            training.shapes(final.network, final.recipe),
            jax.eval_shape(lambda: jax.random.key(0)),
            jax.ShapeDtypeStruct((), np.int32),
        ),
    )
    return described


def assembled(
    final: Training, task: Task, mesh: Mesh, source: Source, program: jax.stages.Compiled, began: float
) -> Programs:
    """The programs of a training around the one that takes steps; `began`: when making them did."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    keys, read = _placed(final, everywhere)
    begin = jax.jit(functools.partial(training.start, final.network, final.recipe), out_shardings=everywhere)
    total = final.recipe.sgd.steps(source.count)
    initial = final.initial or {}
    seconds = time.perf_counter() - began
    return Programs(task, mesh, source, total, read, initial, final.seed, keys, begin, program, seconds)


def _placed(final: Training, everywhere: NamedSharding) -> tuple[tuple[PRNGKeyArray, PRNGKeyArray], Beside]:
    """The keys of a training, and what its network and its teacher read beside images."""
    first, key = jax.random.split(jax.random.key(final.seed))
    found: tuple[tuple[PRNGKeyArray, PRNGKeyArray], Beside]
    found = placed(((first, key), beside(final)), everywhere)
    return found
