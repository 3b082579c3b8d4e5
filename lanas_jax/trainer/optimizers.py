"""The optimizers SGD, RMSProp, AdamW and LAMB, composed of optax transformations.

Each turns gradients into a direction. The training step, which knows the schedule, subtracts the learning rate times
the direction from the parameters. Gradients are clipped first. With g the clipped gradient and p the parameters:

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

from typing import Any

import jax
import optax
from jaxtyping import Array, PyTree

from lanas_jax.trainer.recipe import Recipe
from lanas_jax.training.sgd import Real

# Defaults of EfficientNet's training code, of AdamW's code and of LAMB's code.
EPSILON = {"rmsprop": 1e-3, "adamw": 1e-8, "lamb": 1e-6}
SPARED = ("bias", "scale")  # names of parameter arrays exempt from decay
BEGIN = 1.0  # initial value of RMSProp's mean of squares


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """Returns the optax transformation from gradients to a direction, without the learning rate."""
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
    """Returns `optax.scale_by_adam`, usable under strict dtype promotion.

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
        return leaf.ndim > 1 and jax.tree_util.keystr(path[-1:], simple=True) not in SPARED

    return jax.tree_util.tree_map_with_path(decays, params)
