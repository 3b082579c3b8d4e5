"""How the winner is trained: the settings, and what they come to at each step.

The defaults are the final training of DARTS (arXiv 1806.09055, section 3.1 and its code), which section 4 of arXiv
1906.06832 takes over: 600 epochs of SGD with a cosine schedule, an auxiliary head, and paths dropped ever more often.
Published code moves the learning rate and the share of dropped paths once per epoch; here they move at every step. The
recipes of ImageNet are settings of it: another optimizer (`optimizers`), a warm-up, a teacher (`teacher`). What is done
to the images belongs to `task`, since it needs more than numbers.
"""

import dataclasses
import math
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lanas_jax.runtime.pytrees import register_config
from lanas_jax.training.sgd import Real, TrainConfig

# Which optimizers read a setting; with others it stays at its default.
READ_BY = {
    "momentum": ("sgd", "rmsprop"),
    "nesterov": ("sgd", "rmsprop"),
    "rmsprop_decay": ("rmsprop",),
    "betas": ("adamw", "lamb"),
    "epsilon": ("rmsprop", "adamw", "lamb"),
}
WARM_UP = 10  # the average of n steps is given at most the weight (1 + n) / (WARM_UP + n)


@register_config(
    data=(
        "epochs",
        "learning_rate",
        "final_learning_rate",
        "warm_up",
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
    """A training of one network.

    A pytree: the numbers of the optimizer, the schedules and the loss are inputs of a program, so that trainings that
    differ in them share it (`read_by_programs`). All other settings, and whether there is an `epsilon`, a `clip` and an
    `ema`, are parts of it.

    Args:
      epochs: passes over the training images.
      batch_size: images per step, all devices together.
      learning_rate: its peak; falls along half a cosine.
      final_learning_rate: what it falls to.
      warm_up: epochs in which it grows linearly from 0 to its peak, before it falls; may be a fraction of one.
      optimizer: what makes a direction of gradients (`lanas_jax.trainer.optimizers`).
      momentum: decay of the momentum buffer, of sgd and rmsprop.
      nesterov: look ahead by one momentum step, likewise.
      rmsprop_decay: decay of rmsprop's mean of squared gradients.
      betas: decays of the means of gradients and of their squares, of adamw and lamb.
      epsilon: of rmsprop, adamw and lamb; None is that of the optimizer's source.
      weight_decay: of sgd and rmsprop added to the gradient as ``weight_decay * parameter`` (L2), after clipping; of
        adamw and lamb to the direction (decoupled).
      decay_all: whether it acts on biases and parameters of normalisations, too, as published for CIFAR-10.
      clip: largest global norm of the gradient; None does not clip.
      auxiliary_weight: of the auxiliary head's loss, where the network has such a head.
      drop_path: probability with which a path is dropped at the end of training; grows linearly from 0.
      ema: decay of the moving average of weights and batch statistics; None keeps no average.
      label_smoothing: mass moved from the true class to all classes alike.
      distillation: weight of what the teacher says in the loss, in [0, 1]; the labels have the rest. 0: no teacher.
      temperature: by which the logits of teacher and network are divided for that.
      train_on: ``all`` trains on the search-validation images as well, as published; ``train`` keeps them to watch by.
      validate_every: epochs between two readings of the search-validation accuracy, where it is not trained on; None
        never reads it.
      passes: forward and backward passes of a step, all on the same images, each with other paths dropped (or another
        part of a supernet); the gradients are averaged.
      steps_per_dispatch: steps in one call of the program, between which progress is shown and Ctrl-C is heard.
      checkpoint_seconds: between two checkpoints, about the most that a crash costs; 0: one after each dispatch.

    Raises:
      ValueError: a setting out of its range, or one that the optimizer does not read.
    """

    epochs: int = 600
    batch_size: int = 96
    learning_rate: float = 0.025
    final_learning_rate: float = 0.0
    warm_up: float = 0.0
    optimizer: Literal["sgd", "rmsprop", "adamw", "lamb"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    rmsprop_decay: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float | None = None
    weight_decay: float = 3e-4
    decay_all: bool = True
    clip: float | None = 5.0
    auxiliary_weight: float = 0.4
    drop_path: float = 0.2
    ema: float | None = 0.9999
    label_smoothing: float = 0.0
    distillation: float = 0.0
    temperature: float = 1.0
    train_on: Literal["all", "train"] = "all"
    validate_every: int | None = 10
    passes: int = 1
    steps_per_dispatch: int = 100
    checkpoint_seconds: float = 300.0

    def __post_init__(self) -> None:
        _ = self.sgd  # checks what the two have in common
        self._check_optimizer()
        self._check_distillation()
        for name in ("validate_every", "passes", "steps_per_dispatch"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("auxiliary_weight", "checkpoint_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must be in [0, 1); got {self.drop_path}")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), or None to keep no average; got {self.ema}")
        if self.train_on not in ("all", "train"):
            raise ValueError(f"train_on must be 'all' or 'train'; got {self.train_on!r}")

    def _check_optimizer(self) -> None:
        if self.optimizer not in (known := ("sgd", "rmsprop", "adamw", "lamb")):
            raise ValueError(f"optimizer must be one of {', '.join(known)}; got {self.optimizer!r}")
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name, optimizers in READ_BY.items():
            if self.optimizer not in optimizers and getattr(self, name) != defaults[name]:
                raise ValueError(
                    f"{name} is read by {' and '.join(optimizers)}; with {self.optimizer} leave it at "
                    f"{defaults[name]}; got {getattr(self, name)}"
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
                f"temperature is read where distillation is above 0; else leave it at 1; got {self.temperature}"
            )

    @property
    def reading_period(self) -> int | None:
        """Epochs between two readings of the search-validation accuracy; None where it is not read."""
        return self.validate_every if self.train_on == "train" else None

    @property
    def read_by_programs(self) -> "Recipe":
        """The recipe without what it says to the loop alone, by which no programs are told apart."""
        return dataclasses.replace(self, train_on="all", validate_every=None, checkpoint_seconds=0.0)

    @property
    def sgd(self) -> TrainConfig:
        """The part of it that `lanas_jax.candidates.step` knows; of a recipe of numbers, it is checked."""
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
        )


def drop_path(recipe: Recipe, step: Int[Array, ""], total: Int[Array, ""]) -> Float[Array, ""]:
    """``drop_path * step / total``: the probability with which step number `step`, from 0, drops a path."""
    return recipe.drop_path * step.astype(jnp.float32) / total.astype(jnp.float32)


def average_decay(decay: Real, step: Int[Array, ""]) -> Float[Array, ""]:
    """What the average of weights keeps of itself after step number `step`, from 0: ``min(decay, (1 + n) / (10 + n))``.

    So short trainings do not end with an average of what came before the first step. Source: the ``num_updates`` of
    TensorFlow's ``ExponentialMovingAverage``.
    """
    taken = step.astype(jnp.float32)
    return jnp.minimum(decay, (1 + taken) / (WARM_UP + taken))
