"""The stages there are: candidates trained from scratch, a network or supernet trained, masks valued.

Each traces the program that its command runs, with shapes in place of arrays.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Int, PyTree

from lanas_jax.data.splits import SearchData
from lanas_jax.final import programs as final_programs
from lanas_jax.final import step as final_step
from lanas_jax.final.recipe import Recipe
from lanas_jax.final.step import Task
from lanas_jax.final.task import FinalTraining, data_of
from lanas_jax.planning.stage import Program, Stage
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.supernet import masks
from lanas_jax.supernet.training import SupernetTraining
from lanas_jax.supernet.valuation import Valuation
from lanas_jax.training.population import Placed, Population
from lanas_jax.training.step import Network, TrainConfig

TRAINING = 3.0  # forward passes that a step of training is worth: one forward, two backward
SAMPLED = 256  # codes whose mean cost stands for that of a search


def mean_multiply_adds(space: SearchSpace, codes: Int[np.ndarray, "n dims"] | None = None) -> float | None:
    """Mean over codes, by default `SAMPLED` valid ones drawn uniformly; None where the space does not know."""
    if codes is None:
        codes = masks.draw(space, SAMPLED, seed=0)
    try:
        return float(np.mean(space.cost(codes[:SAMPLED]).multiply_adds))
    except NotImplementedError:
        return None


def final_training(
    name: str,
    training: FinalTraining | SupernetTraining,
    data: SearchData,
    multiply_adds: float | int | None,
    *,
    setting: str,
    streamed: bool = False,
) -> Stage:
    """A training by `lanas_jax.final`: a winner's, or a supernet's.

    Args:
      name: of the stage.
      training: its dataset is not loaded.
      data: shapes of what it is trained on.
      multiply_adds: of a forward pass on one image; of a supernet, mean over its masks. None: unknown.
      setting: what sets the recipe's batch size.
      streamed: whether a step is given its batch, instead of all images lying on each device.
    """
    recipe = training.recipe
    split = len(data.train) + (len(data.validation) if recipe.train_on == "all" else 0)

    def program(devices: Sequence[jax.Device], batch_size: int) -> Program:
        changed = dataclasses.replace(recipe, batch_size=batch_size)
        if batch_size % len(devices):
            raise ValueError(f"batch size must be a multiple of the {len(devices)} chips; got {batch_size}")
        lower = lowered_step if streamed else lowered_steps
        lowered = lower(dataclasses.replace(training, recipe=changed), data, devices)
        forward = _times(multiply_adds, batch_size / len(devices))
        steps = changed.sgd.steps(split)
        work = _times(forward, TRAINING * recipe.passes)
        return Program(lowered, len(devices), steps, work, counted=1 / recipe.passes)

    return Stage(name, recipe.batch_size, setting, program)


def lowered_steps(
    training: FinalTraining | SupernetTraining, data: SearchData, devices: Sequence[jax.Device]
) -> jax.stages.Lowered:
    """`lanas_jax.final.step.train`, as `lanas_jax.final.programs.compiled` has it: images on every device."""
    task, everywhere = _task(training, data, devices)
    count = len(data.train) + (len(data.validation) if training.recipe.train_on == "all" else 0)
    state, network_data, key, number, images = jax.tree.map(
        functools.partial(_shaped, everywhere), (*_arguments(training), *_batch(data, count))
    )
    advance = jax.jit(functools.partial(final_step.train, task), donate_argnums=1, out_shardings=everywhere)
    return advance.lower(network_data, state, key, number, number, *images)


def lowered_step(
    training: FinalTraining | SupernetTraining, data: SearchData, devices: Sequence[jax.Device]
) -> jax.stages.Lowered:
    """`lanas_jax.final.step.train_step` of a batch that it is given, spread over the devices; images are 8 bits."""
    task, everywhere = _task(training, data, devices)
    state, _, key, number = jax.tree.map(functools.partial(_shaped, everywhere), _arguments(training))
    (batch,) = jax.tree.map(functools.partial(_shaped, task.batch), _batch(data, training.recipe.batch_size))
    step = jax.jit(functools.partial(final_step.train_step, task), donate_argnums=0, out_shardings=everywhere)
    return step.lower(state, key, number, *batch)


def candidates(
    name: str,
    network: Network,
    config: TrainConfig,
    data: SearchData,
    *,
    budget: int,
    batch: int,
    setting: str,
    abreast: bool = False,
) -> Stage:
    """Candidates trained from scratch, by one program for all of them.

    Args:
      name: of the stage.
      network: for every code.
      config: how each is trained.
      data: shapes of what it is trained on.
      budget: candidates of the search.
      batch: candidates that are trained together.
      setting: what sets the batch size.
      abreast: whether those of a device train at the same time.
    """
    cost = mean_multiply_adds(network.space)

    def program(devices: Sequence[jax.Device], batch_size: int) -> Program:
        changed = dataclasses.replace(config, batch_size=batch_size)
        per_device = -(-batch // len(devices))
        layout = Population(network, changed, devices, per_device, abreast)
        _, advance, _ = layout.lower(_shapes_of(data, layout))
        in_turn = 1 if abreast else per_device
        steps = -(-budget // batch) * in_turn * changed.steps(len(data.train))
        work = _times(cost, TRAINING * batch_size * (per_device if abreast else 1))
        return Program(advance, len(devices), steps, work)

    return Stage(name, config.batch_size, setting, program, shared=False)


def valuation(name: str, valuing: Valuation, *, budget: int, batch: int, setting: str) -> Stage:
    """Values of a supernet's parts.

    Args:
      name: of the stage.
      valuing: how; its data may be a `stand_in`.
      budget: codes of the search.
      batch: codes that are valued together.
      setting: what sets the batch size.
    """
    cost = mean_multiply_adds(valuing.supernet.space)

    def program(devices: Sequence[jax.Device], batch_size: int) -> Program:
        per_device = -(-batch // len(devices))
        changed = dataclasses.replace(valuing, batch_size=batch_size, devices=devices, per_device=per_device)
        calibrating = changed.recalibration // min(batch_size, changed.recalibration or 1)
        rounds = calibrating + math.ceil(len(changed.data.validation) / batch_size)
        steps = math.ceil(budget / batch) * per_device * rounds
        loops = 2.0 if calibrating else 1.0  # one measures statistics, one values; both read a batch a round
        return Program(changed.lower(), len(devices), steps, _times(cost, batch_size), counted=loops)

    return Stage(name, valuing.batch_size, setting, program, shared=False)


def _task(
    training: FinalTraining | SupernetTraining, data: SearchData, devices: Sequence[jax.Device]
) -> tuple[Task, NamedSharding]:
    """What a program is made for, and where what is the same on each device goes."""
    mesh = final_programs.mesh_of(devices)
    batch, everywhere = (NamedSharding(mesh, spec) for spec in (PartitionSpec(final_programs.AXIS), PartitionSpec()))
    recipe: Recipe = training.recipe
    return Task(training.network, recipe, training.augmentation, data.classes, data.scaling, batch), everywhere


def _arguments(training: FinalTraining | SupernetTraining) -> tuple[Any, ...]:
    """Shapes of the state, of what the network reads beside images, of the key, and of a number of steps."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    return final_step.shapes(training.network, training.recipe), data_of(training.network), key, jnp.int32(0)


def _batch(data: SearchData, count: int) -> tuple[PyTree[jax.ShapeDtypeStruct]]:
    """Shapes of so many images and their labels."""
    images = jax.ShapeDtypeStruct((count, *data.image_shape), data.train.images.dtype)
    return ((images, jax.ShapeDtypeStruct((count,), jnp.int32)),)


def _shapes_of(data: SearchData, layout: Population) -> Placed:
    everywhere = NamedSharding(layout.mesh, PartitionSpec())
    train, held_out = (
        jax.tree.map(functools.partial(_shaped, everywhere), (split.images, split.labels))
        for split in (data.train, data.validation)
    )
    return Placed(train, held_out, data)


def _shaped(sharding: NamedSharding, leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _times(number: float | int | None, factor: float | int) -> float | None:
    return None if number is None else number * factor
