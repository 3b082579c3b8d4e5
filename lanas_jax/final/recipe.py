"""How the winner is trained: the settings, and what they come to at each step.

The defaults are the final training of DARTS (arXiv 1806.09055, section 3.1 and its code), which section 4 of arXiv
1906.06832 takes over: 600 epochs of SGD with a cosine schedule, an auxiliary head, and paths dropped ever more often.
Published code moves the learning rate and the share of dropped paths once per epoch; here they move at every step. What
is done to the images belongs to `task`, since it needs more than numbers.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lanas_jax.training.step import TrainConfig

WARM_UP = 10  # the average of n steps is given at most the weight (1 + n) / (WARM_UP + n)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A training of one network.

    Args:
      epochs: passes over the training images.
      batch_size: images per step, all devices together.
      learning_rate: at the first step; falls along half a cosine.
      final_learning_rate: what it falls to.
      momentum: decay of the momentum buffer, without Nesterov's look ahead.
      weight_decay: added to the gradient as ``weight_decay * parameter`` (L2, not decoupled), after clipping.
      clip: largest global norm of the gradient; None does not clip.
      auxiliary_weight: of the auxiliary head's loss, where the network has such a head.
      drop_path: probability with which a path is dropped at the end of training; grows linearly from 0.
      ema: decay of the moving average of weights and batch statistics; None keeps no average.
      label_smoothing: mass moved from the true class to all classes alike.
      train_on: ``all`` trains on the search-validation images as well, as published; ``train`` keeps them to watch by.
      validate_every: epochs between two readings of the search-validation accuracy, where it is not trained on; None
        never reads it.
      passes: forward and backward passes of a step, all on the same images, each with other paths dropped (or another
        part of a supernet); the gradients are averaged.
      steps_per_dispatch: steps in one call of the program, between which progress is shown and Ctrl-C is heard.
      checkpoint_seconds: between two checkpoints, about the most that a crash costs; 0: one after each dispatch.

    Raises:
      ValueError: a setting out of its range.
    """

    epochs: int = 600
    batch_size: int = 96
    learning_rate: float = 0.025
    final_learning_rate: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 3e-4
    clip: float | None = 5.0
    auxiliary_weight: float = 0.4
    drop_path: float = 0.2
    ema: float | None = 0.9999
    label_smoothing: float = 0.0
    train_on: Literal["all", "train"] = "all"
    validate_every: int | None = 10
    passes: int = 1
    steps_per_dispatch: int = 100
    checkpoint_seconds: float = 300.0

    def __post_init__(self) -> None:
        _ = self.sgd  # checks what the two have in common
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

    @property
    def reading_period(self) -> int | None:
        """Epochs between two readings of the search-validation accuracy; None where it is not read."""
        return self.validate_every if self.train_on == "train" else None

    @property
    def sgd(self) -> TrainConfig:
        """The part of it that `lanas_jax.training.step` knows."""
        return TrainConfig(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            final_learning_rate=self.final_learning_rate,
            momentum=self.momentum,
            nesterov=False,
            weight_decay=self.weight_decay,
            clip=self.clip,
            label_smoothing=self.label_smoothing,
        )


def drop_path(recipe: Recipe, step: Int[Array, ""], total: Int[Array, ""]) -> Float[Array, ""]:
    """``drop_path * step / total``: the probability with which step number `step`, from 0, drops a path."""
    return recipe.drop_path * step.astype(jnp.float32) / total.astype(jnp.float32)


def average_decay(decay: float, step: Int[Array, ""]) -> Float[Array, ""]:
    """What the average of weights keeps of itself after step number `step`, from 0: ``min(decay, (1 + n) / (10 + n))``.

    So short trainings do not end with an average of what came before the first step. Source: the ``num_updates`` of
    TensorFlow's ``ExponentialMovingAverage``.
    """
    taken = step.astype(jnp.float32)
    return jnp.minimum(decay, (1 + taken) / (WARM_UP + taken))
