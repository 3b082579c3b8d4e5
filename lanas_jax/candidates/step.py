"""Training one candidate: its network, a step, and the scan over steps, as pure functions of pytrees.

The network enters as two functions of its parameters and its code (`Network`), so that one traced program serves every
code; modules are split before they come here. Many candidates at once, and the devices, are the business of
`population.py`.
"""

import dataclasses
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lanas_jax.data.scaling import Scaling
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.training.augmentation import augment
from lanas_jax.training.sgd import (
    BatchStats,
    Images,
    Params,
    TrainConfig,
    batch_order,
    cross_entropy,
    learning_rate,
    one_hot,
    optimizer,
)


@runtime_checkable
class Network(Protocol):
    """A network whose architecture is data: one traced program for every code of its space."""

    @property
    def space(self) -> SearchSpace:
        """What its codes mean."""
        ...

    def init(self, key: PRNGKeyArray, code: Int[Array, " dims"]) -> tuple[Params, BatchStats]:
        """Fresh parameters and batch statistics. The key is consumed."""
        ...

    def apply(
        self,
        params: Params,
        batch_stats: BatchStats,
        code: Int[Array, " dims"],
        images: Float[Array, "n height width channels"],
        *,
        train: bool,
    ) -> tuple[Float[Array, "n classes"], BatchStats]:
        """Logits, and the batch statistics after this batch (unchanged where `train` is False)."""
        ...


@runtime_checkable
class Buildable(Protocol):
    """A network that can also be built for one code alone, for a program of that code."""

    def for_code(self, code: Int[np.ndarray, " dims"]) -> Network:
        """The same network with the same initial weights, without what the code does not use."""
        ...


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained, on what, and how: all that a program is made for.

    Attributes:
      network: gives logits.
      config: how to train; its numbers may be traced.
      classes: number of classes.
      scaling: of images of 8 bits; None where they are float32.
    """

    network: Network
    config: TrainConfig
    classes: int
    scaling: Scaling | None = None


class TrainState(NamedTuple):
    """One candidate in training."""

    params: Params
    batch_stats: BatchStats
    optimizer: optax.OptState
    key: PRNGKeyArray  # orders the training images, and augments them
    step: Int[Array, ""]  # steps taken
    loss: Float[Array, ""]  # of the last step taken; not finite: training stopped there


class Evaluation(NamedTuple):
    """How well one candidate does on a whole split."""

    accuracy: Float[Array, ""]  # in [0, 1]
    loss: Float[Array, ""]  # mean cross entropy; not finite where any logit is not


def start(task: Task, code: Int[Array, " dims"], key: PRNGKeyArray) -> TrainState:
    """A candidate before its first step. The key is consumed."""
    weights, order = jax.random.split(key)
    params, batch_stats = task.network.init(weights, code)
    return TrainState(params, batch_stats, optimizer(task.config).init(params), order, jnp.int32(0), jnp.float32(0))


def train_step(
    task: Task,
    state: TrainState,
    code: Int[Array, " dims"],
    total: Int[Array, ""],
    images: Images,
    labels: Int[Array, " n"],
) -> TrainState:
    """One step of SGD towards a training of `total` steps, on one batch."""
    config, key = task.config, jax.random.fold_in(state.key, state.step)
    inputs, targets = augment(config.augmentation, key, images, one_hot(labels, task.classes), task.scaling)

    def objective(params: Params) -> tuple[Float[Array, ""], BatchStats]:
        logits, batch_stats = task.network.apply(params, state.batch_stats, code, inputs, train=True)
        return cross_entropy(logits, targets, config.label_smoothing).mean(), batch_stats

    (loss, batch_stats), gradient = jax.value_and_grad(objective, has_aux=True)(state.params)
    direction, momentum = optimizer(config).update(gradient, state.optimizer, state.params)
    rate = learning_rate(config, state.step, total)
    params = jax.tree.map(lambda p, d: p - rate.astype(d.dtype) * d, state.params, direction)
    return TrainState(params, batch_stats, momentum, state.key, state.step + 1, loss)


def train(
    task: Task,
    state: TrainState,
    code: Int[Array, " dims"],
    total: Int[Array, ""],
    until: Int[Array, ""],
    images: Images,
    labels: Int[Array, " n"],
    *,
    steps: int,
) -> TrainState:
    """Up to `steps` steps further: no further than `until`, and no further than a loss that is not finite.

    Args:
      task: what to train.
      state: where to go on from.
      code: the candidate.
      total: steps of the whole training; data, so that trainings of any length share one program.
      until: the step to stop after, at most `total`.
      images: all training images.
      labels: their classes.
      steps: length of the scan.
    """
    order = batch_order(state.key, len(labels), task.config.batch_size, state.step, steps)

    def body(state: TrainState, rows: Int[Array, " batch"]) -> tuple[TrainState, None]:
        def advance(state: TrainState) -> TrainState:
            return train_step(task, state, code, total, images[rows], labels[rows])

        going = (state.step < until) & jnp.isfinite(state.loss)
        return lax.cond(going, advance, lambda state: state, state), None

    return lax.scan(body, state, order)[0]


def evaluate(
    task: Task, state: TrainState, code: Int[Array, " dims"], images: Images, labels: Int[Array, " n"]
) -> Evaluation:
    """Accuracy and loss on a whole split, with the running batch statistics.

    The split is cut into batches and the last one padded; padding counts for nothing and no image is dropped.
    """
    count, size = len(labels), min(task.config.batch_size, len(labels))
    padding = -count % size
    batched = jnp.pad(images, ((0, padding), (0, 0), (0, 0), (0, 0))).reshape(-1, size, *images.shape[1:])
    answers = jnp.pad(labels, (0, padding), constant_values=-1).reshape(-1, size)

    def batch(batch: tuple[Array, Array]) -> tuple[Array, Array]:
        images, labels = batch
        inputs = images if task.scaling is None else task.scaling(images)
        logits, _ = task.network.apply(state.params, state.batch_stats, code, inputs, train=False)
        real = labels >= 0
        right = jnp.sum(real & (jnp.argmax(logits, axis=1) == labels), dtype=jnp.int32)
        losses = cross_entropy(logits, one_hot(jnp.where(real, labels, 0), task.classes))
        return right, jnp.sum(jnp.where(real, losses, 0.0))

    right, loss = lax.map(batch, (batched, answers))
    return Evaluation(right.sum().astype(jnp.float32) / count, loss.sum() / count)
