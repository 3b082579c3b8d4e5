"""The built-in stages: training of candidates from scratch, training of a winner or supernet, valuation of codes.

Each stage traces the program that its command runs, with shapes in place of arrays.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Int

from lanas_jax.candidates.population import Placed, Population
from lanas_jax.candidates.step import Network
from lanas_jax.data.splits import SearchData
from lanas_jax.planning.stage import Stage, StreamedInput, TracedProgram
from lanas_jax.runtime.devices import mesh_of
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.supernet import code_pool
from lanas_jax.supernet.base import HasVariants
from lanas_jax.supernet.sandwich import SandwichSupernet
from lanas_jax.supernet.training import SupernetTraining
from lanas_jax.supernet.valuation import Valuation
from lanas_jax.trainer import passes
from lanas_jax.trainer import programs as final_programs
from lanas_jax.trainer.compilation import lowered_steps
from lanas_jax.trainer.streamed import lowered_passes, lowered_step
from lanas_jax.trainer.task import FinalTraining
from lanas_jax.training.sgd import TrainConfig

TRAINING = 3.0  # cost of a training step in forward passes: one forward, two for the backward pass
SAMPLED = 256  # codes whose mean cost estimates the mean cost of a search


def mean_multiply_adds(space: SearchSpace, codes: Int[np.ndarray, "n dims"] | None = None) -> float | None:
    """Returns the mean multiply-adds of codes, by default `SAMPLED` uniform ones; None if the space has no costs."""
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
    rounds: float = 1.0,
    reading: StreamedInput | None = None,
) -> Stage:
    """Returns the stage of a training by `lanas_jax.trainer`: of a winner or of a supernet.

    Args:
      name: name of the stage.
      training: training to estimate; its dataset is not loaded.
      data: shapes of the training data.
      multiply_adds: multiply-adds of one forward pass on one image; for a supernet, the mean over its passes. None:
        unknown.
      setting: name of the setting for the recipe's batch size.
      streamed: True if each step receives its batch, False if every device holds all images.
      teacher_multiply_adds: multiply-adds of a teacher's forward pass on one image.
      rounds: mean number of iterations of loops whose length depends on data, such as those over a cell's operations.
      reading: way in which input workers read an image of a streamed dataset; None: unknown.
    """
    training.network.space.check_images(data.image_shape, data.classes)
    recipe, passes = training.recipe, _passes(training)
    split = len(data.train) + (len(data.validation) if recipe.train_on == "all" else 0)

    def program(devices: Sequence[jax.Device], batch_size: int) -> TracedProgram | tuple[TracedProgram, ...]:
        changed = dataclasses.replace(recipe, batch_size=batch_size)
        if batch_size % len(devices):
            raise ValueError(f"batch size must be a multiple of the {len(devices)} chips; got {batch_size}")
        resized = dataclasses.replace(training, recipe=changed)
        images = batch_size / len(devices)
        if streamed and isinstance(resized, SupernetTraining):
            mesh = mesh_of(devices, final_programs.AXIS)
            separate = lowered_passes(resized, mesh, data.image_shape, data.classes, data.scaling)
            if separate is not None:
                return _programs_of_step(resized, separate, len(devices), changed.sgd.steps(split), images)
        lowered = _lowered(resized, data, devices, streamed)
        work = _times(multiply_adds, TRAINING * passes * images)
        work = None if work is None else work + teacher_multiply_adds * images
        steps, per_call = changed.sgd.steps(split), 1 if streamed else changed.steps_per_dispatch
        return TracedProgram(lowered, len(devices), steps, work, 1 / passes, per_call, (rounds,))

    return Stage(name, recipe.batch_size, setting, program, reading=reading)


def _programs_of_step(
    training: SupernetTraining, lowered: passes.Lowered, devices: int, steps: int, images: float
) -> tuple[TracedProgram, ...]:
    """Returns the programs of a sandwich's step; `images` is the number of images of a device."""
    rule, space, network = training.sandwich, training.supernet.space, training.network
    assert rule is not None
    assert isinstance(network, SandwichSupernet)
    drawn = np.array([network.program_of(code) for code in training.codes])
    found = []
    for name, program in lowered.passes.items():
        ends = {"largest": rule.largest, "smallest": rule.smallest}
        codes = np.array([ends[name]]) if name in ends else training.codes[drawn == name]
        calls = 1.0 if name in ends else rule.random * len(codes) / len(training.codes)
        work = _times(mean_multiply_adds(space, codes) if len(codes) else 0.0, TRAINING * images)
        found.append(TracedProgram(program, devices, steps, work, name=name, calls=calls))
    return *found, TracedProgram(lowered.apply, devices, steps, 0.0, name=passes.APPLY)


def _lowered(
    training: FinalTraining | SupernetTraining, data: SearchData, devices: Sequence[jax.Device], streamed: bool
) -> jax.stages.Lowered:
    mesh = mesh_of(devices, final_programs.AXIS)
    if streamed:
        return lowered_step(training, mesh, data.image_shape, data.classes, data.scaling)
    return lowered_steps(training, mesh, data)


def _passes(training: FinalTraining | SupernetTraining) -> int:
    """Returns the number of sequential passes per step."""
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
    vmapped: bool = False,
    rounds: float = 1.0,
) -> Stage:
    """Returns the stage of training candidates from scratch with one shared program.

    Args:
      name: name of the stage.
      network: network that takes any code as data.
      config: training configuration of each candidate.
      data: shapes of the training data.
      budget: number of candidates in the search.
      batch: number of candidates trained together.
      setting: name of the setting for the batch size.
      vmapped: True if the candidates of a device train vmapped, False if sequentially.
      rounds: mean number of iterations of loops whose length depends on data, such as those over a cell's operations.
    """
    network.space.check_images(data.image_shape, data.classes)
    cost = mean_multiply_adds(network.space)

    def program(devices: Sequence[jax.Device], batch_size: int) -> TracedProgram:
        changed = dataclasses.replace(config, batch_size=batch_size)
        per_device = -(-batch // len(devices))
        layout = Population(network, changed, devices, per_device, vmapped)
        _, advance, _ = layout.lower(shapes_of(data, layout))
        sequential = 1 if vmapped else per_device
        steps = -(-budget // batch) * sequential * changed.steps(len(data.train))
        work = _times(cost, TRAINING * batch_size * (per_device if vmapped else 1))
        per_call = sequential * layout.steps_per_dispatch
        loops = layout.steps_per_dispatch, rounds  # the loop over steps ends early at the end of the training
        return TracedProgram(advance, len(devices), steps, work, steps_per_call=per_call, rounds=loops)

    return Stage(name, config.batch_size, setting, program, shared=False)


def valuation(name: str, valuing: Valuation, *, budget: int, batch: int, setting: str, rounds: float = 1.0) -> Stage:
    """Returns the stage of valuing subnetworks of a supernet.

    Args:
      name: name of the stage.
      valuing: valuation to estimate; its data may be a `stand_in`.
      budget: number of codes in the search.
      batch: number of codes valued together.
      setting: name of the setting for the batch size.
      rounds: mean number of iterations of loops whose length depends on data, such as those over a cell's operations.
    """
    valuing.supernet.space.check_images(valuing.data.image_shape, valuing.data.classes)
    cost = mean_multiply_adds(valuing.supernet.space)

    def program(devices: Sequence[jax.Device], batch_size: int) -> TracedProgram | tuple[TracedProgram, ...]:
        per_device = -(-batch // len(devices))
        changed = dataclasses.replace(valuing, batch_size=batch_size, devices=devices, per_device=per_device)
        calibrating = changed.recalibration // min(batch_size, changed.recalibration or 1)
        batches = calibrating + math.ceil(len(changed.data.validation) / batch_size)
        loops = 2.0 if calibrating else 1.0  # one loop measures statistics, one values; both read a batch per iteration
        calls, variants = math.ceil(budget / batch), changed.variants

        def traced(variant: int, times: int, share: float, work: float | None) -> TracedProgram:
            per_call = changed.per_call * batches
            return TracedProgram(
                changed.lower(variant), len(devices), times * per_call, _times(work, batch_size), loops, per_call,
                (rounds,), variants[variant] if variants else "", share,
            )  # fmt: skip

        if not variants:
            return traced(0, calls, 1.0, cost)
        supernet = changed.supernet
        assert isinstance(supernet, HasVariants)
        codes = code_pool.draw_codes(supernet.space, SAMPLED, seed=0)
        groups = [codes[[supernet.variant(code) == i for code in codes]] for i in range(len(variants))]
        each = [math.ceil(batch * len(group) / len(codes) / len(devices)) for group in groups]
        times = calls * sum(each)
        return tuple(
            traced(i, times, each[i] / sum(each), mean_multiply_adds(supernet.space, group))
            for i, group in enumerate(groups)
            if len(group)
        )

    return Stage(name, valuing.batch_size, setting, program, shared=False)


def shapes_of(data: SearchData, layout: Population) -> Placed:
    """Returns the shapes of a search's data on the devices of a layout."""
    everywhere = NamedSharding(layout.mesh, PartitionSpec())
    train, held_out = (
        jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), (split.images, split.labels)
        )
        for split in (data.train, data.validation)
    )
    return Placed(train, held_out, data)


def _times(number: float | int | None, factor: float | int) -> float | None:
    return None if number is None else number * factor
