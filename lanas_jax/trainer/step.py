"""The steps of a long training, as pure functions of pytrees.

Compared with `lanas_jax.candidates.step`, this adds other optimizers, an auxiliary head, dropped paths, a teacher
(arXiv 1503.02531), a moving average of the weights, and a batch sharded over devices.

The program is written for the global batch, and XLA partitions it. So batch normalization uses the statistics of the
whole batch, which takes collectives in each layer and pass. With ``normalize_over="device"``, each device computes the
gradient of its own images with statistics of its own, and the only collectives are the means of loss, gradient and
running statistics over devices. With a number, groups of so many devices do.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from lanas_jax.data.scaling import Scaling
from lanas_jax.runtime.arithmetic import in_32_bits
from lanas_jax.storage.weights import AnyArray
from lanas_jax.trainer.recipe import Recipe, average_decay, drop_path, optimizer
from lanas_jax.trainer.task import (
    AuxiliaryInputs,
    BatchStats,
    DrawsCodes,
    FinalNetwork,
    Params,
    SelfTaught,
    Teacher,
    Weights,
    data_of,
    with_data,
)
from lanas_jax.training.augmentation import Augmentation, augment
from lanas_jax.training.sgd import batch_order, cross_entropy, learning_rate, matmul_precision, one_hot, score_split


@dataclasses.dataclass(frozen=True, eq=False)
class TrainerTask:
    """Everything that a compiled program depends on, except the images.

    Attributes:
      network: network to train.
      recipe: settings of the training; its numbers may be traced.
      augmentation: random transformations of the training images.
      classes: number of classes.
      scaling: scaling of 8-bit images; None for float32 images.
      batch: sharding of a batch over the devices.
      teacher: teacher for distillation, if any.
    """

    network: FinalNetwork
    recipe: Recipe
    augmentation: Augmentation
    classes: int
    scaling: Scaling | None
    batch: NamedSharding
    teacher: Teacher | None = None


Objective: TypeAlias = Callable[[Params, BatchStats, PRNGKeyArray], tuple[Array, BatchStats]]


class FinalState(NamedTuple):
    """The state of a training."""

    weights: Weights  # weights after the last step
    average: Weights | None  # moving average of the weights; None if the recipe's `ema` is None
    optimizer: optax.OptState
    step: Int[Array, ""]  # number of steps taken
    loss: Float[Array, ""]  # loss of the last step taken
    is_finite: Bool[Array, ""]  # True while loss and weights are finite; training stops when it becomes False


def start_training(network: FinalNetwork, recipe: Recipe, key: PRNGKeyArray) -> FinalState:
    """Returns the state of a network before its first step. The key is consumed."""
    weights = Weights(*network.init(key))
    average = None if recipe.ema is None else weights
    momentum = optimizer(recipe).init(weights.params)
    return FinalState(weights, average, momentum, jnp.int32(0), jnp.float32(0), jnp.bool_(True))


def begin(task: TrainerTask, data: AuxiliaryInputs, key: PRNGKeyArray) -> FinalState:
    """Returns the state of a task with the given auxiliary inputs before its first step. The key is consumed."""
    task = with_auxiliary_inputs(task, data)
    return start_training(task.network, task.recipe, key)


@in_32_bits
def shapes(network: FinalNetwork, recipe: Recipe) -> FinalState:
    """Returns the shapes and dtypes of a state."""
    return jax.eval_shape(lambda key: start_training(network, recipe, key), jax.random.key(0))


def loss_of(
    recipe: Recipe,
    logits: Float[Array, "n classes"],
    auxiliary: Float[Array, "n classes"] | None,
    targets: Float[Array, "n classes"],
    taught: Float[Array, "n classes"] | None = None,
) -> Float[Array, ""]:
    """Returns the mean label-smoothed cross entropy plus ``auxiliary_weight`` times that of the auxiliary head.

    If the teacher's distributions `taught` are given, the cross entropy C of the main head is replaced by
    ``(1 - w) C + w T^2 mean KL(taught || softmax(logits / T))``, with w the recipe's `distillation` and T its
    `temperature` (arXiv 1503.02531, section 2; T^2 balances the sizes of the two gradients).
    """
    logits = logits.astype(jnp.float32)
    loss = cross_entropy(logits, targets, recipe.label_smoothing).mean()
    if taught is not None:
        log_probabilities = jax.nn.log_softmax(logits / recipe.temperature)
        apart = optax.losses.kl_divergence(log_probabilities, taught).mean()
        loss = (1 - recipe.distillation) * loss + recipe.distillation * recipe.temperature**2 * apart
    if auxiliary is None:
        return loss
    auxiliary_loss = cross_entropy(auxiliary.astype(jnp.float32), targets, recipe.label_smoothing).mean()
    return loss + recipe.auxiliary_weight * auxiliary_loss


class TrainingBatch(NamedTuple):
    """An augmented batch, the input of the network."""

    images: Float[Array, "n height width channels"]
    targets: Float[Array, "n classes"]
    taught: Float[Array, "n classes"] | None  # the teacher's distributions at the recipe's temperature


def train_step(
    task: TrainerTask,
    state: FinalState,
    key: PRNGKeyArray,
    total: Int[Array, ""],
    images: Array,
    labels: Int[Array, " n"],
    known: Float[Array, "n classes"] | None = None,
) -> FinalState:
    """Takes one step of a training of `total` steps, on one batch.

    Args:
      task: task to train.
      state: state before the step.
      key: PRNG key of the training.
      total: number of steps of the whole training.
      images: batch of stored images, before augmentation.
      labels: classes of the images.
      known: saved logits of the teacher for these images, if any.
    """
    augmenting, dropping = step_keys(key, state.step)
    batch = batch_of(task, augmenting, images, labels, known)
    dropped = drop_path(task.recipe, state.step, total)
    return updated(task, state, total, *descent(task, state.weights, batch, dropping, dropped))


def step_keys(key: PRNGKeyArray, step: Int[Array, ""]) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """Returns the keys of a step: of its augmentation, and of all that its passes draw. The key is not consumed."""
    augmenting, dropping = jax.random.split(jax.random.fold_in(key, step))
    return augmenting, dropping


def updated(
    task: TrainerTask,
    state: FinalState,
    total: Int[Array, ""],
    loss: Float[Array, ""],
    batch_stats: BatchStats,
    gradient: Params,
) -> FinalState:
    """Returns the state after a step: clips the gradient, applies it, and averages the weights."""
    direction, momentum = optimizer(task.recipe).update(gradient, state.optimizer, state.weights.params)
    rate = learning_rate(task.recipe, state.step, total, task.recipe.constant_epochs)
    params = jax.tree.map(lambda p, d: p - rate.astype(d.dtype) * d, state.weights.params, direction)
    weights = Weights(params, batch_stats)
    average = update_average(task.recipe, state.average, weights, state.step)
    return FinalState(weights, average, momentum, state.step + 1, loss, jnp.isfinite(loss) & is_finite(weights))


def batch_of(
    task: TrainerTask,
    key: PRNGKeyArray,
    images: Array,
    labels: Int[Array, " n"],
    known: Float[Array, "n classes"] | None,
) -> TrainingBatch:
    """Returns an augmented batch. Image mixing also mixes targets and the teacher's `known` logits. Consumes the key.

    A teacher without known logits is evaluated on the augmented images, under `lax.stop_gradient`.
    """
    temperature, targets = task.recipe.temperature, one_hot(labels, task.classes)
    if known is None:
        inputs, targets = augment(task.augmentation, key, images, targets, task.scaling)
        if task.teacher is None:
            return TrainingBatch(inputs, targets, None)
        logits = lax.stop_gradient(task.teacher.logits(inputs)).astype(jnp.float32)
        return TrainingBatch(inputs, targets, jax.nn.softmax(logits / temperature))
    both = jnp.concatenate([targets, jax.nn.softmax(known.astype(jnp.float32) / temperature)], axis=1)
    inputs, both = augment(task.augmentation, key, images, both, task.scaling)
    return TrainingBatch(inputs, both[:, : task.classes], both[:, task.classes :])


def group_mesh(task: TrainerTask) -> Mesh | None:
    """Returns the devices by groups that normalise together, with axes ``group`` and ``member``; None for one group."""
    devices, over = task.batch.mesh.devices.reshape(-1), task.recipe.normalize_over
    group = over if isinstance(over, int) else {"all": devices.size, "device": 1}[over]
    return None if group == devices.size else Mesh(devices.reshape(-1, group), ("group", "member"))


def over_groups(mesh: Mesh, function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """Returns the function mapped over the groups of `group_mesh`; XLA partitions its work among a group's devices."""
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=in_specs,
        out_specs=out_specs,
        axis_names={"group"} if mesh.shape["member"] > 1 else {"group", "member"},
        check_vma=False,
    )


def summed_over_groups(
    recipe: Recipe, loss: Float[Array, ""], batch_stats: BatchStats, gradient: Params
) -> tuple[Float[Array, ""], BatchStats, Params]:
    """Returns the means over groups, within `over_groups`; gradients are summed in the recipe's `gradient_sum`."""
    summed = lax.pmean(jax.tree.map(lambda x: x.astype(recipe.gradient_sum), gradient), "group")
    gradient = jax.tree.map(lambda x, own: x.astype(own.dtype), summed, gradient)
    return *lax.pmean((loss, batch_stats), "group"), gradient


def descent(
    task: TrainerTask, weights: Weights, batch: TrainingBatch, key: PRNGKeyArray, dropped: Float[Array, ""]
) -> tuple[Float[Array, ""], BatchStats, Params]:
    """Returns the loss, the updated batch statistics, and the gradient of a step. The key is consumed."""
    with matmul_precision(task.recipe.matmul_precision):
        if (mesh := group_mesh(task)) is None:
            return descent_over(task, weights, batch, key, jax.random.fold_in(key, 0), dropped)

        def in_group(
            data: PyTree[AnyArray], weights: Weights, batch: TrainingBatch, key: PRNGKeyArray, dropped: Float[Array, ""]
        ) -> tuple[Float[Array, ""], BatchStats, Params]:
            noise = jax.random.fold_in(key, lax.axis_index("group"))  # each group drops other paths
            shared = key if isinstance(task.network, DrawsCodes) else noise
            own = dataclasses.replace(task, network=with_data(task.network, data))
            return summed_over_groups(task.recipe, *descent_over(own, weights, batch, shared, noise, dropped))

        whole, share = PartitionSpec(), PartitionSpec("group")
        found: tuple[Array, BatchStats, Params] = over_groups(
            mesh, in_group, (whole, whole, share, whole, whole), whole
        )(data_of(task.network), weights, batch, key, dropped)
        return found


def descent_over(
    task: TrainerTask,
    weights: Weights,
    batch: TrainingBatch,
    key: PRNGKeyArray,
    noise: PRNGKeyArray,
    dropped: Float[Array, ""],
) -> tuple[Float[Array, ""], BatchStats, Params]:
    """Returns what `descent` does, with batch normalization over the given images; for `noise` see `SelfTaught`."""
    if isinstance(task.network, SelfTaught):
        smoothed = optax.smooth_labels(batch.targets, task.recipe.label_smoothing)
        return task.network.gradient(weights, batch.images, smoothed, key, noise)

    def objective(params: Params, batch_stats: BatchStats, key: PRNGKeyArray) -> tuple[Float[Array, ""], BatchStats]:
        logits, auxiliary, batch_stats = task.network.apply(
            params, batch_stats, batch.images, train=True, key=key, drop_path=dropped
        )
        return loss_of(task.recipe, logits, auxiliary, batch.targets, batch.taught), batch_stats

    return averaged_gradient(objective, weights, key, task.recipe.passes)


def averaged_gradient(
    objective: Objective, weights: Weights, key: PRNGKeyArray, passes: int
) -> tuple[Float[Array, ""], BatchStats, Params]:
    """Returns the means of loss and gradient over sequential passes, and the batch statistics after the last pass.

    Args:
      objective: function from parameters, batch statistics and a pass's key to the loss and the updated statistics.
      weights: parameters and batch statistics to evaluate at.
      key: PRNG key, split among the passes; consumed.
      passes: number of passes. A single pass receives `key` itself.
    """
    gradient_of = jax.value_and_grad(objective, has_aux=True)
    if passes == 1:
        (loss, batch_stats), gradient = gradient_of(*weights, key)
        return loss, batch_stats, gradient

    def add(carry: tuple[Array, BatchStats, Params], key: PRNGKeyArray) -> tuple[Any, None]:
        loss, batch_stats, total = carry
        (more, batch_stats), gradient = gradient_of(weights.params, batch_stats, key)
        return (loss + more, batch_stats, jax.tree.map(jnp.add, total, gradient)), None

    nothing = (jnp.float32(0), weights.batch_stats, jax.tree.map(jnp.zeros_like, weights.params))
    (loss, batch_stats, gradient), _ = lax.scan(add, nothing, jax.random.split(key, passes))
    return loss / passes, batch_stats, jax.tree.map(lambda total: total / passes, gradient)


def update_average(recipe: Recipe, average: Weights | None, weights: Weights, step: Int[Array, ""]) -> Weights | None:
    """Returns the moving average after step number `step`: ``decay * average + (1 - decay) * weights``."""
    if average is None or recipe.ema is None:
        return None
    kept = average_decay(recipe.ema, step)
    return jax.tree.map(lambda a, w: a + (1 - kept).astype(w.dtype) * (w - a), average, weights)


def is_finite(tree: PyTree[Array]) -> Bool[Array, ""]:
    """Returns whether all numbers of a tree are finite."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def with_auxiliary_inputs(task: TrainerTask, data: AuxiliaryInputs) -> TrainerTask:
    """Returns the task with the given auxiliary inputs: recipe numbers, and data of network and teacher."""
    teacher = None if task.teacher is None else task.teacher.with_data(data.teacher)
    network = with_data(task.network, data.network)
    return dataclasses.replace(task, network=network, recipe=data.recipe, teacher=teacher)


def train_steps(
    task: TrainerTask,
    data: AuxiliaryInputs,
    state: FinalState,
    key: PRNGKeyArray,
    total: Int[Array, ""],
    until: Int[Array, ""],
    images: Array,
    labels: Int[Array, " n"],
) -> tuple[FinalState, Float[Array, " steps"]]:
    """Takes up to `steps_per_dispatch` steps, stopping at step `until` or when loss or weights are not finite.

    Args:
      task: task to train.
      data: auxiliary inputs (`lanas_jax.trainer.task.auxiliary_inputs`).
      state: state before the steps.
      key: PRNG key of the training; not consumed, since each step folds its number in.
      total: number of steps of the whole training.
      until: step to stop after, at most `total`.
      images: all training images, channels last.
      labels: classes of the images.

    Returns:
      The new state, and the loss of each step, 0 for steps not taken.
    """
    task = with_auxiliary_inputs(task, data)
    ordering, noise = jax.random.split(key)
    steps = task.recipe.steps_per_dispatch
    order = batch_order(ordering, len(labels), task.recipe.batch_size, state.step, steps)

    def body(state: FinalState, rows: Int[Array, " batch"]) -> tuple[FinalState, Float[Array, ""]]:
        def advance(state: FinalState) -> FinalState:
            known = None if task.teacher is None else task.teacher.known(rows)
            batch = lax.with_sharding_constraint((images[rows], labels[rows], known), task.batch)
            return train_step(task, state, noise, total, *batch)

        going = (state.step < until) & state.is_finite
        after = lax.cond(going, advance, lambda state: state, state)
        return after, jnp.where(going, after.loss, 0.0)

    return lax.scan(body, state, order)


def train_on_batch(
    task: TrainerTask,
    data: AuxiliaryInputs,
    state: FinalState,
    key: PRNGKeyArray,
    total: Int[Array, ""],
    images: Array,
    labels: Int[Array, " n"],
) -> tuple[FinalState, Float[Array, ""]]:
    """Takes one step on a given batch, unless loss or weights are no longer finite; arguments as in `train_steps`.

    Returns:
      The new state, and the loss of the step, 0 if it was not taken.
    """
    task = with_auxiliary_inputs(task, data)
    _, noise = jax.random.split(key)
    going = state.is_finite

    def advance(state: FinalState) -> FinalState:
        return train_step(task, state, noise, total, images, labels)

    after = lax.cond(going, advance, lambda state: state, state)
    return after, jnp.where(going, after.loss, 0.0)


def count_correct(
    task: TrainerTask, data: AuxiliaryInputs, weights: Weights, images: Array, labels: Int[Array, "batches size"]
) -> Int[Array, ""]:
    """Returns the number of correctly classified images of a split, using the running batch statistics.

    Args:
      task: task with the network and the scaling of its images.
      data: auxiliary inputs.
      weights: weights of the network.
      images: ``[batches, size, height, width, channels]``.
      labels: classes of the images; -1 marks the padding of the last batch and is not counted.
    """
    task = with_auxiliary_inputs(task, data)

    def logits_of(images: Array) -> Array:
        return compute_logits(
            task.network, weights, lax.with_sharding_constraint(images, task.batch), task.scaling
        ).astype(jnp.float32)

    return score_split(logits_of, images, labels, task.classes)[0]


def count_correct_in_batch(
    task: TrainerTask, data: AuxiliaryInputs, weights: Weights, images: Array, labels: Int[Array, " size"]
) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """Returns the numbers of correctly classified images and of images in a batch. Labels of -1 are not counted."""
    found = count_correct(task, data, weights, images[None], labels[None])
    return found, jnp.sum(labels >= 0, dtype=jnp.int32)


def compute_logits(
    network: FinalNetwork, weights: Weights, images: Array, scaling: Scaling | None
) -> Float[Array, "n classes"]:
    """Returns the logits of a trained network in evaluation mode."""
    key = jax.random.key(0)  # unused: no paths are dropped in evaluation mode
    inputs = images if scaling is None else scaling(images)
    logits, _, _ = network.apply(*weights, inputs, train=False, key=key, drop_path=jnp.float32(0))
    return logits
