"""A real Flax NNX network small enough to train in a test: an operation, and a width as a mask.

The operation ``root`` is sound as long as every pixel is below 2 and gives NaN otherwise, so that one bright training
image decides at which step a training breaks.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from lanas_jax.spaces.base import Choice, SearchSpace

WIDTHS = (4, 8)
SPACE = SearchSpace([Choice("operation", ("conv3x3", "conv1x1", "skip", "root")), Choice("width", WIDTHS)])


class Model(nnx.Module):
    def __init__(self, classes: int, channels: int, rngs: nnx.Rngs):
        width = max(WIDTHS)
        self.stem = nnx.Conv(channels, width, (3, 3), use_bias=False, rngs=rngs)
        self.stem_norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.conv3 = nnx.Conv(width, width, (3, 3), use_bias=False, rngs=rngs)
        self.conv1 = nnx.Conv(width, width, (1, 1), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, code, x, train):
        mask = (jnp.arange(max(WIDTHS)) < jnp.array(WIDTHS)[code[1]]).astype(x.dtype)[None, None, None]
        brightest = x.max()
        x = nnx.relu(self.stem_norm(self.stem(x), use_running_average=not train)) * mask
        branches = [
            lambda x, conv=conv: lax.conv_general_dilated(
                x, conv[...], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            for conv in (self.conv3.kernel, self.conv1.kernel)
        ]
        x = lax.switch(code[0], [*branches, lambda x: x, lambda x: x * jnp.sqrt(2 - brightest)], x)
        x = nnx.relu(self.norm(x, use_running_average=not train)) * mask
        return self.head(x.mean((1, 2)))


@dataclasses.dataclass(frozen=True)
class SmallNetwork:
    space: SearchSpace = SPACE
    classes: int = 3
    channels: int = 1

    def _split(self, rngs):
        return nnx.split(Model(self.classes, self.channels, rngs), nnx.Param, nnx.BatchStat)

    def init(self, key, code):
        _, params, batch_stats = self._split(nnx.Rngs(key))
        return nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)

    def apply(self, params, batch_stats, code, images, *, train):
        graph, abstract_params, abstract_stats = nnx.eval_shape(lambda: self._split(nnx.Rngs(0)))
        nnx.replace_by_pure_dict(abstract_params, params)
        nnx.replace_by_pure_dict(abstract_stats, batch_stats)
        model = nnx.merge(graph, abstract_params, abstract_stats)
        logits = model(code, images, train)
        return logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


@dataclasses.dataclass(frozen=True)
class BuildableNetwork(SmallNetwork):
    """The same with a network for each code: the code is a constant of its program."""

    def for_code(self, code):
        return FixedCode(self.space, self.classes, self.channels, tuple(code.tolist()))


@dataclasses.dataclass(frozen=True)
class FixedCode(SmallNetwork):
    fixed: tuple[int, ...] = ()

    def apply(self, params, batch_stats, code, images, *, train):
        return super().apply(params, batch_stats, jnp.array(self.fixed), images, train=train)


def stripes(n, seed=0):
    """`n` noisy 6 x 6 images of three classes: plain, striped one way, striped the other way."""
    random = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int32) % 3
    row, column = np.indices((6, 6)) % 2
    patterns = np.stack([np.full((6, 6), 0.5), row, column]).astype(np.float32)
    images = patterns[labels] + random.normal(0, 0.2, (n, 6, 6)).astype(np.float32)
    return np.clip(images, 0, 1)[..., None], labels
