"""A linear network whose training NumPy can follow, and which writes down with which probability paths were dropped."""

import dataclasses

import jax
import jax.numpy as jnp

from lanas_jax.spaces.base import Choice, SearchSpace

PIXELS, CLASSES = 36, 3


@dataclasses.dataclass(frozen=True)
class LinearNetwork:
    """Two linear heads on the pixels.

    Attributes:
      auxiliary: whether there is the second one.
      edge: whether a parameter stands where the loss is finite but its gradient is not.
    """

    auxiliary: bool = True
    edge: bool = False
    space: SearchSpace = dataclasses.field(default_factory=lambda: SearchSpace([Choice("only", ("one",))]))

    def init(self, key):
        head, auxiliary = jax.random.split(key)
        params = {
            "head": jax.random.normal(head, (PIXELS, CLASSES)),
            "auxiliary": jax.random.normal(auxiliary, (PIXELS, CLASSES)),
            "edge": jnp.zeros(()),
        }
        return params, {"dropped": jnp.zeros(())}

    def apply(self, params, batch_stats, images, *, train, key, drop_path):
        pixels = images.reshape(len(images), -1)
        logits = pixels @ params["head"]
        if self.edge:
            logits = logits + 0 * jnp.sqrt(params["edge"])
        auxiliary = pixels @ params["auxiliary"] if train and self.auxiliary else None
        return logits, auxiliary, {"dropped": drop_path} if train else batch_stats
