"""Training on batches that come from a stream, such as ImageNet's from disk (`lanas_jax.data.streams`).

Each process reads its share of every batch. A thread has the next batches on the devices before they are needed; steps
are called one at a time, so a training can be stopped after any of them, and `steps_per_dispatch` is only how many are
taken before their losses are read. Batches are a function of seed and step number, as all else is: a training goes on
from a checkpoint to the bits it would have had.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from lanas_jax.data.scaling import Scaling
from lanas_jax.data.streams import Batch, EvaluationStream, StreamedDataset, TrainingStream
from lanas_jax.runtime.devices import mesh_of
from lanas_jax.runtime.distributed import Preemption
from lanas_jax.trainer import sharding as placing
from lanas_jax.trainer import step as training
from lanas_jax.trainer.prefetch import Ahead
from lanas_jax.trainer.programs import AXIS, Compiled, Programs, abstract, assembled, shared, task_of
from lanas_jax.trainer.sharding import placed
from lanas_jax.trainer.step import FinalState, TrainerTask
from lanas_jax.trainer.task import AuxiliaryInputs, Training, Weights

DEPTH = 2  # batches on the devices that wait for their step
IN_FLIGHT = 2  # steps handed to the devices before the last of them is waited for


def compiled(final: Training, data: StreamedDataset, devices: Sequence[jax.Device]) -> Programs:
    """Compiles the programs of a training on streamed data.

    Args:
      final: what to train.
      data: what on.
      devices: of all processes; equal shares of a batch go to them (`check`).
    """
    began = time.perf_counter()
    mesh = mesh_of(devices, AXIS)
    task = task_of(final, mesh, data.classes, data.scaling)
    images = (data.image_shape, "streamed")
    made = shared(
        task, images, lambda task: Compiled.of(task, _lowered(task, data.image_shape), training.right_in_batch)
    )
    source = Streamed(data.train, made.right)
    return assembled(final, task, mesh, source, made.begin, made.program, time.perf_counter() - began)


def lowered_step(
    final: Training, mesh: Mesh, image_shape: tuple[int, int, int], classes: int, scaling: Scaling | None
) -> jax.stages.Lowered:
    """One training step on a batch, lowered for a mesh from shapes alone: neither images nor devices are needed.

    It takes what recipe, network and teacher read beside images, the state, the key, the number of steps, images and
    labels. Of a mesh over devices that are not there (`jax.experimental.topologies`), it tells what each of them will
    hold and compute.

    Args:
      final: what is trained.
      mesh: devices along the axis ``data``.
      image_shape: height, width and channels.
      classes: number of classes.
      scaling: of images of 8 bits; None where they are float32.
    """
    return _lowered(task_of(final, mesh, classes, scaling), image_shape)


def _lowered(task: TrainerTask, image_shape: tuple[int, int, int]) -> jax.stages.Lowered:
    everywhere, size = NamedSharding(task.batch.mesh, PartitionSpec()), task.recipe.batch_size
    dtype = np.float32 if task.scaling is None else np.uint8
    images = jax.ShapeDtypeStruct((size, *image_shape), dtype, sharding=task.batch)
    labels = jax.ShapeDtypeStruct((size,), np.int32, sharding=task.batch)
    read, state, key, number = abstract(task)
    advance = jax.jit(functools.partial(training.train_on_batch, task), donate_argnums=1, out_shardings=everywhere)
    return advance.lower(read, state, key, number, images, labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Streamed:
    """Batches of a stream; a `lanas_jax.trainer.programs.BatchSource`.

    Attributes:
      stream: training images.
      right: of a batch, the images that are classified correctly, and all; compiled at the first call.
    """

    stream: TrainingStream
    right: Callable[[AuxiliaryInputs, Weights, Array, Array], tuple[Array, Array]]

    @property
    def count(self) -> int:
        """Training images."""
        return len(self.stream)

    @contextlib.contextmanager
    def session(self, programs: Programs, step: int) -> Iterator["StreamedSteps"]:
        """Steps from step `step` on, with a thread that reads ahead until it is left."""
        hosts = _hosts(programs)
        batches = self.stream.batches(
            programs.seed, programs.task.recipe.batch_size, step, host=jax.process_index(), hosts=hosts
        )
        with Ahead(batches, functools.partial(_placed, programs, hosts), DEPTH) as ready:
            yield StreamedSteps(programs, ready)

    def accuracy(self, programs: Programs, weights: Weights, split: EvaluationStream) -> float:
        """Share of a split that is classified correctly, in [0, 1]."""
        hosts = _hosts(programs)
        batches = split.batches(programs.task.recipe.batch_size, host=jax.process_index(), hosts=hosts)
        counts: list[tuple[Array, Array]] = []
        with Ahead(batches, functools.partial(_placed, programs, hosts), DEPTH) as ready:
            for images, labels in ready:
                counts.append(self.right(programs.data, weights, images, labels))
                if len(counts) > IN_FLIGHT:
                    jax.block_until_ready(counts[-1 - IN_FLIGHT])
        right, total = np.asarray(jax.device_get(counts)).sum(axis=0).tolist()
        return float(right / total)


class StreamedSteps:
    """Takes one step after the other on batches as they come; a `lanas_jax.trainer.programs.Advance`.

    Args:
      programs: made for this training.
      batches: on the devices.
    """

    def __init__(self, programs: Programs, batches: Ahead[Batch, tuple[Array, Array]]):
        self._programs, self._batches = programs, batches
        self._total = placed(np.int32(programs.total), programs.everywhere)

    @property
    def waited(self) -> float:
        """Seconds for which no batch was ready."""
        return self._batches.waited

    def __call__(
        self, state: FinalState, until: int, preemption: Preemption
    ) -> tuple[FinalState, Float[Array, " steps"]]:
        """Steps up to step `until`, or fewer where the machine is about to be taken away."""
        programs, losses = self._programs, []
        for _ in range(until - int(state.step)):
            images, labels = next(self._batches)
            state, loss = programs.program(programs.data, state, programs.keys[1], self._total, images, labels)
            losses.append(loss)
            if len(losses) > IN_FLIGHT:  # so that batches do not pile up on the devices
                losses[-1 - IN_FLIGHT].block_until_ready()
            if preemption.reached():
                break
        return state, jnp.asarray(jax.device_get(losses))


def _hosts(programs: Programs) -> int:
    return len({device.process_index for device in programs.mesh.devices.flat})


def _placed(programs: Programs, hosts: int, batch: Batch) -> tuple[Array, Array]:
    images, labels = (placing.shared(part, programs.task.batch, hosts) for part in (batch.images, batch.labels))
    return images, labels
