"""Checks and compiles the programs of a training, on images in memory or on streams."""

import time
from collections.abc import Sequence

import jax
from jax.sharding import NamedSharding, PartitionSpec

from lanas_jax.data.splits import SearchData
from lanas_jax.data.streams import StreamedDataset
from lanas_jax.runtime.devices import mesh_of
from lanas_jax.trainer import step as training
from lanas_jax.trainer import streamed
from lanas_jax.trainer.in_memory import InMemory
from lanas_jax.trainer.programs import AXIS, Compiled, Programs, _lowered, assembled, shared_programs, task_of
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.sharding import placed
from lanas_jax.trainer.task import Training, training_images


def check_recipe(recipe: Recipe, data: SearchData | StreamedDataset, devices: Sequence[jax.Device]) -> None:
    """Checks a recipe against the images and the devices, before anything is compiled.

    Raises:
      ValueError: the batch is not divisible among the devices or is larger than the training split, the number of
        epochs overflows an int32 counter, or ``train_on`` is ``all`` with streamed data.
    """
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
    made = shared_programs(task, images, lambda task: Compiled.of(task, _lowered(task, images), training.count_correct))
    everywhere = NamedSharding(mesh, PartitionSpec())
    source = InMemory(placed((split.images, split.labels), everywhere), made.right)
    return assembled(final, task, mesh, source, made.begin, made.program, time.perf_counter() - began)
