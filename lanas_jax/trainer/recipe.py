"""The recipe of a long training: its settings, and the optimizer and schedules that follow from them.

The defaults are the final training of DARTS (arXiv 1806.09055, section 3.1 and its code), which section 4 of arXiv
1906.06832 also uses: 600 epochs of SGD with a cosine schedule, an auxiliary head, and a drop-path probability that
grows linearly. Published code updates the learning rate and the drop-path probability once per epoch; this code updates
them at every step. ImageNet recipes are other settings of the same class: another optimizer, a warm-up,
a teacher (`teacher.py`). The augmentation of the images is part of the training (`task.py`), not of the recipe.

The optimizers are SGD, RMSProp, AdamW and LAMB, composed of optax transformations. Each turns gradients into a
direction. The training step, which knows the schedule, subtracts the learning rate times the direction from the
parameters. Gradients are clipped first. With g the clipped gradient and p the parameters:

- ``sgd``: momentum applied to ``g + weight_decay * p``.
- ``rmsprop``: momentum applied to ``(g + weight_decay * p) / sqrt(mean of squares + epsilon)``. Epsilon is inside the
  root and the mean starts at 1, as in TensorFlow's RMSProp, which trained EfficientNet (arXiv 1905.11946) and
  MobileNetV3. TensorFlow multiplies by the learning rate before momentum; this code, like PyTorch, multiplies after it.
  The two are equal for a constant learning rate.
- ``adamw``: ``m / (sqrt(v) + epsilon) + weight_decay * p``, with both means bias-corrected (arXiv 1711.05101; the decay
  is also multiplied by the learning rate, as in most code).
- ``lamb``: the direction of ``adamw``, multiplied by ``|p| / |direction|`` for each parameter array (arXiv 1904.00962,
  algorithm 2 with phi the identity), or by 1 if either norm is 0.

If biases and normalization parameters are exempt from decay, LAMB also exempts them from the ratio, as its authors'
code does.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from lanas_jax.runtime.pytrees import register_config
from lanas_jax.training.sgd import MatmulPrecision, Real, TrainConfig

# The optimizers that read each setting. With any other optimizer, the setting must stay at its default.
READ_BY = {
    "momentum": ("sgd", "rmsprop"),
    "nesterov": ("sgd", "rmsprop"),
    "rmsprop_decay": ("rmsprop",),
    "betas": ("adamw", "lamb"),
    "epsilon": ("rmsprop", "adamw", "lamb"),
}
# Defaults of EfficientNet's training code, of AdamW's code and of LAMB's code.
EPSILON = {"rmsprop": 1e-3, "adamw": 1e-8, "lamb": 1e-6}
EXEMPT = ("bias", "scale")  # names of parameter arrays exempt from decay
BEGIN = 1.0  # initial value of RMSProp's mean of squared gradients
WARM_UP = 10  # after n steps the decay of the moving average is at most (1 + n) / (WARM_UP + n)


@register_config(
    data=(
        "epochs",
        "learning_rate",
        "final_learning_rate",
        "warm_up",
        "constant_epochs",
        "momentum",
        "rmsprop_decay",
        "betas",
        "epsilon",
        "weight_decay",
        "clip",
        "auxiliary_weight",
        "drop_path",
        "ema",
        "label_smoothing",
        "distillation",
        "temperature",
    )
)
@dataclasses.dataclass(frozen=True)
class Recipe:
    """The settings of one long training.

    A pytree. The numbers of the optimizer, the schedules and the loss are leaves, and so inputs of a compiled program:
    trainings that differ only in these numbers share one program (`read_by_programs`). All other settings are static,
    and so is whether `epsilon`, `clip` and `ema` are None.

    Args:
      epochs: number of passes over the training images.
      batch_size: number of images per step, over all devices together.
      learning_rate: peak learning rate, decayed along half a cosine.
      final_learning_rate: learning rate at the end of training.
      warm_up: number of epochs, possibly fractional, of linear warm-up from 0 to the peak learning rate.
      constant_epochs: number of last epochs, possibly fractional, in which the rate is constant, `final_learning_rate`;
        the cosine ends where they begin.
      optimizer: optimizer of the weights; `lanas_jax.trainer.recipe` has the formulas.
      momentum: decay of the momentum buffer; read by sgd and rmsprop.
      nesterov: use of Nesterov momentum; read by sgd and rmsprop.
      rmsprop_decay: decay of the mean of squared gradients; read by rmsprop.
      betas: decays of the means of the gradients and of their squares; read by adamw and lamb.
      epsilon: numerical constant of the denominator; read by rmsprop, adamw and lamb. None uses the value of the
        optimizer's source.
      weight_decay: weight decay. sgd and rmsprop add ``weight_decay * parameter`` to the gradient after clipping (L2);
        adamw and lamb add it to the direction (decoupled).
      decay_all: weight decay on biases and normalization parameters too, as published for CIFAR-10.
      clip: largest global norm of the gradient, or its largest absolute value (`clip_by`); None disables clipping.
      clip_by: target of `clip`: the ``norm`` of the whole gradient, or the ``value`` of each of its numbers.
      auxiliary_weight: weight of the auxiliary head's loss, if the network has an auxiliary head.
      drop_path: probability of dropping a path at the end of training.
      drop_path_schedule: growth of this probability during training: ``linear`` from 0, or ``constant``.
      ema: decay of the moving average of weights and batch statistics; None disables the average.
      label_smoothing: probability mass moved from the true class to the uniform distribution over all classes.
      distillation: weight of the teacher's loss, in [0, 1]; the labels have the remaining weight. 0 means no teacher.
      temperature: divisor of the teacher's and the network's logits in the teacher's loss.
      train_on: training images: ``all`` includes the search-validation images, as published; ``train`` holds them out.
      validate_every: number of epochs between two evaluations on the search-validation images, if these are held out;
        None disables the evaluations.
      passes: number of forward and backward passes per step. All passes use the same images; each drops different
        paths, or samples a different part of a supernet. Their gradients are averaged.
      normalize_over: images whose statistics batch normalization uses in training: those of the whole batch, ``all``;
        those of each ``device``; or those of each group of this number of neighbouring devices, a divisor of their
        number. On one device, there is no difference.
      gradient_sum: dtype in which the gradients of devices are summed; each device accumulates its own in float32. It
        must be float32 unless ``normalize_over`` is ``device``, since XLA otherwise makes it part of this accumulation.
      matmul_precision: precision of products of float32 numbers in training steps on accelerators (`TrainConfig`).
      steps_per_dispatch: number of steps in one call of the program. Progress and Ctrl-C are handled between calls.
      checkpoint_seconds: seconds between two checkpoints, about the most time that a crash can lose; 0 saves one after
        each dispatch.

    Raises:
      ValueError: a setting is out of its range, or the optimizer does not read it.
    """

    epochs: int = 600
    batch_size: int = 96
    learning_rate: float = 0.025
    final_learning_rate: float = 0.0
    warm_up: float = 0.0
    constant_epochs: float = 0.0
    optimizer: Literal["sgd", "rmsprop", "adamw", "lamb"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    rmsprop_decay: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float | None = None
    weight_decay: float = 3e-4
    decay_all: bool = True
    clip: float | None = 5.0
    clip_by: Literal["norm", "value"] = "norm"
    auxiliary_weight: float = 0.4
    drop_path: float = 0.2
    drop_path_schedule: Literal["linear", "constant"] = "linear"
    ema: float | None = 0.9999
    label_smoothing: float = 0.0
    distillation: float = 0.0
    temperature: float = 1.0
    train_on: Literal["all", "train"] = "all"
    validate_every: int | None = 10
    passes: int = 1
    normalize_over: Literal["all", "device"] | int = "all"
    gradient_sum: Literal["float32", "bfloat16"] = "float32"
    matmul_precision: MatmulPrecision = "default"
    steps_per_dispatch: int = 100
    checkpoint_seconds: float = 300.0

    def __post_init__(self) -> None:
        _ = self.sgd  # validates the settings shared with TrainConfig
        self._check_optimizer()
        self._check_distillation()
        for name in ("validate_every", "passes", "steps_per_dispatch"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name, known in (("clip_by", ("norm", "value")), ("drop_path_schedule", ("linear", "constant"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be {known[0]!r} or {known[1]!r}; got {getattr(self, name)!r}")
        if not 0 <= self.constant_epochs < self.epochs - self.warm_up:
            raise ValueError(
                f"constant_epochs must be from 0 to less than epochs - warm_up, {self.epochs - self.warm_up}; "
                f"got {self.constant_epochs}"
            )
        for name in ("auxiliary_weight", "checkpoint_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must be in [0, 1); got {self.drop_path}")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), or None for no average; got {self.ema}")
        if self.train_on not in ("all", "train"):
            raise ValueError(f"train_on must be 'all' or 'train'; got {self.train_on!r}")
        over = self.normalize_over
        if over not in ("all", "device") and not (type(over) is int and over > 0):
            raise ValueError(f"normalize_over must be 'all', 'device' or a positive number of devices; got {over!r}")
        if self.gradient_sum not in ("float32", "bfloat16"):
            raise ValueError(f"gradient_sum must be 'float32' or 'bfloat16'; got {self.gradient_sum!r}")
        if over != "device" and self.gradient_sum != "float32":
            raise ValueError(
                f"gradient_sum must be 'float32' unless normalize_over is 'device'; got {self.gradient_sum!r}"
            )

    def _check_optimizer(self) -> None:
        if self.optimizer not in (known := ("sgd", "rmsprop", "adamw", "lamb")):
            raise ValueError(f"optimizer must be one of {', '.join(known)}; got {self.optimizer!r}")
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name, optimizers in READ_BY.items():
            if self.optimizer not in optimizers and getattr(self, name) != defaults[name]:
                raise ValueError(
                    f"{name} has no effect with optimizer {self.optimizer}, only with {' or '.join(optimizers)}: "
                    f"expected its default {defaults[name]}; got {getattr(self, name)}"
                )
        if not 0 <= self.rmsprop_decay < 1:
            raise ValueError(f"rmsprop_decay must be in [0, 1); got {self.rmsprop_decay}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be in [0, 1); got {self.betas}")
        if self.epsilon is not None and not self.epsilon > 0:
            raise ValueError(f"epsilon must be positive, or None for the optimizer's own; got {self.epsilon}")

    def _check_distillation(self) -> None:
        if not 0 <= self.distillation <= 1:
            raise ValueError(f"distillation must be in [0, 1]; got {self.distillation}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite; got {self.temperature}")
        if not self.distillation and self.temperature != 1:
            raise ValueError(
                f"temperature must be 1 when distillation is 0, since it has no effect then; got {self.temperature}"
            )

    @property
    def reading_period(self) -> int | None:
        """Number of epochs between two search-validation evaluations, or None if there are none."""
        return self.validate_every if self.train_on == "train" else None

    @property
    def read_by_programs(self) -> "Recipe":
        """The recipe with the settings that only the loop reads reset, so that they do not affect program sharing."""
        return dataclasses.replace(self, train_on="all", validate_every=None, checkpoint_seconds=0.0)

    @property
    def sgd(self) -> TrainConfig:
        """The settings shared with `lanas_jax.candidates.step`, validated; the recipe must hold concrete numbers."""
        return TrainConfig(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            final_learning_rate=self.final_learning_rate,
            warm_up=self.warm_up,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            clip=self.clip,
            label_smoothing=self.label_smoothing,
            matmul_precision=self.matmul_precision,
        )


def drop_path(recipe: Recipe, step: Int[Array, ""], total: Int[Array, ""]) -> Float[Array, ""]:
    """Returns the drop-path probability of step number `step`, counted from 0.

    It is ``drop_path * step / total``, or always `drop_path`, as the recipe's `drop_path_schedule` says.
    """
    if recipe.drop_path_schedule == "constant":
        return jnp.asarray(recipe.drop_path, jnp.float32)
    return recipe.drop_path * step.astype(jnp.float32) / total.astype(jnp.float32)


def average_decay(decay: Real, step: Int[Array, ""]) -> Float[Array, ""]:
    """Returns the decay of the moving average after step number n, counted from 0: ``min(decay, (1 + n) / (10 + n))``.

    The smaller decay of early steps prevents the initial weights from dominating the average of a short training.
    Source: the argument ``num_updates`` of TensorFlow's ``ExponentialMovingAverage``.
    """
    taken = step.astype(jnp.float32)
    return jnp.minimum(decay, (1 + taken) / (WARM_UP + taken))


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """Returns the optax transformation from gradients to a direction, without the learning rate."""
    clipping = {"norm": optax.clip_by_global_norm, "value": optax.clip}[recipe.clip_by]
    clip = optax.identity() if recipe.clip is None else clipping(recipe.clip)
    decay = optax.add_decayed_weights(recipe.weight_decay, None if recipe.decay_all else decaying)
    momentum = optax.trace(recipe.momentum, recipe.nesterov)
    epsilon = EPSILON.get(recipe.optimizer, 0.0) if recipe.epsilon is None else recipe.epsilon
    if recipe.optimizer == "sgd":
        return optax.chain(clip, decay, momentum)
    if recipe.optimizer == "rmsprop":
        return optax.chain(clip, decay, optax.scale_by_rms(recipe.rmsprop_decay, epsilon, BEGIN), momentum)
    adam = optax.chain(clip, scale_by_adam(*recipe.betas, epsilon), decay)
    if recipe.optimizer == "adamw":
        return adam
    ratio = optax.scale_by_trust_ratio()
    return optax.chain(adam, ratio if recipe.decay_all else optax.masked(ratio, decaying))


def scale_by_adam(b1: Real, b2: Real, epsilon: Real) -> optax.GradientTransformation:
    """Returns a variant of `optax.scale_by_adam` that works under strict dtype promotion.

    optax raises the decays to the power of an int32, which strict promotion forbids.
    """
    adam = optax.scale_by_adam(b1, b2, epsilon)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return adam.update(updates, state, params)

    return optax.GradientTransformation(adam.init, update)


def decaying(params: PyTree[Array]) -> PyTree[bool]:
    """Returns the weight-decay mask: True for arrays of two or more dimensions that are neither biases nor scales.

    Names are tested as well as dimensions, since supernets stack the biases and scales of many layers in one array.
    """

    def decays(path: tuple[Any, ...], leaf: Array) -> bool:
        return leaf.ndim > 1 and jax.tree_util.keystr(path[-1:], simple=True) not in EXEMPT

    return jax.tree_util.tree_map_with_path(decays, params)
