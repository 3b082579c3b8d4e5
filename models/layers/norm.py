"""Batch normalisation in both forms of a candidate: trees of arrays, and a Flax module.

`models/layers/functions.py` implements the arithmetic. In the code-as-data form, weights are ``{"scale", "bias"}`` and
statistics are ``{"mean", "variance"}``. A `Norm` module holds both under Flax's names.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from lanas_jax.models.layers import functions

Tree = dict[str, Array]
AnyArray = Array | np.ndarray  # weights restored from a file are NumPy arrays


class NormConstants(NamedTuple):
    """The constants of batch normalisation; the defaults are those of `models/layers/functions.py`."""

    momentum: float = functions.MOMENTUM  # weight of the running statistics in their update
    epsilon: float = functions.EPSILON  # added to variances

    def check(self) -> None:
        """Raises ValueError if a constant is out of its range."""
        if not 0 <= self.momentum < 1:
            raise ValueError(f"the momentum of batch normalization must be in [0, 1); got {self.momentum}")
        if not self.epsilon > 0:
            raise ValueError(f"the epsilon of batch normalization must be positive; got {self.epsilon}")


NORM = NormConstants()


class Norm(nnx.BatchNorm):
    """Batch normalisation in float32 for any image dtype."""

    scale: nnx.Param
    bias: nnx.Param

    def __init__(self, channels: int, constants: NormConstants = NORM, *, rngs: nnx.Rngs):
        super().__init__(channels, momentum=constants.momentum, epsilon=constants.epsilon, rngs=rngs)

    def __call__(
        self, x: Float[Array, "n h w c"], use_running_average: bool | None = None, *, mask: Array | None = None
    ) -> Float[Array, "n h w c"]:
        """Normalises; the output has the dtype of the input. Running statistics are updated after `train()`.

        Args:
          x: images.
          use_running_average: True to normalise by running statistics; default: the module's mode.
          mask: not supported; None.
        """
        if mask is not None:
            raise ValueError("mask must be None: all pixels of a batch are normalised")
        infer = self.use_running_average if use_running_average is None else use_running_average
        state = (jnp.asarray(variable[...]) for variable in (self.scale, self.bias, self.mean, self.var))
        y, mean, variance = functions.batch_norm(
            x, *state, train=not infer, momentum=self.momentum, epsilon=self.epsilon
        )
        if not infer:
            self.mean[...], self.var[...] = mean, variance
        return y


def norm(x: Array, weights: Tree, stats: Tree, train: bool, constants: NormConstants = NORM) -> tuple[Array, Tree]:
    """Batch normalisation with weights and statistics as data; also returns updated statistics."""
    x, mean, variance = functions.batch_norm(
        x,
        weights["scale"],
        weights["bias"],
        stats["mean"],
        stats["variance"],
        train=train,
        momentum=constants.momentum,
        epsilon=constants.epsilon,
    )
    return x, {"mean": mean, "variance": variance}


def norm_state(weights: dict[str, AnyArray], stats: dict[str, AnyArray]) -> dict[str, AnyArray]:
    """Returns weights and statistics as the pure state of a `Norm`."""
    return {"scale": weights["scale"], "bias": weights["bias"], "mean": stats["mean"], "var": stats["variance"]}


def identity_norm(shape: tuple[int, ...]) -> Tree:
    """Returns initial weights."""
    return {"scale": jnp.ones(shape), "bias": jnp.zeros(shape)}


def initial_stats(shape: tuple[int, ...]) -> Tree:
    """Returns initial statistics."""
    return {"mean": jnp.zeros(shape), "variance": jnp.ones(shape)}


def batch_statistics(update: Callable[[Any], Any], stats: Any, momentum: float = functions.MOMENTUM) -> Any:
    """Returns the means and variances of one batch; zero for those that the batch does not update.

    Running statistics of a supernet mix all trained subnetworks. Averages of these statistics over batches fit a
    single subnetwork.

    Args:
      update: function that returns the running statistics after one training step on the batch.
      stats: tree of the shapes and dtypes of running statistics.
      momentum: momentum of that step's batch normalisation.
    """
    moved = update(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), stats))
    return jax.tree.map(lambda x: x / (1 - momentum), moved)
