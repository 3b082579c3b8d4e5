"""Random augmentation of a batch, on the device.

The order is: crop, flip and a policy (`policies.py`) on the stored pixels; scaling; cutout; random erasing; then mixup
or cutmix, which mix images and targets. All functions are pure functions of a key. A training step calls `augment`
inside its own program, under ``vmap``, ``lax.map`` or ``shard_map``. A disabled transformation adds nothing to the
program.

Sources: crop, flip and cutout as DARTS trains (arXiv 1806.09055; cutout is arXiv 1708.04552), random erasing arXiv
1708.04896, mixup arXiv 1710.09412, cutmix arXiv 1905.04899.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int, PRNGKeyArray, UInt8

from lanas_jax.data.scaling import Scaling
from lanas_jax.training import policies

TRIES = 16  # number of draws, of which the first accepted one is taken; none is accepted with probability 1e-20


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The random transformations of the training images. All are off by default.

    Args:
      crop: width of the zero padding, in pixels, before a random crop to the original size; 0 disables the crop.
      flip: random horizontal flip, with probability one half.
      policy: augmentation policy: ``autoaugment``, which is AutoAugment's for CIFAR-10, its policy for ImageNet, called
        ``autoaugment_imagenet``, or RandAugment; all need 8-bit color images.
      operations: number of RandAugment operations per image.
      magnitude: RandAugment magnitude, 0 to 10, in tenths of each operation's range, as in the paper.
      magnitude_deviation: standard deviation of the magnitude of each operation on each image, in tenths; 0 for equal
        magnitudes.
      cutout: side of the square set to zero, in pixels; 0 disables cutout.
      erasing: probability of filling a random box of an image with noise.
      mixup: alpha of the Beta(alpha, alpha) distribution of mixup weights; 0 disables mixup.
      cutmix: alpha of the Beta(alpha, alpha) distribution of cutmix box sizes; 0 disables cutmix.
      mix_probability: probability of mixing a batch. If mixup and cutmix are both on, a mixed batch uses either with
        equal probability.

    Raises:
      ValueError: a setting is out of its range.
    """

    crop: int = 0
    flip: bool = False
    policy: Literal["autoaugment", "autoaugment_imagenet", "randaugment"] | None = None
    operations: int = 2
    magnitude: float = 3.0
    magnitude_deviation: float = 0.0
    cutout: int = 0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0

    def __post_init__(self) -> None:
        for name in ("crop", "cutout", "mixup", "cutmix", "magnitude_deviation"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 (off) or positive, and finite; got {getattr(self, name)}")
        if self.policy not in (None, *(known := (*policies.POLICIES, "randaugment"))):
            raise ValueError(f"policy must be one of {', '.join(known)}, or None; got {self.policy!r}")
        if self.operations < 1:
            raise ValueError(f"operations must be at least 1; got {self.operations}")
        if not 0 <= self.magnitude <= policies.LARGEST_MAGNITUDE:
            raise ValueError(f"magnitude must be in [0, {policies.LARGEST_MAGNITUDE}]; got {self.magnitude}")
        for name in ("mix_probability", "erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1]; got {getattr(self, name)}")


def augment(
    config: Augmentation,
    key: PRNGKeyArray,
    images: UInt8[Array, "n h w c"] | Float32[Array, "n h w c"],
    targets: Float32[Array, "n classes"],
    scaling: Scaling | None,
) -> tuple[Float32[Array, "n h w c"], Float32[Array, "n classes"]]:
    """Returns the augmented, scaled batch and its targets. The key is consumed.

    Enabling or disabling one transformation does not change the random draws of the others.

    Args:
      config: settings of the augmentation; static under ``jit``.
      key: PRNG key of all random draws.
      images: uint8 images, or float32 images that are already scaled. Zero padding is black in uint8 images and the
        mean in scaled images.
      targets: probability of each class.
      scaling: scaling of uint8 images; None for float32 images.

    Raises:
      ValueError: uint8 images come without a scaling, float32 images come with one, or a policy is given images that
        are not 8-bit with three channels.
    """
    check_images(config, images, scaling)
    crop_key, flip_key, policy_key, cutout_key, mix_key = jax.random.split(key, 5)
    if config.crop:
        images = random_crop(crop_key, images, config.crop)
    if config.flip:
        images = random_flip(flip_key, images)
    if config.policy == "randaugment":
        settings = (config.operations, config.magnitude, config.magnitude_deviation)
        images = policies.randaugment(policy_key, images, *settings)
    elif config.policy:
        images = policies.autoaugment(policy_key, images, config.policy)
    if scaling is not None:
        images = scaling(images)
    if config.cutout:
        images = cutout(cutout_key, images, config.cutout)
    if config.erasing:
        images = erase(jax.random.fold_in(key, 5), images, config.erasing)
    if config.mixup or config.cutmix:
        images, targets = mix(config, mix_key, images, targets)
    return images, targets


def check_images(config: Augmentation, images: Array | jax.ShapeDtypeStruct, scaling: Scaling | None) -> None:
    """Checks that `config` can be applied to the images.

    Raises:
      ValueError: the images do not fit; the message names what to change.
    """
    if (images.dtype == jnp.uint8) != (scaling is not None):
        raise ValueError(f"got {images.dtype} images with scaling {scaling}; only uint8 images need a scaling")
    if config.policy and (images.dtype != jnp.uint8 or images.shape[3] != 3):
        raise ValueError(
            f"policy {config.policy!r} needs uint8 images of 3 channels; got {images.dtype} of {images.shape[3]}. "
            "Set policy to None, or use 8-bit images"
        )


def random_crop(key: PRNGKeyArray, images: Array, padding: int) -> Array:
    """Pads images ``[n, h, w, c]`` with `padding` pixels of zeros and crops each to its original size at random."""
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * padding + 1)

    def crop(image: Array, corner: Int[Array, "2"]) -> Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

    return jax.vmap(crop)(padded, corners)


def random_flip(key: PRNGKeyArray, images: Array) -> Array:
    """Flips each of the images ``[n, h, w, c]`` left to right with probability one half."""
    flipped = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def cutout(key: PRNGKeyArray, images: Float32[Array, "n h w c"], side: int) -> Float32[Array, "n h w c"]:
    """Sets a square of each image to zero. Its center is a random pixel; the square is clipped at the border."""
    count, height, width, _ = images.shape
    centres = jax.random.randint(key, (count, 2), 0, jnp.array([[height, width]]))
    sides = jnp.full(2, side)
    cut = jax.vmap(lambda centre: box(centre, sides, height, width))(centres)
    return jnp.where(cut[..., None], 0.0, images)


def erase(key: PRNGKeyArray, images: Float32[Array, "n h w c"], probability: float) -> Float32[Array, "n h w c"]:
    """Fills a random box of each image with standard normal noise, with the given probability.

    The box has 2 % to a third of the image's area and an aspect ratio of 0.3 to 3.3, uniform on a logarithmic scale,
    and lies inside the image; a side that is longer than the image is cut to it.
    """
    count, height, width, _ = images.shape
    which_key, area_key, ratio_key, corner_key, noise_key = jax.random.split(key, 5)
    area = jax.random.uniform(area_key, (count,), minval=0.02, maxval=1 / 3) * height * width
    ratio = jnp.exp(jax.random.uniform(ratio_key, (count,), minval=math.log(0.3), maxval=math.log(3.3)))
    sides = jnp.stack([jnp.sqrt(area * ratio), jnp.sqrt(area / ratio)], axis=1)
    size = jnp.array([[height, width]], jnp.float32)
    sides = jnp.clip(jnp.round(sides), 1, size)
    first = jnp.floor(jax.random.uniform(corner_key, (count, 2)) * (size - sides + 1)).astype(jnp.int32)
    sides = sides.astype(jnp.int32)
    inside = jax.vmap(lambda corner, side: box(corner + side // 2, side, height, width))(first, sides)
    inside &= (jax.random.uniform(which_key, (count,)) < probability)[:, None, None]
    return jnp.where(inside[..., None], jax.random.normal(noise_key, images.shape), images)


def box(centre: Int[Array, "2"], sides: Int[Array, "2"], height: int, width: int) -> Bool[Array, "{height} {width}"]:
    """Returns a mask of the box that starts at ``centre - sides // 2`` and has `sides` rows and columns."""
    first = centre - sides // 2
    row, column = jnp.arange(height), jnp.arange(width)
    rows = (row >= first[0]) & (row < first[0] + sides[0])
    columns = (column >= first[1]) & (column < first[1] + sides[1])
    return rows[:, None] & columns[None]


def mix(
    config: Augmentation, key: PRNGKeyArray, images: Float32[Array, "n h w c"], targets: Float32[Array, "n classes"]
) -> tuple[Float32[Array, "n h w c"], Float32[Array, "n classes"]]:
    """Mixes each image and its target with the previous image in the batch, with the same weights for all images.

    The papers pair images by a random permutation. Here the batches themselves are drawn at random, so the previous
    image is as random, and it is never the image itself.
    """
    weights, share = mixing_weights(config, key, *images.shape[1:3])
    weights = weights[None, :, :, None]
    mixed = weights * images + (1 - weights) * jnp.roll(images, 1, axis=0)
    return mixed, share * targets + (1 - share) * jnp.roll(targets, 1, axis=0)


def mixing_weights(
    config: Augmentation, key: PRNGKeyArray, height: int, width: int
) -> tuple[Float32[Array, "{height} {width}"], Float32[Array, ""]]:
    """Returns the weight of each pixel of an image against its partner's, and the mean weight, used for the targets."""
    mixed_key, pasted_key, kept_key, centre_key = jax.random.split(key, 4)
    mixed = jax.random.uniform(mixed_key) < config.mix_probability
    pasted = jax.random.bernoulli(pasted_key, 0.5 if config.mixup and config.cutmix else float(config.cutmix > 0))
    alpha = jnp.where(pasted, config.cutmix, config.mixup)
    kept = draw_share(kept_key, alpha)
    around = cutmix_weights(centre_key, kept, height, width)
    weights = jnp.where(mixed, jnp.where(pasted, around, kept), 1.0)
    return weights, jnp.where(mixed & ~pasted, kept, weights.mean())


def draw_share(key: PRNGKeyArray, alpha: Float32[Array, ""]) -> Float32[Array, ""]:
    """Returns a draw of Beta(alpha, alpha), without a loop, for any ``alpha > 0``.

    The draw is the quotient of a gamma draw and the sum of two. `jax.random.beta` draws until one is accepted, in a
    loop whose length depends on the draws. Here the first accepted one of `TRIES` draws is taken: by the method of
    Marsaglia and Tsang (doi:10.1145/358407.358414) each is accepted with a probability above 0.95.
    """
    normal_key, uniform_key, boost_key = jax.random.split(key, 3)
    d = alpha + 2 / 3  # of Gamma(alpha + 1), which a power of a uniform draw turns into Gamma(alpha)
    x = jax.random.normal(normal_key, (2, TRIES))
    log_v = 3 * jnp.log(jnp.maximum(1 + x / jnp.sqrt(9 * d), 1e-30))
    bound = 0.5 * x**2 + d * (1 - jnp.exp(log_v) + log_v)
    accepted = -jax.random.exponential(uniform_key, (2, TRIES)) < bound
    first = jnp.argmax(accepted, axis=1)[:, None] == jnp.arange(TRIES)[None]
    log_gamma = jnp.where(first, log_v, 0.0).sum(axis=1) - jax.random.exponential(boost_key, (2,)) / alpha
    return jax.nn.sigmoid(log_gamma[0] - log_gamma[1])


def cutmix_weights(
    key: PRNGKeyArray, kept: Float32[Array, ""], height: int, width: int
) -> Float32[Array, "{height} {width}"]:
    """Returns weight 0 in a box around a random pixel and 1 elsewhere.

    The box covers ``1 - kept`` of the area before it is clipped at the border.
    """
    sides = (jnp.sqrt(1 - kept) * jnp.array([height, width], jnp.float32)).astype(jnp.int32)
    centre = jax.random.randint(key, (2,), 0, jnp.array([height, width]))
    return 1 - box(centre, sides, height, width).astype(jnp.float32)
