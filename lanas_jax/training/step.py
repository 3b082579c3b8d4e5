"""Training one candidate: loss, optimiser, schedule and the scan over steps, as pure functions of pytrees.

Candidates are trained as section 4 of arXiv 1906.06832 trains them, by SGD with momentum, weight decay and a cosine
schedule. The network enters as two functions of its parameters and its code (`Network`), so that one traced program
serves every code; modules are split before they come here. Many candidates at once, and the devices, are the business
of `population.py`.
"""

import dataclasses
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, UInt8

from lanas_jax.data.scaling import Scaling
from lanas_jax.runtime.pytrees import register_config
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.training.augmentation import Augmentation, augment

Params: TypeAlias = PyTree[Array]
BatchStats: TypeAlias = PyTree[Array]
Real: TypeAlias = float | Float[Array, ""] | np.float32  # a Python number, or one that is an input of a program
Images: TypeAlias = UInt8[Array, "n height width channels"] | Float[Array, "n height width channels"]


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


@register_config(
    data=(
        "epochs",
        "learning_rate",
        "final_learning_rate",
        "warm_up",
        "momentum",
        "weight_decay",
        "clip",
        "label_smoothing",
    )
)
@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a candidate is trained.

    A pytree: the numbers of the optimiser, the schedule and the loss are inputs of a program, so that trainings that
    differ in them share it. `batch_size`, `nesterov`, `augmentation` and whether there is a `clip` are parts of it.

    Args:
      epochs: passes over the training images.
      batch_size: images per step.
      learning_rate: its peak; falls along half a cosine.
      final_learning_rate: what it falls to.
      warm_up: epochs in which it grows linearly from 0 to its peak, before it falls; may be a fraction of one.
      momentum: decay of the momentum buffer.
      nesterov: look ahead by one momentum step.
      weight_decay: added to the gradient as ``weight_decay * parameter`` (L2, not decoupled), after clipping.
      clip: largest global norm of the gradient; None does not clip.
      label_smoothing: mass moved from the true class to all classes alike.
      augmentation: what is done to the training images of each step.

    Raises:
      ValueError: a setting out of its range.
    """

    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 0.1
    final_learning_rate: float = 0.0
    warm_up: float = 0.0
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 3e-4
    clip: float | None = 5.0
    label_smoothing: float = 0.0
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")
        if not 0 <= self.final_learning_rate <= self.learning_rate:
            raise ValueError(
                f"final_learning_rate must be from 0 to learning_rate, {self.learning_rate}; "
                f"got {self.final_learning_rate}"
            )
        if not 0 <= self.warm_up < self.epochs:
            raise ValueError(f"warm_up must be from 0 to less than epochs, {self.epochs}; got {self.warm_up}")
        for name in ("momentum", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1); got {getattr(self, name)}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative; got {self.weight_decay}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be positive, or None not to clip; got {self.clip}")

    def steps(self, images: int, epochs: int | None = None) -> int:
        """Steps that show each of `images` images `epochs` times (default: the configured ones), rounded up."""
        return -(-(epochs or self.epochs) * images // self.batch_size)


@runtime_checkable
class Schedule(Protocol):
    """The settings of a learning rate: numbers, or inputs of a program."""

    @property
    def epochs(self) -> int: ...  # noqa: D102
    @property
    def learning_rate(self) -> float: ...  # noqa: D102
    @property
    def final_learning_rate(self) -> float: ...  # noqa: D102
    @property
    def warm_up(self) -> float: ...  # noqa: D102


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


def optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Clipping, weight decay and momentum; the learning rate is applied by `train_step`, which knows the horizon."""
    return optax.chain(
        optax.identity() if config.clip is None else optax.clip_by_global_norm(config.clip),
        optax.add_decayed_weights(config.weight_decay),
        optax.trace(decay=config.momentum, nesterov=config.nesterov),
    )


def learning_rate(config: Schedule, step: Int[Array, ""], total: Int[Array, ""]) -> Float[Array, ""]:
    """``last + (peak - last) * (1 + cos(pi * f)) / 2``, f from 0 after the warm-up to 1; arguments may be traced.

    In the first ``warm_up / epochs`` of all steps it is ``peak`` times the part of these that is behind. optax's
    schedules want their horizons as Python numbers. Told in fractions of the training, they take any horizon, and short
    and long trainings share one program.
    """
    fraction = step.astype(jnp.float32) / total.astype(jnp.float32)
    settings = (config.learning_rate, config.final_learning_rate, config.warm_up, config.epochs)
    peak, final, warm_up, epochs = (jnp.asarray(number, jnp.float32) for number in settings)
    falling = optax.cosine_decay_schedule(peak, decay_steps=1, alpha=final / peak)
    rise = warm_up / epochs
    rising = peak * fraction / jnp.where(rise > 0, rise, 1.0)  # without a warm-up it is not used, and must not be NaN
    return jnp.where(fraction < rise, rising, falling((fraction - rise) / (1 - rise)))


def one_hot(labels: Int[Array, " n"], classes: int) -> Float[Array, "n classes"]:
    """The class of each image as a distribution."""
    return jax.nn.one_hot(labels, classes, dtype=jnp.float32)


def cross_entropy(
    logits: Float[Array, "n classes"], targets: Float[Array, "n classes"], smoothing: Real = 0.0
) -> Float[Array, " n"]:
    """Softmax cross entropy of each image with a distribution over classes, smoothed."""
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, smoothing))


def batch_order(
    key: PRNGKeyArray, images: int, batch_size: int, first: Int[Array, ""], steps: int
) -> Int[Array, "steps batch_size"]:
    """Which images the steps ``first .. first + steps - 1`` of a training see.

    The training reads one endless stream of epochs, each a fresh permutation of all images, cut into batches of equal
    size: every image comes exactly once per epoch, and a batch that ends an epoch is filled up from the next. So no
    image is dropped, batch statistics never rest on a short batch, and a training may be cut into any number of
    dispatches. Positions in the stream are int32: up to 2**31 images in all.
    """
    epochs = (images + steps * batch_size - 2) // images + 1  # that a window of this length can touch
    start = first * batch_size
    epoch = start // images

    def permutation(i: Int[Array, ""]) -> Int[Array, " images"]:
        return jax.random.permutation(jax.random.fold_in(key, epoch + i), images)

    stream = lax.map(permutation, jnp.arange(epochs)).reshape(-1)
    window = lax.dynamic_slice(stream, (start - epoch * images,), (steps * batch_size,))
    return window.reshape(steps, batch_size)


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
