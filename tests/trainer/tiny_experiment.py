"""A final training of seconds: convolutional networks written out by hand, for patches of 8 bits in three classes.

On any machine: lanas train tests/trainer/tiny_experiment.py --code 0,1

Activation ``root`` is sound as long as no pixel is 255 and gives NaN otherwise, so that one bright training image
decides at which step a training breaks.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import lanas_jax as lx
from lanas_jax.data.scaling import Scaling
from lanas_jax.data.splits import Dataset, SearchData, Split
from lanas_jax.spaces.base import Cost
from lanas_jax.study import Experiment
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import FinalTraining
from lanas_jax.training.augmentation import Augmentation

WIDTHS = (4, 8)
SCALING = Scaling((0.5,), (0.5,))
MIRRORED = Augmentation(flip=True)
RECIPE = Recipe(epochs=4, batch_size=12, ema=0.9, validate_every=2, steps_per_dispatch=5)


class TinySpace(lx.SearchSpace):
    """Says how many parameters there are without the auxiliary head; widths of 4 cannot have the identity."""

    def __init__(self):
        super().__init__([lx.Choice("activation", ("relu", "identity", "root")), lx.Choice("width", WIDTHS)])

    def valid(self, codes):
        codes = jnp.asarray(codes)
        return super().valid(codes) & ~((codes[:, 0] == 1) & (codes[:, 1] == 0))

    def cost(self, codes):
        width = np.array(WIDTHS)[np.asarray(codes)[:, 1]]
        return Cost(
            np.zeros(len(width), np.int64), (9 * width + 9 * width**2 + 2 * width + 3 * width + 3).astype(np.int64)
        )


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the search.

    Attributes:
      seed: of everything random.
      images: to train on.
      bright: a training image with a pixel of 255; -1 for none.
    """

    seed: int = 0
    images: int = 90
    bright: int = -1


@dataclasses.dataclass(frozen=True)
class Final:
    """Settings of the final training.

    Attributes:
      recipe: how it is trained.
      seed: of everything random.
    """

    recipe: Recipe = RECIPE
    seed: int = 0


PRESETS = {"short": Final(dataclasses.replace(RECIPE, epochs=1, batch_size=36), seed=5)}


@dataclasses.dataclass(frozen=True)
class TinyNetwork:
    """Stem, residual branch that may be dropped, pooling, head; an auxiliary head on the stem."""

    space: TinySpace
    code: tuple[int, ...]

    def init(self, key):
        width = WIDTHS[self.code[1]]
        stem, branch, head, auxiliary = jax.random.split(key, 4)
        params = {
            "stem": jax.random.normal(stem, (3, 3, 1, width)) / 3,
            "branch": jax.random.normal(branch, (3, 3, width, width)) / (3 * width**0.5),
            "norm": {"scale": jnp.ones(width), "bias": jnp.zeros(width)},
            "head": {"kernel": jax.random.normal(head, (width, 3)) / width**0.5, "bias": jnp.zeros(3)},
            "auxiliary": {"kernel": jax.random.normal(auxiliary, (width, 3)) / width**0.5},
        }
        return params, {"norm": {"mean": jnp.zeros(width), "var": jnp.ones(width)}}

    def apply(self, params, batch_stats, images, *, train, key, drop_path):
        stem = self._activated(_convolved(images, params["stem"]), images)
        x, stats = _normalised(stem, params["norm"], batch_stats["norm"], train)
        branch = _convolved(x, params["branch"])
        if train:
            kept = jax.random.bernoulli(key, 1 - drop_path, (len(images), 1, 1, 1)).astype(jnp.float32)
            branch = branch * kept / (1 - drop_path)
        pooled = jax.nn.relu(x + branch).mean((1, 2))
        logits = pooled @ params["head"]["kernel"] + params["head"]["bias"][None]
        auxiliary = stem.mean((1, 2)) @ params["auxiliary"]["kernel"] if train else None
        return logits, auxiliary, {"norm": stats}

    def features(self, params, batch_stats, images):
        stem = self._activated(_convolved(images, params["stem"]), images)
        x, _ = _normalised(stem, params["norm"], batch_stats["norm"], train=False)
        return (jax.nn.relu(x + _convolved(x, params["branch"])),)

    def _activated(self, x, images):
        activation = self.space.choices[0].options[self.code[0]]
        if activation == "root":
            return x * jnp.sqrt(0.995 - images.max())
        return jax.nn.relu(x) if activation == "relu" else x


def _convolved(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _normalised(x, params, stats, train):
    mean, var = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if train else (stats["mean"], stats["var"])
    normal = (x - mean[None, None, None]) * lax.rsqrt(var + 1e-5)[None, None, None]
    after = {"mean": 0.9 * stats["mean"] + 0.1 * mean, "var": 0.9 * stats["var"] + 0.1 * var} if train else stats
    return normal * params["scale"][None, None, None] + params["bias"][None, None, None], after


def patches(n, seed):
    """Noisy 6 x 6 patches, bright at the top, at the bottom, or nowhere; no pixel is 255."""
    random = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int32) % 3
    images = random.integers(0, 200, (n, 6, 6, 1))
    images[labels == 1, :3] += 30
    images[labels == 2, 3:] += 30
    return images.astype(np.uint8), labels


def dataset(config):
    """Training, search-validation and test images."""
    images, labels = patches(config.images, 0)
    if config.bright >= 0:
        images[config.bright, 0, 0] = 255
    held_out, test = (Split(*patches(n, seed)) for n, seed in ((33, 1), (45, 2)))
    return Dataset(SearchData(Split(images, labels), held_out, 3, SCALING), test)


class Guess:
    """Gives wide networks better values, without training them."""

    def evaluate(self, codes, keys):
        return [lx.Outcome(float(0.5 + 0.2 * code[1] + 0.1 * (code[0] == 0))) for code in codes]


def build(config: Config) -> Experiment:
    """The search."""
    space = TinySpace()
    return Experiment("tiny", space, lx.RandomSearch(space), Guess(), budget=4, batch=2, seed=config.seed)


def final(config: Config, settings: Final, code) -> FinalTraining:
    """The final training of one network."""
    network = TinyNetwork(TinySpace(), tuple(int(i) for i in code))
    return FinalTraining(network, lambda: dataset(config), settings.recipe, MIRRORED, settings.seed)
