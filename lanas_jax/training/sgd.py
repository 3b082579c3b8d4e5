"""SGD as candidates are trained by it: settings, schedule, loss, and which images a step sees.

Candidates are trained as section 4 of arXiv 1906.06832 trains them, by SGD with momentum, weight decay and a cosine
schedule; long trainings share the schedule, the loss and the order of batches.
"""

import dataclasses
from typing import Protocol, TypeAlias, runtime_checkable

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
Real: TypeAlias = float | Float[Array, ""] | np.float32  # a Python number, or one that is an input of a program
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
