"""Training on streamed batches, such as ImageNet's from disk (`lanas_jax.data.streams`).

Each process reads its share of every batch. Crop and policy of the augmentation run where images are decoded, and the
rest of it in the training step, which gathers no pixels (`lanas_jax.training.pixel_augmentation`). A thread places the
next batches on the devices before they are needed. Steps are called one at a time, so a training can stop after any
step; `steps_per_dispatch` is only the number of steps between two readings of the losses. Batches are a function of the
seed and the step number, so a training resumes from a checkpoint to bit-identical results.
"""

import contextlib
import dataclasses
import functools
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from lanas_jax.data.scaling import Scaling
from lanas_jax.data.streams import Batch, EvaluationStream, StreamedDataset, TrainingStream, Transform
from lanas_jax.runtime.devices import mesh_of
from lanas_jax.runtime.distributed import Preemption
from lanas_jax.trainer import passes
from lanas_jax.trainer import step as training
from lanas_jax.trainer.programs import AXIS, Compiled, Programs, abstract, assembled, placed, shared_programs, task_of
from lanas_jax.trainer.step import FinalState, TrainerTask
from lanas_jax.trainer.task import AuxiliaryInputs, SeparatePasses, Training, Weights
from lanas_jax.training.augmentation import check_images
from lanas_jax.training.pixel_augmentation import PixelAugmentation, in_step

DEPTH = 2  # number of prefetched batches on the devices
IN_FLIGHT = 2  # number of steps dispatched to the devices without waiting for their results
PATIENCE = 5.0  # seconds to wait for the thread to end, since it may be reading a batch that is no longer needed

Read = TypeVar("Read")
Ready = TypeVar("Ready")


def compile_streamed(final: Training, data: StreamedDataset, devices: Sequence[jax.Device]) -> Programs:
    """Compiles the programs of a training on streamed data.

    Args:
      final: training to compile for.
      data: streamed dataset to train on.
      devices: devices of all processes; each batch is divided equally among them (`check_recipe`).

    Raises:
      ValueError: the augmentation does not fit the images.
    """
    began = time.perf_counter()
    mesh = mesh_of(devices, AXIS)
    task = _task(final, mesh, data.image_shape, data.classes, data.scaling)
    images = (data.image_shape, "streamed")
    made = shared_programs(
        task, images, lambda task: Compiled.of(task, _compiled(task, data.image_shape), training.count_correct_in_batch)
    )
    changed = final.augmentation != task.augmentation
    transform = PixelAugmentation(final.augmentation) if changed else None
    source = Streamed(data.train, made.count_correct, transform)
    return assembled(final, task, mesh, source, made.begin, made.program, time.perf_counter() - began)


def lowered_step(
    final: Training, mesh: Mesh, image_shape: tuple[int, int, int], classes: int, scaling: Scaling | None
) -> jax.stages.Lowered:
    """Lowers one training step on a batch, from shapes alone; neither images nor devices are needed.

    The arguments of the lowered function are: auxiliary inputs, state, key, total number of steps, images, labels. For
    a mesh of devices that this machine does not have (`jax.experimental.topologies`), the result shows the memory and
    the computation of each device.

    Args:
      final: training to lower.
      mesh: mesh with the axis ``data``.
      image_shape: height, width and channels.
      classes: number of classes.
      scaling: scaling of 8-bit images; None for float32 images.
    """
    return _lowered(_task(final, mesh, image_shape, classes, scaling), image_shape)


def lowered_passes(
    final: Training, mesh: Mesh, image_shape: tuple[int, int, int], classes: int, scaling: Scaling | None
) -> passes.Lowered | None:
    """Lowers the programs of a step whose passes are separate programs; arguments as in `lowered_step`.

    Returns:
      The programs, or None if a step is one program.
    """
    task = _task(final, mesh, image_shape, classes, scaling)
    return passes.lowered_passes(task, *_batch(task, image_shape)) if _has_separate_passes(task) else None


def _task(
    final: Training, mesh: Mesh, image_shape: tuple[int, int, int], classes: int, scaling: Scaling | None
) -> TrainerTask:
    """Returns the task of a training whose images are already augmented as far as workers do it."""
    dtype = jnp.float32 if scaling is None else jnp.uint8
    check_images(final.augmentation, jax.ShapeDtypeStruct((1, *image_shape), dtype), scaling)
    return dataclasses.replace(task_of(final, mesh, classes, scaling), augmentation=in_step(final.augmentation))


def _compiled(task: TrainerTask, image_shape: tuple[int, int, int]) -> jax.stages.Compiled | passes.PassPrograms:
    if _has_separate_passes(task):
        return passes.PassPrograms.of(passes.lowered_passes(task, *_batch(task, image_shape)))
    return _lowered(task, image_shape).compile()


def _has_separate_passes(task: TrainerTask) -> bool:
    return isinstance(task.network, SeparatePasses) and bool(task.network.pass_programs)


def _lowered(task: TrainerTask, image_shape: tuple[int, int, int]) -> jax.stages.Lowered:
    everywhere = NamedSharding(task.batch.mesh, PartitionSpec())
    read, state, key, number = abstract(task)
    advance = jax.jit(functools.partial(training.train_on_batch, task), donate_argnums=1, out_shardings=everywhere)
    return advance.lower(read, state, key, number, *_batch(task, image_shape))


def _batch(task: TrainerTask, image_shape: tuple[int, int, int]) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Returns shapes, dtypes and shardings of a batch and its labels."""
    size, dtype = task.recipe.batch_size, np.float32 if task.scaling is None else np.uint8
    images = jax.ShapeDtypeStruct((size, *image_shape), dtype, sharding=task.batch)
    return images, jax.ShapeDtypeStruct((size,), np.int32, sharding=task.batch)


@dataclasses.dataclass(frozen=True, eq=False)
class Streamed:
    """A `lanas_jax.trainer.programs.BatchSource` of streamed batches.

    Attributes:
      stream: stream of training batches.
      count_correct: function that counts the correctly classified images of a batch, and all images of the batch;
        compiled at the first call.
      transform: random change of each training image where it is decoded; None for none.
    """

    stream: TrainingStream
    count_correct: Callable[[AuxiliaryInputs, Weights, Array, Array], tuple[Array, Array]]
    transform: Transform | None = None

    @property
    def count(self) -> int:
        """The number of training images."""
        return len(self.stream)

    @contextlib.contextmanager
    def session(self, programs: Programs, step: int) -> Iterator["StreamedSteps"]:
        """Yields the steps after step `step`; a thread prefetches batches until the context is left."""
        hosts = _hosts(programs)
        size, host = programs.task.recipe.batch_size, jax.process_index()
        batches = self.stream.batches(programs.seed, size, step, host=host, hosts=hosts, transform=self.transform)
        with Ahead(batches, functools.partial(_placed, programs, hosts), DEPTH) as ready:
            yield StreamedSteps(programs, ready)

    def accuracy(self, programs: Programs, weights: Weights, split: EvaluationStream) -> float:
        """Returns the accuracy on a split, in [0, 1]."""
        hosts = _hosts(programs)
        batches = split.batches(programs.task.recipe.batch_size, host=jax.process_index(), hosts=hosts)
        counts: list[tuple[Array, Array]] = []
        with Ahead(batches, functools.partial(_placed, programs, hosts), DEPTH) as ready:
            for images, labels in ready:
                counts.append(self.count_correct(programs.data, weights, images, labels))
                if len(counts) > IN_FLIGHT:
                    jax.block_until_ready(counts[-1 - IN_FLIGHT])
        right, total = np.asarray(jax.device_get(counts)).sum(axis=0).tolist()
        return float(right / total)


class StreamedSteps:
    """A `lanas_jax.trainer.programs.Advance` that takes one step per streamed batch.

    Args:
      programs: programs compiled for this training.
      batches: prefetched batches on the devices.
    """

    def __init__(self, programs: Programs, batches: "Ahead[Batch, tuple[Array, Array]]"):
        self._programs, self._batches = programs, batches
        self._total = placed(np.int32(programs.total), programs.everywhere)

    @property
    def waited(self) -> float:
        """The seconds spent waiting for a batch."""
        return self._batches.waited

    def __call__(
        self, state: FinalState, until: int, preemption: Preemption
    ) -> tuple[FinalState, Float[Array, " steps"]]:
        """Takes steps up to step `until`, or fewer if the process is preempted."""
        programs, losses, first = self._programs, [], int(state.step)
        program = programs.program
        takes = (
            program.steps(programs, first) if isinstance(program, passes.PassPrograms) else itertools.repeat(program)
        )
        for _ in range(until - first):
            images, labels = next(self._batches)
            state, loss = next(takes)(programs.data, state, programs.keys[1], self._total, images, labels)
            losses.append(loss)
            if len(losses) > IN_FLIGHT:  # bounds the number of batches held on the devices
                losses[-1 - IN_FLIGHT].block_until_ready()
            if preemption.reached():
                break
        return state, jnp.asarray(jax.device_get(losses))


def _hosts(programs: Programs) -> int:
    return len({device.process_index for device in programs.mesh.devices.flat})


def _placed(programs: Programs, hosts: int, batch: Batch) -> tuple[Array, Array]:
    """Assembles the global arrays of a batch from the shares of `hosts` processes, in process order."""

    def assembled_from(part: np.ndarray) -> Array:
        if programs.task.batch.is_fully_addressable:
            return jax.device_put(part, programs.task.batch)
        shape = (len(part) * hosts, *part.shape[1:])
        return jax.make_array_from_process_local_data(programs.task.batch, part, shape)

    return assembled_from(batch.images), assembled_from(batch.labels)


class _End:
    """Marks the end of the items in the queue."""


class Ahead(Generic[Read, Ready]):
    """An iterator that reads a source ahead of its consumer, in a thread; a context manager.

    Args:
      source: iterator to read in the thread.
      prepare: function applied to each item in the thread, such as placing it on the devices.
      depth: maximum number of prepared items waiting in memory.
    """

    def __init__(self, source: Iterator[Read], prepare: Callable[[Read], Ready], depth: int):
        self.waited = 0.0  # seconds for which the consumer waited
        self._ready: queue.Queue[Ready | BaseException | _End] = queue.Queue(depth)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(source, prepare), daemon=True)

    def __enter__(self) -> "Ahead[Read, Ready]":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join(PATIENCE)

    def __iter__(self) -> "Ahead[Read, Ready]":
        return self

    def __next__(self) -> Ready:
        """Returns the next item, or raises the exception that the thread raised."""
        began = time.perf_counter()
        found = self._ready.get()
        self.waited += time.perf_counter() - began
        if isinstance(found, _End):
            raise StopIteration
        if isinstance(found, BaseException):
            raise found
        return found

    def _run(self, source: Iterator[Read], prepare: Callable[[Read], Ready]) -> None:
        try:
            for item in source:
                self._put(prepare(item))
                if self._closing.is_set():
                    return
            self._put(_End())
        except BaseException as error:  # the consumer must see exceptions of every type
            self._put(error)

    def _put(self, item: Ready | BaseException | _End) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=0.1)
                return
