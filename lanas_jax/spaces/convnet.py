"""Plain convolutional networks of variable depth: each layer has a width and a kernel.

Section 5.1 of arXiv 1906.06832 searches such a space, of 65,643 networks, whose results were never published. Here, a
network has one to four layers: a convolution, batch normalization and ReLU. The first layer has stride 2. The means
over pixels go to a linear head. There are ``12 + 12**2 + 12**3 + 12**4``, or 22,620, networks.

The width and the kernel of a layer exist only in networks that are deep enough, so no two canonical codes build the
same network.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from lanas_jax.spaces.base import Codes, Cost, SearchSpace
from lanas_jax.spaces.choices import Choice

WIDTHS = (2, 4, 6, 8)
KERNELS = (1, 3, 5)
DEPTHS = (1, 2, 3, 4)


@dataclasses.dataclass(frozen=True, init=False)
class ConvNetSpace(SearchSpace):
    """Networks of one to four convolutions with 2 to 8 channels and kernels of 1 x 1 to 5 x 5 pixels.

    The choices are ``depth``, then ``width 0``, ``kernel 0``, ``width 1`` and so on, from the first layer.

    Args:
      image_size: height and width of the images, even.
      image_channels: number of channels of the images.
      classes: number of classes.

    Raises:
      ValueError: if a size is below one, or the image size is odd.
    """

    image_size: int
    image_channels: int
    classes: int

    def __init__(self, image_size: int = 8, image_channels: int = 1, classes: int = 10) -> None:
        self._set_sizes(image_size=image_size, image_channels=image_channels, classes=classes)
        if image_size % 2:
            raise ValueError(f"image_size must be even, as the first layer halves it; got {image_size}")
        choices = [Choice("depth", DEPTHS)]
        for layer in range(DEPTHS[-1]):
            when = {"depth": [depth for depth in DEPTHS if depth > layer]} if layer else {}
            choices += [Choice(f"width {layer}", WIDTHS, when=when), Choice(f"kernel {layer}", KERNELS, when=when)]
        super().__init__(choices)

    @property
    def map_size(self) -> int:
        """Height and width of the feature maps of all layers."""
        return self.image_size // 2

    @property
    def named_codes(self) -> Mapping[str, tuple[int, ...]]:
        """Codes of the largest and the smallest network."""
        return {"largest": tuple((self.cardinalities - 1).tolist()), "smallest": (0,) * self.dims}

    def cost(self, codes: Codes) -> Cost:
        """Returns exact multiply-adds of convolutions and head, and trainable parameters.

        Multiply-adds with the padding of feature maps count, as is usual.
        """
        codes = np.asarray(self.canonical(self.check(codes)), np.int64)
        pixels = self.map_size**2
        multiply_adds = parameters = np.zeros(len(codes), np.int64)
        inputs = np.full(len(codes), self.image_channels, np.int64)
        for layer in range(DEPTHS[-1]):
            exists = codes[:, 0] >= layer
            width, kernel = (np.array(options)[codes[:, 1 + 2 * layer + i]] for i, options in enumerate(_OPTIONS))
            weights = kernel**2 * inputs * width
            multiply_adds = multiply_adds + exists * pixels * weights
            parameters = parameters + exists * (weights + 2 * width)
            inputs = np.where(exists, width, inputs)
        head = self.classes * inputs
        return Cost(multiply_adds + head, parameters + head + self.classes)


_OPTIONS = (WIDTHS, KERNELS)
