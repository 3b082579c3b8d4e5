"""From pixels of 8 bits to the numbers a network reads: each channel centred and scaled.

Pixels stay 8 bits on the device, a quarter of the memory, until a batch is read; what augments them by integers
(`lanas_jax.training.augmentation`) does so before they are scaled.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8


@dataclasses.dataclass(frozen=True)
class Scaling:
    """``(pixel / 255 - mean) / deviation`` of each channel.

    Args:
      mean: of each channel, in [0, 1].
      deviation: of each channel, in the same units.

    Raises:
      ValueError: not one deviation per mean, or one that is not positive.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.deviation):
            raise ValueError(f"{len(self.mean)} means, but {len(self.deviation)} deviations")
        if not all(deviation > 0 for deviation in self.deviation):
            raise ValueError(f"deviations must be positive; got {self.deviation}")

    @classmethod
    def of(cls, images: UInt8[np.ndarray, "n h w c"]) -> "Scaling":
        """Mean and standard deviation of each channel over all pixels; a constant channel keeps its scale."""
        channels = images.reshape(-1, images.shape[3]).T
        shares = np.stack([np.bincount(pixels, minlength=256) for pixels in channels]) / channels.shape[1]
        values = np.arange(256) / 255
        mean = shares @ values
        deviation = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(axis=1))
        return cls(tuple(mean.tolist()), tuple(np.where(deviation > 0, deviation, 1.0).tolist()))

    def __call__(self, images: UInt8[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Scaled images, float32; jittable.

        Raises:
          ValueError: another number of channels.
        """
        if images.shape[3] != len(self.mean):
            raise ValueError(f"images have {images.shape[3]} channels, expected {len(self.mean)}")
        factor = 1 / (255 * np.array(self.deviation, np.float32))
        shift = np.array(self.mean, np.float32) / np.array(self.deviation, np.float32)
        return images.astype(jnp.float32) * factor[None, None, None] - shift[None, None, None]
