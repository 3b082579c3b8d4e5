"""Training a supernet by strictly fair sampling (FairNAS, arXiv 1907.01845): every option is trained in every step.

A step draws a random permutation of the options of each choice. Its first code consists of the first options of all
permutations, its second code of the second options, and so on. So every option of every choice is in exactly one of the
codes, whereas independent draws train some options more often than others. All codes see the same augmented images.

The gradient is the sum over the codes, as published: weights of one option receive the gradient of their one code, and
weights that all codes share receive the sum. As in any supernet, the running statistics mix all codes
(`lanas_jax.supernet.valuation`).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lanas_jax.supernet.base import Supernet
from lanas_jax.supernet.drawing import DrawingSupernet
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import BatchStats, Params, Weights
from lanas_jax.training.sgd import cross_entropy

DRAWN = 4096  # random codes that must be valid


@dataclasses.dataclass(frozen=True)
class FairSupernet(DrawingSupernet):
    """A supernet in the form that `lanas_jax.trainer` trains, with a gradient of its own.

    Args:
      supernet: supernet to train; all choices of its space have equally many options, and all codes are valid.
    """

    def code(self, key: PRNGKeyArray) -> Int[Array, " dims"]:
        """Returns the first code of a step. The key is consumed."""
        return self.drawn(key)[0]

    def gradient(
        self,
        weights: Weights,
        images: Float[Array, "n height width channels"],
        targets: Float[Array, "n classes"],
        key: PRNGKeyArray,
        noise: PRNGKeyArray,
    ) -> tuple[Float[Array, ""], BatchStats, Params]:
        """Returns mean loss, batch statistics after the last code, and the sum of the codes' gradients.

        `key` draws the codes and is consumed; `noise` is not used.
        """
        del noise

        def objective(params: Params, batch_stats: BatchStats, code: Array) -> tuple[Array, BatchStats]:
            logits, batch_stats = self.supernet.apply(params, batch_stats, code, images, train=True)
            return cross_entropy(logits.astype(jnp.float32), targets).mean(), batch_stats

        def add(carry: tuple[BatchStats, Params], code: Array) -> tuple[tuple[BatchStats, Params], Array]:
            batch_stats, total = carry
            found = jax.value_and_grad(objective, has_aux=True)(weights.params, batch_stats, code)
            (loss, batch_stats), gradient = found
            return (batch_stats, jax.tree.map(jnp.add, total, gradient)), loss

        start = (weights.batch_stats, jax.tree.map(jnp.zeros_like, weights.params))
        (batch_stats, total), losses = lax.scan(add, start, self.drawn(key))
        return losses.mean(), batch_stats, total

    def drawn(self, key: PRNGKeyArray) -> Int[Array, "options dims"]:
        """Draws the codes of a step: column i is a permutation of the options of choice i. The key is consumed."""
        options = int(self.space.cardinalities[0])
        rows = jnp.broadcast_to(jnp.arange(options, dtype=jnp.int32)[:, None], (options, self.space.dims))
        return jax.random.permutation(key, rows, independent=True)


def check_fair(supernet: Supernet, recipe: Recipe) -> None:
    """Checks that fair sampling fits a supernet and its recipe.

    Raises:
      ValueError: the choices have different numbers of options, some codes are not valid, or the recipe has several
        passes per step.
    """
    space = supernet.space
    if len(set(space.cardinalities.tolist())) > 1:
        raise ValueError(
            f"fair sampling needs equally many options of each choice; got {space.cardinalities.tolist()}: train "
            "without it"
        )
    if not np.asarray(space.valid(space.random(jax.random.key(0), DRAWN))).all():
        raise ValueError("fair sampling needs a space in which all codes are valid: train without it")
    if recipe.passes != 1:
        raise ValueError(f"passes must be 1 with fair sampling, which defines its own passes; got {recipe.passes}")
