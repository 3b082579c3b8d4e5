"""What makes a direction of gradients: SGD, RMSProp, AdamW and LAMB, of optax's parts.

A direction is what is subtracted from the parameters, times the learning rate; the step that knows the schedule does
that. Gradients are clipped before anything else. With g what is left and p the parameters:

- ``sgd``: ``g + weight_decay * p`` through momentum.
- ``rmsprop``: that divided by ``sqrt(mean of squares + epsilon)``, then through momentum. Epsilon is inside the root,
  and the mean begins at 1, as in TensorFlow's, by which EfficientNet (arXiv 1905.11946) and MobileNetV3 were trained.
  TensorFlow multiplies by the learning rate before momentum, here (as in PyTorch) it comes after: the two are the same
  where it is constant.
- ``adamw``: ``m / (sqrt(v) + epsilon) + weight_decay * p``, both means free of their bias (arXiv 1711.05101; decay is
  multiplied by the learning rate, too, as in most code).
- ``lamb``: that direction, for each array of parameters multiplied by ``|p| / |direction|`` (arXiv 1904.00962,
  algorithm 2 with phi the identity); by 1 where either norm is 0.

Where biases and parameters of normalisations are spared decay, LAMB spares them the ratio, too, as its authors' code.
"""

from typing import Any

import jax
import optax
from jaxtyping import Array, PyTree

from lanas_jax.trainer.recipe import Recipe
from lanas_jax.training.sgd import Real

# Of EfficientNet's training, of AdamW's code and of LAMB's.
EPSILON = {"rmsprop": 1e-3, "adamw": 1e-8, "lamb": 1e-6}
SPARED = ("bias", "scale")  # names of arrays
BEGIN = 1.0  # of RMSProp's mean of squares


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """From gradients to a direction; the learning rate is not in it."""
    clip = optax.identity() if recipe.clip is None else optax.clip_by_global_norm(recipe.clip)
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
    """optax's, where dtype promotion is strict, too: it raises the decays to the power of an int32."""
    adam = optax.scale_by_adam(b1, b2, epsilon)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return adam.update(updates, state, params)

    return optax.GradientTransformation(adam.init, update)


def decaying(params: PyTree[Array]) -> PyTree[bool]:
    """Which arrays decay where not all do: those of two dimensions or more that are no biases and no scales.

    Both by name and by dimensions, since supernets stack the biases and scales of many layers in one array.
    """

    def decays(path: tuple[Any, ...], leaf: Array) -> bool:
        return leaf.ndim > 1 and jax.tree_util.keystr(path[-1:], simple=True) not in SPARED

    return jax.tree_util.tree_map_with_path(decays, params)
