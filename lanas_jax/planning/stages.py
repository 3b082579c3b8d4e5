"""The stages there are: candidates trained from scratch, a network or supernet trained, masks valued.

Each traces the program that its command runs, with shapes in place of arrays.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Int

from lanas_jax.candidates.population import Placed, Population
from lanas_jax.candidates.step import Network
from lanas_jax.data.splits import SearchData
from lanas_jax.planning.stage import Stage, TracedProgram
from lanas_jax.runtime.devices import mesh_of
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.supernet import code_pool
from lanas_jax.supernet.training import SupernetTraining
from lanas_jax.supernet.valuation import Valuation
from lanas_jax.trainer import in_memory
from lanas_jax.trainer import programs as final_programs
from lanas_jax.trainer.streamed import lowered_step
from lanas_jax.trainer.task import FinalTraining
from lanas_jax.training.sgd import TrainConfig

TRAINING = 3.0  # forward passes that a step of training is worth: one forward, two backward
SAMPLED = 256  # codes whose mean cost stands for that of a search


def mean_multiply_adds(space: SearchSpace, codes: Int[np.ndarray, "n dims"] | None = None) -> float | None:
    """Mean over codes, by default `SAMPLED` valid ones drawn uniformly; None where the space does not know."""
    if codes is None:
        codes = code_pool.draw_codes(space, SAMPLED, seed=0)
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
    teacher_multiply_adds: float | int = 0,
) -> Stage:
    """A training by `lanas_jax.trainer`: a winner's, or a supernet's.

    Args:
      name: of the stage.
      training: its dataset is not loaded.
      data: shapes of what it is trained on.
      multiply_adds: of a forward pass on one image; of a supernet, mean over its passes. None: unknown.
      setting: what sets the recipe's batch size.
      streamed: whether a step is given its batch, instead of all images lying on each device.
      teacher_multiply_adds: of a teacher's forward pass on one image.
    """
    recipe, passes = training.recipe, _passes(training)
    split = len(data.train) + (len(data.validation) if recipe.train_on == "all" else 0)

    def program(devices: Sequence[jax.Device], batch_size: int) -> TracedProgram:
        changed = dataclasses.replace(recipe, batch_size=batch_size)
        if batch_size % len(devices):
            raise ValueError(f"batch size must be a multiple of the {len(devices)} chips; got {batch_size}")
        lowered = _lowered(dataclasses.replace(training, recipe=changed), data, devices, streamed)
        images = batch_size / len(devices)
        work = _times(multiply_adds, TRAINING * passes * images)
        work = None if work is None else work + teacher_multiply_adds * images
        return TracedProgram(lowered, len(devices), changed.sgd.steps(split), work, counted=1 / passes)

    return Stage(name, recipe.batch_size, setting, program)


def _lowered(
    training: FinalTraining | SupernetTraining, data: SearchData, devices: Sequence[jax.Device], streamed: bool
) -> jax.stages.Lowered:
    mesh = mesh_of(devices, final_programs.AXIS)
    if streamed:
        return lowered_step(training, mesh, data.image_shape, data.classes, data.scaling)
    return in_memory.lowered_steps(training, mesh, data)


def _passes(training: FinalTraining | SupernetTraining) -> int:
    """Of a step, one after the other."""
    sandwich = training.sandwich if isinstance(training, SupernetTraining) else None
    return training.recipe.passes if sandwich is None else 2 + sandwich.random


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

    def program(devices: Sequence[jax.Device], batch_size: int) -> TracedProgram:
        changed = dataclasses.replace(config, batch_size=batch_size)
        per_device = -(-batch // len(devices))
        layout = Population(network, changed, devices, per_device, abreast)
        _, advance, _ = layout.lower(_shapes_of(data, layout))
        in_turn = 1 if abreast else per_device
        steps = -(-budget // batch) * in_turn * changed.steps(len(data.train))
        work = _times(cost, TRAINING * batch_size * (per_device if abreast else 1))
        return TracedProgram(advance, len(devices), steps, work)

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

    def program(devices: Sequence[jax.Device], batch_size: int) -> TracedProgram:
        per_device = -(-batch // len(devices))
        changed = dataclasses.replace(valuing, batch_size=batch_size, devices=devices, per_device=per_device)
        calibrating = changed.recalibration // min(batch_size, changed.recalibration or 1)
        rounds = calibrating + math.ceil(len(changed.data.validation) / batch_size)
        steps = math.ceil(budget / batch) * per_device * rounds
        loops = 2.0 if calibrating else 1.0  # one measures statistics, one values; both read a batch a round
        return TracedProgram(changed.lower(), len(devices), steps, _times(cost, batch_size), counted=loops)

    return Stage(name, valuing.batch_size, setting, program, shared=False)


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
