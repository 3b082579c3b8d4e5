"""Training one candidate: its network, a step, and the loop over steps, as pure functions of pytrees.

A network is given as two functions of its parameters and its code (`Network`), so that one traced program serves every
code; Flax modules are split into graph and state by the caller. `population.py` trains many candidates at once on many
devices.
"""

import dataclasses
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

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
    matmul_precision,
    one_hot,
    optimizer,
    score_split,
)


@runtime_checkable
class Network(Protocol):
    """A network whose architecture is data: one traced program for every code of its space."""

    @property
    def space(self) -> SearchSpace:
        """The space of the codes."""
        ...

    def init(self, key: PRNGKeyArray, code: Int[Array, " dims"]) -> tuple[Params, BatchStats]:
        """Returns initial parameters and batch statistics. The key is consumed."""
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
        """Returns logits and updated batch statistics (unchanged if `train` is False)."""
        ...


@runtime_checkable
class Buildable(Protocol):
    """A network that can also be built for a single code, for a specialised program."""

    def for_code(self, code: Int[np.ndarray, " dims"]) -> Network:
        """Returns the network of one code: the same initial weights, without the parts that the code does not use."""
        ...


@runtime_checkable
class Selectable(Protocol):
    """A network that also has a form without control flow, which computes all operations and selects."""

    def as_branchless(self) -> Network:
        """Returns the network without control flow: the same layout of weights, the same outputs and gradients."""
        ...


@dataclasses.dataclass(frozen=True)
class CandidateTask:
    """Everything a training program is compiled for.

    Attributes:
      network: network that returns logits.
      config: training configuration; its numbers may be traced.
      classes: number of classes.
      scaling: scaling of 8-bit images; None for float32 images.
    """

    network: Network
    config: TrainConfig
    classes: int
    scaling: Scaling | None = None


class TrainState(NamedTuple):
    """Training state of one candidate."""

    params: Params
    batch_stats: BatchStats
    optimizer: optax.OptState
    key: PRNGKeyArray  # key for the order and augmentation of the training images
    step: Int[Array, ""]  # number of steps so far
    loss: Float[Array, ""]  # loss of the last step; training stops once it is not finite


class Evaluation(NamedTuple):
    """Accuracy and loss of one candidate on a whole split."""

    accuracy: Float[Array, ""]  # in [0, 1]
    loss: Float[Array, ""]  # mean cross entropy; not finite if any logit is not finite


def start_candidate(task: CandidateTask, code: Int[Array, " dims"], key: PRNGKeyArray) -> TrainState:
    """Returns the state of a candidate before its first step. The key is consumed."""
    weights, order = jax.random.split(key)
    params, batch_stats = task.network.init(weights, code)
    return TrainState(params, batch_stats, optimizer(task.config).init(params), order, jnp.int32(0), jnp.float32(0))


def candidate_train_step(
    task: CandidateTask,
    state: TrainState,
    code: Int[Array, " dims"],
    total: Int[Array, ""],
    images: Images,
    labels: Int[Array, " n"],
) -> TrainState:
    """Takes one SGD step on one batch, in a training of `total` steps."""
    config, key = task.config, jax.random.fold_in(state.key, state.step)
    inputs, targets = augment(config.augmentation, key, images, one_hot(labels, task.classes), task.scaling)

    def objective(params: Params) -> tuple[Float[Array, ""], BatchStats]:
        logits, batch_stats = task.network.apply(params, state.batch_stats, code, inputs, train=True)
        return cross_entropy(logits, targets, config.label_smoothing).mean(), batch_stats

    with matmul_precision(config.matmul_precision):
        (loss, batch_stats), gradient = jax.value_and_grad(objective, has_aux=True)(state.params)
    direction, momentum = optimizer(config).update(gradient, state.optimizer, state.params)
    rate = learning_rate(config, state.step, total)
    params = jax.tree.map(lambda p, d: p - rate.astype(d.dtype) * d, state.params, direction)
    return TrainState(params, batch_stats, momentum, state.key, state.step + 1, loss)


def train_candidate(
    task: CandidateTask,
    state: TrainState,
    code: Int[Array, " dims"],
    total: Int[Array, ""],
    until: Int[Array, ""],
    images: Images,
    labels: Int[Array, " n"],
    *,
    steps: int,
) -> TrainState:
    """Takes up to `steps` training steps; stops early at step `until` or at a non-finite loss.

    Args:
      task: network, configuration and data format.
      state: training state to continue from.
      code: architecture of the candidate, ``int32[dims]``.
      total: number of steps of the whole training, as data, so that trainings of any length share one program.
      until: last training step, at most `total`.
      images: all training images.
      labels: classes of the training images.
      steps: largest number of steps.
    """
    first = state.step
    order = batch_order(state.key, len(labels), task.config.batch_size, first, steps)

    def going(state: TrainState) -> Bool[Array, ""]:
        return (state.step < jnp.minimum(until, first + steps)) & jnp.isfinite(state.loss)

    def advance(state: TrainState) -> TrainState:
        rows = order[state.step - first]
        return candidate_train_step(task, state, code, total, images[rows], labels[rows])

    # XLA compiles the branch of a conditional by itself, so a step gives the same bits in every layout on CPU devices.
    # `vmap` makes it a selection.
    return lax.while_loop(going, lambda state: lax.cond(going(state), advance, lambda state: state, state), state)


def evaluate(
    task: CandidateTask, state: TrainState, code: Int[Array, " dims"], images: Images, labels: Int[Array, " n"]
) -> Evaluation:
    """Computes accuracy and loss on a whole split with the running batch statistics.

    The split is cut into batches, and the last batch is padded. Padding is not counted, and no image is dropped.
    """
    count, size = len(labels), min(task.config.batch_size, len(labels))
    padding = -count % size
    batched = jnp.pad(images, ((0, padding), (0, 0), (0, 0), (0, 0))).reshape(-1, size, *images.shape[1:])
    answers = jnp.pad(labels, (0, padding), constant_values=-1).reshape(-1, size)

    def logits_of(images: Array) -> Array:
        inputs = images if task.scaling is None else task.scaling(images)
        return task.network.apply(state.params, state.batch_stats, code, inputs, train=False)[0]

    correct, loss = score_split(logits_of, batched, answers, task.classes)
    return Evaluation(correct.astype(jnp.float32) / count, loss / count)
