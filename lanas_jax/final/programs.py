"""The compiled programs of a training, over all devices: a batch spread along the axis ``data``, weights on each.

Everything that is the same on each device (weights, training images, which of them make a batch) is replicated; XLA
divides the work on a batch and adds gradients and batch statistics up.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray

from lanas_jax.data.splits import SearchData, Split
from lanas_jax.final import step as training
from lanas_jax.final.recipe import Recipe
from lanas_jax.final.step import FinalState, Task, Weights
from lanas_jax.final.task import Beside, Training, beside, training_images
from lanas_jax.final.weights import AnyArray, filled

AXIS = "data"


def mesh_of(devices: Sequence[jax.Device]) -> Mesh:
    """Devices along the axis ``data``."""
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=list(devices))


@dataclasses.dataclass(frozen=True, eq=False)
class Programs:
    """The programs of one training and the images they read, which stay on the devices. Make one with `compiled`.

    Attributes:
      task: what they were made for.
      mesh: the devices.
      images: training images and labels, on every device.
      total: steps of the whole training.
      data: what network and teacher read beside images.
      initial: weights to begin with, by name, in place of those that `begin` draws.
      keys: of the first weights, and of the training.
      begin: the state before the first step, from a key; compiled at the first call.
      program: `lanas_jax.final.step.train`, compiled.
      right: how many images of a split are classified correctly; compiled at the first call.
      compile_seconds: what tracing and compiling took.
    """

    task: Task
    mesh: Mesh
    images: tuple[Array, Array]
    total: int
    data: Beside
    initial: Mapping[str, AnyArray]
    keys: tuple[PRNGKeyArray, PRNGKeyArray]
    begin: Callable[[PRNGKeyArray], FinalState]
    program: jax.stages.Compiled
    right: Callable[[Weights, Array, Array], Array]
    compile_seconds: float

    @property
    def count(self) -> int:
        """Training images."""
        return len(self.images[1])

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
        weights = jax.device_put(filled(state.weights, self.initial, partly=True), self.everywhere)
        average = None if state.average is None else jax.tree.map(jnp.copy, weights)
        return state._replace(weights=weights, average=average)

    def instead(self, final: Training) -> "Programs":
        """The same programs for a training that differs in seed, initial weights and its network's data alone."""
        keys, data = _placed(final, self.everywhere)
        return dataclasses.replace(self, data=data, keys=keys, initial=final.initial or {})

    def advance(self, state: FinalState, until: int) -> tuple[FinalState, Float[Array, " steps"]]:
        """One dispatch: up to `steps_per_dispatch` steps, to step `until` at most. The state is consumed.

        Returns:
          The state, and the loss of each step; 0 for those not taken.
        """
        bounds = jax.device_put((jnp.int32(self.total), jnp.int32(until)), self.everywhere)
        return self.program(self.data, state, self.keys[1], *bounds, *self.images)

    def accuracy(self, weights: Weights, split: Split) -> float:
        """Share of a split that is classified correctly, in [0, 1]."""
        size = self.task.recipe.batch_size
        padding = -len(split) % size
        labels = np.pad(split.labels, (0, padding), constant_values=-1).reshape(-1, size)
        images = np.pad(split.images, ((0, padding), (0, 0), (0, 0), (0, 0))).reshape(-1, size, *split.images.shape[1:])
        placed = jax.device_put((images, labels), self.everywhere)
        return int(self.right(weights, *placed)) / len(split)


def check(recipe: Recipe, data: SearchData, devices: Sequence[jax.Device]) -> None:
    """Checks, at the door, a recipe against images and devices.

    Raises:
      ValueError: a batch that the devices cannot share equally or that there are not enough images for, or more epochs
        than can be counted.
    """
    if recipe.batch_size % len(devices):
        raise ValueError(
            f"batch_size must be a multiple of the number of devices, {len(devices)}; got {recipe.batch_size}"
        )
    count = len(data.train) + (len(data.validation) if recipe.train_on == "all" else 0)
    if recipe.batch_size > count:
        raise ValueError(f"batch_size must be at most the number of training images, {count}; got {recipe.batch_size}")
    if (recipe.epochs + 1) * count >= 2**31:
        raise ValueError(f"epochs must be below {2**31 // count - 1} with {count} images; got {recipe.epochs}")


def compiled(final: Training, data: SearchData, devices: Sequence[jax.Device]) -> Programs:
    """Puts the images on the devices and compiles.

    Args:
      final: what to train.
      data: what on.
      devices: equal shares of a batch go to them (`check`).
    """
    began = time.perf_counter()
    mesh = mesh_of(devices)
    batch, everywhere = (NamedSharding(mesh, spec) for spec in (PartitionSpec(AXIS), PartitionSpec()))
    task = Task(final.network, final.recipe, final.augmentation, data.classes, data.scaling, batch, final.teacher)
    split = training_images(data, final.recipe)
    images = tuple(jax.device_put((split.images, split.labels), everywhere))
    keys, read = _placed(final, everywhere)
    state, number = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
        (training.shapes(final.network, final.recipe), jnp.int32(0)),
    )
    advance = jax.jit(functools.partial(training.train, task), donate_argnums=1, out_shardings=everywhere)
    program = advance.lower(read, state, keys[1], number, number, *images).compile()
    begin = jax.jit(functools.partial(training.start, final.network, final.recipe), out_shardings=everywhere)
    right = jax.jit(functools.partial(training.right, task))
    total = final.recipe.sgd.steps(len(split))
    seconds = time.perf_counter() - began
    initial = final.initial or {}
    return Programs(task, mesh, images, total, read, initial, keys, begin, program, right, seconds)


def _placed(final: Training, everywhere: NamedSharding) -> tuple[tuple[PRNGKeyArray, PRNGKeyArray], Beside]:
    """The keys of a training, and what its network and its teacher read beside images."""
    first, key = jax.random.split(jax.random.key(final.seed))
    key, data = jax.device_put((key, beside(final)), everywhere)
    return (first, key), data
