"""The programs of a training: checks, compilation, and the source of batches that every device holds in memory.

Images in memory are copied to every device, and many steps run in one call of the program. `streamed.py` has the
source of batches that do not fit in memory.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from lanas_jax.data.splits import SearchData, Split
from lanas_jax.data.streams import StreamedDataset
from lanas_jax.runtime.arithmetic import in_32_bits
from lanas_jax.runtime.devices import mesh_of
from lanas_jax.runtime.distributed import Preemption
from lanas_jax.trainer import step as training
from lanas_jax.trainer import streamed
from lanas_jax.trainer.programs import (
    AXIS,
    Advance,
    Compiled,
    Programs,
    abstract,
    assembled,
    placed,
    shared_programs,
    task_of,
)
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.step import FinalState, TrainerTask
from lanas_jax.trainer.task import AuxiliaryInputs, Training, Weights


def check_recipe(recipe: Recipe, data: SearchData | StreamedDataset, devices: Sequence[jax.Device]) -> None:
    """Checks a recipe against the images and the devices, before anything is compiled.

    Raises:
      ValueError: the batch is not divisible among the devices or is larger than the training split, the devices are not
        divisible into groups of ``normalize_over``, the number of epochs overflows an int32 counter, or ``train_on`` is
        ``all`` with streamed data.
    """
    if isinstance(recipe.normalize_over, int) and len(devices) % recipe.normalize_over:
        raise ValueError(
            f"normalize_over must be a divisor of the number of devices, {len(devices)}; got {recipe.normalize_over}"
        )
    if recipe.batch_size % len(devices):
        raise ValueError(
            f"batch_size must be a multiple of the number of devices, {len(devices)}; got {recipe.batch_size}"
        )
    count = len(data.train)
    if recipe.train_on == "all":
        if isinstance(data, StreamedDataset):
            raise ValueError("train_on must be 'train' with streamed data, whose splits are separate; got 'all'")
        count += len(data.validation)
    if recipe.batch_size > count:
        raise ValueError(f"batch_size must be at most the number of training images, {count}; got {recipe.batch_size}")
    if (recipe.epochs + 1) * count >= 2**31:
        raise ValueError(f"epochs must be below {2**31 // count - 1} with {count} images; got {recipe.epochs}")


@in_32_bits
def compile_training(final: Training, data: SearchData | StreamedDataset, devices: Sequence[jax.Device]) -> Programs:
    """Compiles the programs of a training. Images in memory are first copied to the devices.

    Args:
      final: training to compile for.
      data: images to train on.
      devices: devices of all processes; each batch is divided equally among them (`check_recipe`).
    """
    if isinstance(data, StreamedDataset):
        return streamed.compile_streamed(final, data, devices)
    began = time.perf_counter()
    mesh = mesh_of(devices, AXIS)
    task = task_of(final, mesh, data.classes, data.scaling)
    split = training_images(data, final.recipe)
    images = jax.tree.map(jax.typeof, (split.images, split.labels))
    made = shared_programs(
        task, images, lambda task: Compiled.of(task, _lowered(task, images).compile(), training.count_correct)
    )
    everywhere = NamedSharding(mesh, PartitionSpec())
    source = InMemory(placed((split.images, split.labels), everywhere), made.count_correct)
    return assembled(final, task, mesh, source, made.begin, made.program, time.perf_counter() - began)


def training_images(data: SearchData, recipe: Recipe) -> Split:
    """Returns the images that the weights are fitted to, according to ``train_on``."""
    parts = [data.train] if recipe.train_on == "train" else [data.train, data.validation]
    return Split(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "labels")))


@dataclasses.dataclass(frozen=True, eq=False)
class InMemory:
    """A `BatchSource` of images that every device holds.

    Attributes:
      images: training images and labels.
      count_correct: function that counts the correctly classified images of a split; compiled at the first call.
    """

    images: tuple[Array, Array]
    count_correct: Callable[[AuxiliaryInputs, Weights, Array, Array], Array]

    @property
    def count(self) -> int:
        """The number of training images."""
        return len(self.images[1])

    def session(self, programs: Programs, step: int) -> contextlib.AbstractContextManager[Advance]:
        """Returns an `Advance` whose every call runs the program once, for up to `steps_per_dispatch` steps."""
        return contextlib.nullcontext(_Dispatch(programs, self.images))

    def accuracy(self, programs: Programs, weights: Weights, split: Split) -> float:
        """Returns the accuracy on a split, in [0, 1]."""
        size = programs.task.recipe.batch_size
        padding = -len(split) % size
        labels = np.pad(split.labels, (0, padding), constant_values=-1).reshape(-1, size)
        images = np.pad(split.images, ((0, padding), (0, 0), (0, 0), (0, 0))).reshape(-1, size, *split.images.shape[1:])
        batches = placed((images, labels), programs.everywhere)
        return int(self.count_correct(programs.data, weights, *batches)) / len(split)


@dataclasses.dataclass(frozen=True, eq=False)
class _Dispatch:
    """The `Advance` of an `InMemory` source."""

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


def lowered_steps(final: Training, mesh: Mesh, data: SearchData) -> jax.stages.Lowered:
    """Lowers one dispatch of a training on images in memory, using only shapes.

    Args:
      final: training to lower.
      mesh: mesh with the axis ``data``; its devices need not exist on this machine.
      data: dataset; only its sizes, shapes and dtypes are read.
    """
    count = len(data.train) + (len(data.validation) if final.recipe.train_on == "all" else 0)
    images = jax.ShapeDtypeStruct((count, *data.image_shape), data.train.images.dtype)
    task = task_of(final, mesh, data.classes, data.scaling)
    return _lowered(task, (images, jax.ShapeDtypeStruct((count,), np.int32)))


def _lowered(task: TrainerTask, read_from: tuple[Any, Any]) -> jax.stages.Lowered:
    everywhere = NamedSharding(task.batch.mesh, PartitionSpec())
    images, labels = (jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere) for x in read_from)
    read, state, key, number = abstract(task)
    advance = jax.jit(functools.partial(training.train_steps, task), donate_argnums=1, out_shardings=everywhere)
    return advance.lower(read, state, key, number, number, images, labels)
