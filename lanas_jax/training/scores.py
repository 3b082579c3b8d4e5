"""How well a network does on a split: one pass over its batches, for candidates, subnetworks and winners alike."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from lanas_jax.training.sgd import cross_entropy, one_hot


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
