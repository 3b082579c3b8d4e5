"""SGD for the training of candidates: settings, schedule, loss, batch order, and the evaluation of a split.

Candidates are trained as in section 4 of arXiv 1906.06832: SGD with momentum, weight decay and a cosine schedule. Long
trainings share the schedule, the loss, the batch order and the evaluation; supernets share the evaluation.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeAlias, get_args, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, UInt8

from lanas_jax.runtime.pytrees import register_config
from lanas_jax.training.augmentation import Augmentation

Params: TypeAlias = PyTree[Array]
BatchStats: TypeAlias = PyTree[Array]
MatmulPrecision: TypeAlias = Literal["default", "high", "highest"]
Real: TypeAlias = float | Float[Array, ""] | np.float32  # a Python number, or an input of a compiled program
Images: TypeAlias = UInt8[Array, "n height width channels"] | Float[Array, "n height width channels"]


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
    """The settings of a candidate's training.

    A pytree. The numbers of the optimizer, the schedule and the loss are leaves, and so inputs of a compiled program:
    trainings that differ only in these numbers share one program. `batch_size`, `nesterov`, `augmentation` and whether
    `clip` is None are static.

    Args:
      epochs: number of passes over the training images.
      batch_size: number of images per step.
      learning_rate: peak learning rate, decayed along half a cosine.
      final_learning_rate: learning rate at the end of training.
      warm_up: number of epochs, possibly fractional, of linear warm-up from 0 to the peak learning rate.
      momentum: decay of the momentum buffer.
      nesterov: use of Nesterov momentum.
      weight_decay: weight decay, added to the gradient after clipping as ``weight_decay * parameter`` (L2, not
        decoupled).
      clip: largest global norm of the gradient; None disables clipping.
      label_smoothing: probability mass moved from the true class to the uniform distribution over all classes.
      augmentation: random transformations of the training images at each step.
      matmul_precision: precision of products of float32 numbers in training steps on accelerators: ``default`` is JAX's
        setting, which rounds factors to bfloat16 on TPUs and to TensorFloat-32 on GPUs; ``high`` and ``highest`` are
        slower. Products of bfloat16 numbers, evaluations and CPUs do not depend on it.

    Raises:
      ValueError: a setting is out of its range.
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
    matmul_precision: MatmulPrecision = "default"

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
        if self.matmul_precision not in (known := get_args(MatmulPrecision)):
            raise ValueError(f"matmul_precision must be one of {', '.join(known)}; got {self.matmul_precision!r}")

    def steps(self, images: int, epochs: int | None = None) -> int:
        """Returns the number of steps in `epochs` passes (default: the setting) over `images` images, rounded up."""
        return -(-(epochs or self.epochs) * images // self.batch_size)


def matmul_precision(precision: MatmulPrecision) -> contextlib.AbstractContextManager[Any]:
    """Returns a context in which products are traced with a precision; ``default`` leaves JAX's setting as it is."""
    return contextlib.nullcontext() if precision == "default" else jax.default_matmul_precision(precision)


@runtime_checkable
class Schedule(Protocol):
    """The settings of a learning-rate schedule: numbers, or inputs of a compiled program."""

    @property
    def epochs(self) -> int: ...  # noqa: D102
    @property
    def learning_rate(self) -> float: ...  # noqa: D102
    @property
    def final_learning_rate(self) -> float: ...  # noqa: D102
    @property
    def warm_up(self) -> float: ...  # noqa: D102


def optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Returns clipping, weight decay and momentum as one optax transformation.

    The learning rate is not part of it: `train_step` applies it, since the schedule needs the number of steps.
    """
    return optax.chain(
        optax.identity() if config.clip is None else optax.clip_by_global_norm(config.clip),
        optax.add_decayed_weights(config.weight_decay),
        optax.trace(decay=config.momentum, nesterov=config.nesterov),
    )


def learning_rate(
    config: Schedule, step: Int[Array, ""], total: Int[Array, ""], constant: Real = 0.0
) -> Float[Array, ""]:
    """Returns the learning rate of a step: linear warm-up, half a cosine, constant end. All arguments may be traced.

    After the warm-up it is ``final + (peak - final) * (1 + cos(pi * f)) / 2``, with f going from 0 to 1, and `final` in
    the last `constant` epochs. During the warm-up, the first ``warm_up / epochs`` of all steps, it grows linearly from
    0 to ``peak``. optax's schedules need their horizon as a Python number. This function passes them fractions of the
    training, so the horizon may be traced and short and long trainings share one program.
    """
    fraction = step.astype(jnp.float32) / total.astype(jnp.float32)
    settings = (config.learning_rate, config.final_learning_rate, config.warm_up, config.epochs, constant)
    peak, final, warm_up, epochs, constant = (jnp.asarray(number, jnp.float32) for number in settings)
    falling = optax.cosine_decay_schedule(peak, decay_steps=1, alpha=final / peak)
    rise, fallen = warm_up / epochs, 1 - constant / epochs
    rising = peak * fraction / jnp.where(rise > 0, rise, 1.0)  # unused without a warm-up, but must not be NaN
    return jnp.where(fraction < rise, rising, falling((fraction - rise) / (fallen - rise)))


def one_hot(labels: Int[Array, " n"], classes: int) -> Float[Array, "n classes"]:
    """Returns the labels as one-hot distributions in float32."""
    return jax.nn.one_hot(labels, classes, dtype=jnp.float32)


def cross_entropy(
    logits: Float[Array, "n classes"], targets: Float[Array, "n classes"], smoothing: Real = 0.0
) -> Float[Array, " n"]:
    """Returns the softmax cross entropy of each image against its label-smoothed target distribution."""
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, smoothing))


def batch_order(
    key: PRNGKeyArray, images: int, batch_size: int, first: Int[Array, ""], steps: int
) -> Int[Array, "steps batch_size"]:
    """Returns the image indices of the batches of steps ``first`` to ``first + steps - 1``.

    The training reads one endless stream of epochs, cut into batches of equal size. Each epoch is a new permutation of
    all images, and the last batch of an epoch is filled up from the next epoch. So every image occurs exactly once per
    epoch, no batch is short, and a training may be split into any number of dispatches. Positions in the stream are
    int32, which allows up to 2**31 images in all.
    """
    epochs = (images + steps * batch_size - 2) // images + 1  # maximum number that this window overlaps
    start = first * batch_size
    epoch = start // images

    def permutation(i: Int[Array, ""]) -> Int[Array, " images"]:
        return jax.random.permutation(jax.random.fold_in(key, epoch + i), images)

    stream = lax.map(permutation, jnp.arange(epochs)).reshape(-1)
    window = lax.dynamic_slice(stream, (start - epoch * images,), (steps * batch_size,))
    return window.reshape(steps, batch_size)


def score_split(
    logits_of: Callable[[Array], Float[Array, "size classes"]],
    images: Array,
    labels: Int[Array, "batches size"],
    classes: int,
) -> tuple[Int[Array, ""], Float[Array, ""]]:
    """Counts correctly classified images and sums the cross entropies, batch after batch.

    Args:
      logits_of: forward pass of one batch of images.
      images: ``[batches, size, height, width, channels]``.
      labels: classes of the images; -1 marks the padding of the last batch, which is not counted.
      classes: number of classes.

    Returns:
      The number of correctly classified images, and the sum of the losses of all images.
    """

    def score(batch: tuple[Array, Array]) -> tuple[Array, Array]:
        images, labels = batch
        logits, is_real = logits_of(images), labels >= 0
        correct = jnp.sum(is_real & (jnp.argmax(logits, axis=1) == labels), dtype=jnp.int32)
        losses = cross_entropy(logits, one_hot(jnp.where(is_real, labels, 0), classes))
        return correct, jnp.sum(jnp.where(is_real, losses, 0.0))

    correct, losses = lax.map(score, (images, labels))
    return correct.sum(), losses.sum()
