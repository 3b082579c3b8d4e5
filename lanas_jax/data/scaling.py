"""Scaling of 8-bit pixels to network inputs: each channel is centred and scaled.

Images stay in 8 bits on the device, in a quarter of the memory, until a batch is read. Integer augmentation
(`lanas_jax.training.augmentation`) is applied before scaling.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8


@dataclasses.dataclass(frozen=True)
class Scaling:
    """``(pixel / 255 - mean) / deviation`` of each channel.

    Args:
      mean: mean of each channel, in [0, 1].
      deviation: standard deviation of each channel, in the same units.

    Raises:
      ValueError: if the numbers of means and deviations differ, or a deviation is not positive.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.deviation):
            raise ValueError(f"{len(self.mean)} means, but {len(self.deviation)} deviations; give as many")
        if not all(deviation > 0 for deviation in self.deviation):
            raise ValueError(f"deviations must be positive; got {self.deviation}")

    @classmethod
    def of(cls, images: UInt8[np.ndarray, "n h w c"]) -> "Scaling":
        """Returns the scaling by mean and standard deviation of each channel; a constant channel is only centred."""
        channels = images.reshape(-1, images.shape[3]).T
        shares = np.stack([np.bincount(pixels, minlength=256) for pixels in channels]) / channels.shape[1]
        values = np.arange(256) / 255
        mean = shares @ values
        deviation = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(axis=1))
        return cls(tuple(mean.tolist()), tuple(np.where(deviation > 0, deviation, 1.0).tolist()))

    def __call__(self, images: UInt8[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Returns scaled float32 images; jittable.

        Raises:
          ValueError: if the number of channels is wrong.
        """
        if images.shape[3] != len(self.mean):
            raise ValueError(f"images have {images.shape[3]} channels, expected {len(self.mean)}")
        factor = 1 / (255 * np.array(self.deviation, np.float32))
        shift = np.array(self.mean, np.float32) / np.array(self.deviation, np.float32)
        return images.astype(jnp.float32) * factor[None, None, None] - shift[None, None, None]
