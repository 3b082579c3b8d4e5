"""Augmentation policies: AutoAugment's policies for CIFAR-10 and ImageNet, and RandAugment.

The policies of AutoAugment (arXiv 1805.09501) were found by search. Each image draws one of the 25 sub-policies of the
paper's table 7 (CIFAR-10) or table 9 (ImageNet), and each of the sub-policy's two operations is applied with its own
probability. RandAugment (arXiv 1909.13719) needs no search: each image draws some of 14 operations, all of the same
magnitude, or of random magnitudes around it.

The papers do not fully specify the strength of an operation at a given level. AutoAugment's levels here follow table 6
for ImageNet, and for CIFAR-10 the authors' code (``research/autoaugment`` of the TensorFlow models), which differs from
table 6 in two ranges: images move by at most 10 of 32 pixels, and posterized images keep 4 bits or fewer, down to none,
where table 6 keeps 4 to 8. RandAugment's operations grow stronger with the magnitude, and factors move away from 1 in
either direction. Pixels from outside the image are gray, about the mean of the images, as in the authors' code.
"""

from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray, UInt8

from lanas_jax.training import image_operations
from lanas_jax.training.image_operations import Operation

Step: TypeAlias = tuple[str, float, int]  # operation, probability, level from 0 to 10 (0 if unused)

CIFAR10: tuple[tuple[Step, Step], ...] = (
    (("Invert", 0.1, 0), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 0)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
    (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
)

IMAGENET: tuple[tuple[Step, Step], ...] = (
    (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.8, 0), ("Equalize", 0.6, 0)),
    (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
    (("Equalize", 0.4, 0), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 0), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 0)),
    (("Posterize", 0.8, 5), ("Equalize", 1.0, 0)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 0), ("Posterize", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 0)),
    (("Equalize", 0.0, 0), ("Equalize", 0.8, 0)),
    (("Invert", 0.6, 0), ("Equalize", 1.0, 0)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 0)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 0)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 0)),
    (("Equalize", 0.4, 0), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 0)),
    (("Invert", 0.6, 0), ("Equalize", 1.0, 0)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 0), ("Equalize", 0.6, 0)),
)
POLICIES = {"autoaugment": CIFAR10, "autoaugment_imagenet": IMAGENET}

RANDAUGMENT = (
    "Identity",
    "AutoContrast",
    "Equalize",
    "Rotate",
    "Solarize",
    "Color",
    "Posterize",
    "Contrast",
    "Brightness",
    "Sharpness",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
)
LARGEST_MAGNITUDE = 10  # largest magnitude of RandAugment
MAGNITUDES = np.linspace(0, LARGEST_MAGNITUDE, 41)  # values to which random magnitudes are rounded


def autoaugment(
    key: PRNGKeyArray, images: UInt8[Array, "n h w 3"], policy: str = "autoaugment"
) -> UInt8[Array, "n h w 3"]:
    """Applies a random sub-policy of a policy of `POLICIES` to each image. The key is consumed."""
    count, height, width, _ = images.shape
    operations = autoaugment_operations(height, width, policy)
    subpolicy, variant = draw_subpolicies(key, count, policy)
    position = jnp.arange(2)[:, None]
    return apply_rounds(pick(operations, subpolicy[None], position, variant), images)


def randaugment(
    key: PRNGKeyArray, images: UInt8[Array, "n h w 3"], rounds: int, magnitude: float, deviation: float = 0.0
) -> UInt8[Array, "n h w 3"]:
    """Applies `rounds` random operations, drawn with replacement, to each image. The key is consumed.

    Args:
      key: PRNG key of the operations, their directions and magnitudes.
      images: 8-bit images.
      rounds: number of operations per image (the paper's N).
      magnitude: magnitude of all operations, in tenths of their ranges (the paper's M).
      deviation: standard deviation of each operation's magnitude, drawn from a normal distribution around `magnitude`
        and clipped to [0, 10]; 0 for equal magnitudes.
    """
    count, height, width, _ = images.shape
    which_key, direction_key = jax.random.split(key)
    which = jax.random.randint(which_key, (rounds, count), 0, len(RANDAUGMENT))
    direction = jax.random.randint(direction_key, (rounds, count), 0, 2)
    if not deviation:
        operations = randaugment_operations(magnitude, height, width)
        return apply_rounds(pick(operations, which, direction), images)
    operations = stack([randaugment_operations(float(each), height, width) for each in MAGNITUDES])
    level = draw_magnitudes(jax.random.fold_in(key, 2), (rounds, count), magnitude, deviation)
    return apply_rounds(pick(operations, level, which, direction), images)


def draw_magnitudes(key: PRNGKeyArray, shape: tuple[int, ...], magnitude: float, deviation: float) -> Int[Array, "..."]:
    """Draws magnitudes and returns the indices of the nearest ones of `MAGNITUDES`. The key is consumed."""
    drawn = magnitude + deviation * jax.random.normal(key, shape)
    steps = len(MAGNITUDES) - 1
    return jnp.round(jnp.clip(drawn / LARGEST_MAGNITUDE, 0, 1) * steps).astype(jnp.int32)


def apply_rounds(operations: Operation, images: UInt8[Array, "n h w 3"]) -> UInt8[Array, "n h w 3"]:
    """Applies operations with axes ``[rounds, n]`` to n images, round by round."""
    for number in range(len(operations.factor)):
        images = jax.vmap(image_operations.apply)(pick(operations, number), images)
    return images


def draw_subpolicies(
    key: PRNGKeyArray, count: int, policy: str = "autoaugment"
) -> tuple[Int[Array, " n"], Int[Array, "2 n"]]:
    """Draws the sub-policies of `count` images and the variants of their two operations. The key is consumed.

    Returns:
      A uniformly drawn row of the policy for each image; and for each operation 0 if it is skipped, else 1 or 2, its
      direction.
    """
    table = POLICIES[policy]
    row_key, chance_key, direction_key = jax.random.split(key, 3)
    subpolicy = jax.random.randint(row_key, (count,), 0, len(table))
    probability = jnp.array([[chance for _, chance, _ in steps] for steps in table])[subpolicy].T
    happens = jax.random.uniform(chance_key, (2, count)) < probability
    direction = jax.random.randint(direction_key, (2, count), 0, 2)
    return subpolicy, jnp.where(happens, 1 + direction, 0)


def autoaugment_operations(height: int, width: int, policy: str = "autoaugment") -> Operation:
    """Returns the operations of a policy with axes ``[sub-policy, first or second, variant of draw_subpolicies]``."""
    table = POLICIES[policy]

    def variant(name: str, level: int, direction: int) -> Operation:
        factor = 0.1 + 1.8 * level / 10
        bits = 4 - int(4 * level / 10) if policy == "autoaugment" else 8 - round(4 * level / 10)
        return named(name, direction * level / 10, factor, bits, height, width)

    steps = [(name, level) for steps in table for name, _, level in steps]
    variants = [(image_operations.identity(), variant(*step, 1), variant(*step, -1)) for step in steps]
    stacked = stack([stack(three) for three in variants])
    return jax.tree.map(lambda rows: rows.reshape(len(table), 2, *rows.shape[1:]), stacked)


def randaugment_operations(magnitude: float, height: int, width: int) -> Operation:
    """Returns the operations of `RANDAUGMENT` with axes ``[operation, direction]``."""
    strength = magnitude / LARGEST_MAGNITUDE

    def variant(name: str, direction: int) -> Operation:
        factor, bits = 1 + direction * 0.9 * strength, 8 - round(4 * strength)
        return named(name, direction * strength, factor, bits, height, width)

    return stack([stack([variant(name, 1), variant(name, -1)]) for name in RANDAUGMENT])


def named(name: str, strength: float, factor: float, bits: int, height: int, width: int) -> Operation:
    """Returns an operation by its name in the papers.

    Args:
      name: name of the operation.
      strength: share of the range of shearing (0.3), translation (10 of 32 pixels), rotation (30 degrees) and
        solarizing (256 levels); its sign is the direction of a movement.
      factor: factor of brightness, contrast, color and sharpness; 1 changes nothing.
      bits: number of bits that posterizing keeps.
      height: height of the images, in pixels.
      width: width of the images, in pixels.

    Raises:
      ValueError: the name is unknown.
    """
    match name:
        case "Identity":
            return image_operations.identity()
        case "ShearX":
            return image_operations.shear_x(0.3 * strength)
        case "ShearY":
            return image_operations.shear_y(0.3 * strength)
        case "TranslateX":
            return image_operations.translate_x(round(width * 10 / 32 * strength))
        case "TranslateY":
            return image_operations.translate_y(round(height * 10 / 32 * strength))
        case "Rotate":
            return image_operations.rotate(30 * strength, height, width)
        case "Solarize":
            return image_operations.solarize(256 - int(256 * abs(strength)))
        case "Posterize":
            return image_operations.posterize(bits)
        case "AutoContrast":
            return image_operations.autocontrast()
        case "Equalize":
            return image_operations.equalize()
        case "Invert":
            return image_operations.invert()
        case "Brightness":
            return image_operations.brightness(factor)
        case "Contrast":
            return image_operations.contrast(factor)
        case "Color":
            return image_operations.color(factor)
        case "Sharpness":
            return image_operations.sharpness(factor)
    raise ValueError(f"unknown operation {name!r}; choose from {', '.join(RANDAUGMENT)}, Invert")


def pick(operations: Operation, *index: Array | int) -> Operation:
    """Returns the operations at `index` of the leading axes."""
    return jax.tree.map(lambda rows: jnp.asarray(rows)[index], operations)


def stack(operations: Sequence[Operation]) -> Operation:
    """Stacks operations into one `Operation` with a leading axis."""
    return jax.tree.map(lambda *parts: np.stack(parts), *operations)
