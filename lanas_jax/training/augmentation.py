"""Augmenting a batch on the device: what is drawn anew each time an image is shown.

In this order: crop, flip and a policy (`policies.py`) on pixels as they are stored; scaling; cutout; and mixup or
cutmix, which mix images and targets. Pure functions of a key: a training step calls `augment` inside its own program,
under ``vmap``, ``lax.map`` or ``shard_map``. What is off is not in the program.

Sources: crop, flip and cutout as DARTS trains (arXiv 1806.09055; cutout is arXiv 1708.04552), mixup arXiv 1710.09412,
cutmix arXiv 1905.04899.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int, PRNGKeyArray, UInt8

from lanas_jax.data.scaling import Scaling
from lanas_jax.training import policies


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to training images; by default nothing.

    Args:
      crop: pixels of zeros put around an image before it is cropped to its old size at random; 0 is off.
      flip: mirror half of the images, left to right.
      policy: AutoAugment's for CIFAR-10, or RandAugment; both need colour images of 8 bits.
      operations: of RandAugment, per image.
      magnitude: of RandAugment, 0 to 30, thirtieths of each operation's range. What the paper calls M counts tenths.
      cutout: side of the square that is set to zero, in pixels; 0 is off.
      mixup: alpha of the Beta(alpha, alpha) that images are averaged by; 0 is off.
      cutmix: alpha of the Beta(alpha, alpha) that sizes of pasted boxes are drawn by; 0 is off.
      mix_probability: chance of a batch to be mixed. With both mixup and cutmix on, such a batch takes either, with
        equal chances.

    Raises:
      ValueError: a setting out of its range.
    """

    crop: int = 0
    flip: bool = False
    policy: Literal["autoaugment", "randaugment"] | None = None
    operations: int = 2
    magnitude: int = 9
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0

    def __post_init__(self) -> None:
        for name in ("crop", "cutout", "mixup", "cutmix"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 (off) or positive, and finite; got {getattr(self, name)}")
        if self.policy not in (None, "autoaugment", "randaugment"):
            raise ValueError(f"policy must be 'autoaugment', 'randaugment' or None; got {self.policy!r}")
        if self.operations < 1:
            raise ValueError(f"operations must be at least 1; got {self.operations}")
        if not 0 <= self.magnitude <= policies.LARGEST_MAGNITUDE:
            raise ValueError(f"magnitude must be in [0, {policies.LARGEST_MAGNITUDE}]; got {self.magnitude}")
        if not 0 <= self.mix_probability <= 1:
            raise ValueError(f"mix_probability must be in [0, 1]; got {self.mix_probability}")


def augment(
    config: Augmentation,
    key: PRNGKeyArray,
    images: UInt8[Array, "n h w c"] | Float32[Array, "n h w c"],
    targets: Float32[Array, "n classes"],
    scaling: Scaling | None,
) -> tuple[Float32[Array, "n h w c"], Float32[Array, "n classes"]]:
    """A batch as the network is to see it, and its targets. The key is consumed.

    Turning one part on or off does not change what the others draw.

    Args:
      config: what to do; static under ``jit``.
      key: draws everything.
      images: uint8, or float32 and already scaled; zeros around or in the latter are means, around the former black.
      targets: probability of each class.
      scaling: of uint8 images; None for float32 ones.

    Raises:
      ValueError: uint8 images without a scaling or float32 ones with one, or a policy on images that are not of 8 bits
        and three channels.
    """
    check_images(config, images, scaling)
    crop_key, flip_key, policy_key, cutout_key, mix_key = jax.random.split(key, 5)
    if config.crop:
        images = random_crop(crop_key, images, config.crop)
    if config.flip:
        images = random_flip(flip_key, images)
    if config.policy == "autoaugment":
        images = policies.autoaugment(policy_key, images)
    if config.policy == "randaugment":
        images = policies.randaugment(policy_key, images, config.operations, config.magnitude)
    if scaling is not None:
        images = scaling(images)
    if config.cutout:
        images = cutout(cutout_key, images, config.cutout)
    if config.mixup or config.cutmix:
        images, targets = mix(config, mix_key, images, targets)
    return images, targets


def check_images(config: Augmentation, images: Array, scaling: Scaling | None) -> None:
    """Checks that images can be augmented as `config` says.

    Raises:
      ValueError: says what does not fit, and what to change.
    """
    if (images.dtype == jnp.uint8) != (scaling is not None):
        raise ValueError(f"{images.dtype} images with scaling {scaling}: uint8 needs one, float32 has none")
    if config.policy and (images.dtype != jnp.uint8 or images.shape[3] != 3):
        raise ValueError(
            f"policy {config.policy!r} needs uint8 images of 3 channels; got {images.dtype} of {images.shape[3]}. "
            "Set policy to None, or keep the images in 8 bits"
        )


def random_crop(key: PRNGKeyArray, images: Array, padding: int) -> Array:
    """Crops images ``[n, h, w, c]`` to their own size, out of themselves with `padding` pixels of zeros around them."""
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * padding + 1)

    def crop(image: Array, corner: Int[Array, "2"]) -> Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

    return jax.vmap(crop)(padded, corners)


def random_flip(key: PRNGKeyArray, images: Array) -> Array:
    """Mirrors each of the images ``[n, h, w, c]`` left to right with probability one half."""
    flipped = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def cutout(key: PRNGKeyArray, images: Float32[Array, "n h w c"], side: int) -> Float32[Array, "n h w c"]:
    """Sets a square of each image to zero. Its centre is any pixel; what reaches over the border is cut off."""
    count, height, width, _ = images.shape
    centres = jax.random.randint(key, (count, 2), 0, jnp.array([[height, width]]))
    sides = jnp.full(2, side)
    cut = jax.vmap(lambda centre: box(centre, sides, height, width))(centres)
    return jnp.where(cut[..., None], 0.0, images)


def box(centre: Int[Array, "2"], sides: Int[Array, "2"], height: int, width: int) -> Bool[Array, "{height} {width}"]:
    """True where a box covers an image: from ``centre - sides // 2``, as many rows and columns as `sides` says."""
    first = centre - sides // 2
    row, column = jnp.arange(height), jnp.arange(width)
    rows = (row >= first[0]) & (row < first[0] + sides[0])
    columns = (column >= first[1]) & (column < first[1] + sides[1])
    return rows[:, None] & columns[None]


def mix(
    config: Augmentation, key: PRNGKeyArray, images: Float32[Array, "n h w c"], targets: Float32[Array, "n classes"]
) -> tuple[Float32[Array, "n h w c"], Float32[Array, "n classes"]]:
    """Mixes each image and its target with the image before it in the batch, all of them by the same weights.

    The papers pair by a permutation; batches here are drawn at random, and the neighbour is as random and never the
    image itself.
    """
    weights, share = mixing_weights(config, key, *images.shape[1:3])
    weights = weights[None, :, :, None]
    mixed = weights * images + (1 - weights) * jnp.roll(images, 1, axis=0)
    return mixed, share * targets + (1 - share) * jnp.roll(targets, 1, axis=0)


def mixing_weights(
    config: Augmentation, key: PRNGKeyArray, height: int, width: int
) -> tuple[Float32[Array, "{height} {width}"], Float32[Array, ""]]:
    """What each pixel of an image keeps of itself, and their mean, which is what its target keeps."""
    mixed_key, pasted_key, kept_key, centre_key = jax.random.split(key, 4)
    mixed = jax.random.uniform(mixed_key) < config.mix_probability
    pasted = jax.random.bernoulli(pasted_key, 0.5 if config.mixup and config.cutmix else float(config.cutmix > 0))
    alpha = jnp.where(pasted, config.cutmix, config.mixup)
    kept = jax.random.beta(kept_key, alpha, alpha)
    around = cutmix_weights(centre_key, kept, height, width)
    weights = jnp.where(mixed, jnp.where(pasted, around, kept), 1.0)
    return weights, jnp.where(mixed & ~pasted, kept, weights.mean())


def cutmix_weights(
    key: PRNGKeyArray, kept: Float32[Array, ""], height: int, width: int
) -> Float32[Array, "{height} {width}"]:
    """Weight zero in a box of ``1 - kept`` of the area about a random pixel, as far as it is inside; one elsewhere."""
    sides = (jnp.sqrt(1 - kept) * jnp.array([height, width], jnp.float32)).astype(jnp.int32)
    centre = jax.random.randint(key, (2,), 0, jnp.array([height, width]))
    return 1 - box(centre, sides, height, width).astype(jnp.float32)
