"""A real supernet that compiles in a second: linear layers on noisy stripes, of which a code takes one for each choice.

An option of a choice sees some of the pixels, by weights of its own, and normalises what it makes of them; logits are
the sum over choices. What it comes to is easily followed in NumPy.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from lanas_jax.data.scaling import Scaling
from lanas_jax.data.splits import Dataset, SearchData, Split
from lanas_jax.spaces.base import Choice, Cost, SearchSpace
from lanas_jax.trainer.recipe import Recipe

SIDE, CLASSES, GAIN, MOMENTUM, EPSILON = 6, 3, 2.0, 0.9, 1e-3
PIXELS = SIDE * SIDE
SEEN = {"all": PIXELS, "half": PIXELS // 2, "few": 4}  # pixels that an option sees
SPACE = SearchSpace([Choice(name, SEEN) for name in ("first", "second")])
SCALING = Scaling((0.5,), (0.25,))
RECIPE = Recipe(
    epochs=4, batch_size=12, learning_rate=0.2, final_learning_rate=0.01, auxiliary_weight=0.0, drop_path=0.0,
    weight_decay=0.0, ema=None, train_on="train", validate_every=None, steps_per_dispatch=7,
)  # fmt: skip


class CountedSpace(SearchSpace):
    """The same choices, and what they cost."""

    def __init__(self):
        super().__init__(SPACE.choices)

    def cost(self, codes):
        pixels = np.array(list(SEEN.values()))[np.asarray(codes)].sum(axis=1)
        return Cost(CLASSES * pixels, CLASSES * pixels)


@dataclasses.dataclass(frozen=True)
class LinearSupernet:
    """All options of all choices."""

    space: SearchSpace = SPACE

    def init(self, key):
        shape = (len(self.space.choices), len(SEEN), PIXELS, CLASSES)
        stats = {"mean": jnp.zeros((*shape[:2], CLASSES)), "var": jnp.ones((*shape[:2], CLASSES))}
        return {"kernel": jax.random.normal(key, shape) / 6}, stats

    def apply(self, params, batch_stats, code, images, *, train):
        outputs = _outputs(params["kernel"], code, images)
        if not train:
            return _logits(outputs, *(_taken(batch_stats[name], code) for name in ("mean", "var"))), batch_stats
        moments = outputs.mean(axis=1), outputs.var(axis=1)
        moved = {
            name: old + (1 - MOMENTUM) * _placed(old, code, new - _taken(old, code))
            for (name, old), new in zip(sorted(batch_stats.items()), moments, strict=True)
        }
        return _logits(outputs, *moments), moved

    def statistics(self, params, code, images):
        outputs = _outputs(params["kernel"], code, images)
        nothing = jnp.zeros((len(self.space.choices), len(SEEN), CLASSES))
        moments = {"mean": outputs.mean(axis=1), "var": outputs.var(axis=1)}
        return {name: _placed(nothing, code, x) for name, x in moments.items()}

    def extract(self, params, batch_stats, code):
        return {"kernel": _taken(params["kernel"], code)}, {name: _taken(x, code) for name, x in batch_stats.items()}

    def standalone(self, code):
        return LinearPart(tuple(int(i) for i in code), self.space)


@dataclasses.dataclass(frozen=True)
class VariedSupernet(LinearSupernet):
    """The same with a variant for each option of the first choice."""

    variants = ("all", "half", "few")

    def variant(self, code):
        return int(code[0])

    def apply_variant(self, variant, params, batch_stats, code, images, *, train):
        return self.apply(params, batch_stats, code.at[0].set(variant), images, train=train)

    def of_variant(self, variant):
        return OneVariant(self.space, variant)

    def with_statistics(self, batch_stats, own, code):
        return {name: stats.at[np.arange(2), code].set(own[name]) for name, stats in batch_stats.items()}

    def largest(self, dropout):
        return self.standalone((2, 2))


@dataclasses.dataclass(frozen=True)
class OneVariant(LinearSupernet):
    """The same for the codes of one variant; of others, it has the outputs of that variant."""

    variant: int = 0

    def apply(self, params, batch_stats, code, images, *, train):
        return super().apply(params, batch_stats, code.at[0].set(self.variant), images, train=train)

    def statistics(self, params, code, images):
        return super().statistics(params, code.at[0].set(self.variant), images)


@dataclasses.dataclass(frozen=True)
class LinearPart:
    """The network of one code alone."""

    code: tuple[int, ...]
    space: SearchSpace = SPACE

    def init(self, key):
        return LinearSupernet(self.space).extract(*LinearSupernet(self.space).init(key), np.array(self.code))

    def apply(self, params, batch_stats, images, *, train, key, drop_path):
        outputs = _seen(images, jnp.array(self.code)) @ params["kernel"]
        kept = jax.random.bernoulli(key, 1 - drop_path, (len(images), 1)).astype(jnp.float32) if train else 1.0
        moments = (outputs.mean(axis=1), outputs.var(axis=1)) if train else (batch_stats["mean"], batch_stats["var"])
        if train:
            new = dict(zip(("mean", "var"), moments, strict=True))
            batch_stats = {name: old + (1 - MOMENTUM) * (new[name] - old) for name, old in batch_stats.items()}
        return _logits(outputs, *moments) * kept, None, batch_stats


def _seen(images, code):
    """Pixels for each choice, zero where its option does not see them, [choices, n, pixels]."""
    seen = jnp.arange(PIXELS)[None] < jnp.array(list(SEEN.values()))[code][:, None]
    return jnp.where(seen[:, None], images.reshape(1, len(images), -1), 0.0)


def _outputs(kernel, code, images):
    return _seen(images, code) @ _taken(kernel, code)


def _taken(array, code):
    return array[np.arange(len(code)), code]


def _placed(like, code, rows):
    return jnp.zeros_like(like).at[np.arange(len(code)), code].set(rows)


def _logits(outputs, mean, var):
    return GAIN * ((outputs - mean[:, None]) * jax.lax.rsqrt(var + EPSILON)[:, None]).sum(axis=0)


def stripes(n, seed):
    """Very noisy images of 8 bits: plain, striped one way, striped the other way."""
    random = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int32) % CLASSES
    row, column = np.indices((SIDE, SIDE)) % 2
    patterns = 80 + 90 * np.stack([np.full((SIDE, SIDE), 0.5), row, column])
    images = patterns[labels] + random.normal(0, 60, (n, SIDE, SIDE))
    return Split(np.clip(images, 0, 255).astype(np.uint8)[..., None], labels)


def dataset():
    """Training, search-validation and test images."""
    return Dataset(SearchData(stripes(120, 0), stripes(50, 1), CLASSES, SCALING), stripes(45, 2))


def moments_by_hand(kernel, code, images):
    """Mean and variance of each choice's outputs on a batch of 8 bits, in NumPy, ``float64[choices, classes]``."""
    outputs = outputs_by_hand(kernel, code, images)
    return outputs.mean(axis=1), outputs.var(axis=1)


def outputs_by_hand(kernel, code, images):
    """What each choice makes of images, ``float64[choices, n, classes]``."""
    pixels = (images.reshape(len(images), -1) / 255 - 0.5) / 0.25
    rows = []
    for choice, option in enumerate(code):
        seen = list(SEEN.values())[option]
        rows.append(pixels[:, :seen] @ np.asarray(kernel, np.float64)[choice, option, :seen])
    return np.stack(rows)


def logits_by_hand(kernel, mean, var, code, images):
    """Logits of a code with given statistics of its options, ``float64[n, classes]``."""
    outputs = outputs_by_hand(kernel, code, images)
    return GAIN * ((outputs - mean[:, None]) / np.sqrt(var + EPSILON)[:, None]).sum(axis=0)
