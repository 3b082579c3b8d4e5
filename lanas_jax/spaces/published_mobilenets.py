"""A space of the published networks of inverted residual blocks, so that a code selects a network to train."""

import dataclasses

import numpy as np
from jaxtyping import Array, Int

from lanas_jax.spaces.base import Codes, Cost, SearchSpace
from lanas_jax.spaces.choices import Choice
from lanas_jax.spaces.inverted_residuals import PUBLISHED, MobileNet


@dataclasses.dataclass(frozen=True)
class PublishedMobileNets(SearchSpace):
    """The space of the published networks, with the network as its only choice.

    Args:
      classes: number of classes.
      resolution: height and width of the images, in pixels.

    Raises:
      ValueError: if a number is below one.
    """

    classes: int
    resolution: int
    image_channels = 3

    def __init__(self, classes: int = 1000, resolution: int = 224):
        self._set_sizes(classes=classes, resolution=resolution)
        super().__init__([Choice("network", PUBLISHED)])

    def network(self, code: Int[Array | np.ndarray, " dims"]) -> MobileNet:
        """Returns the network of a code, layer by layer.

        Raises:
          ValueError: if the code is invalid.
        """
        network = list(PUBLISHED.values())[self.check(np.asarray(code)[None])[0, 0]]
        return network(self.classes, self.resolution)

    def cost(self, codes: Codes) -> Cost:
        """Returns the multiply-adds and parameters of each network."""
        costs = np.array([self.network(code).cost for code in np.asarray(codes)], np.int64).reshape(-1, 2)
        return Cost(costs[:, 0], costs[:, 1])

    def code(self, name: str) -> Int[np.ndarray, " dims"]:
        """Returns the code of a published network.

        Raises:
          ValueError: if the name is unknown.
        """
        if name not in PUBLISHED:
            raise ValueError(f"unknown published network {name!r}; choose from {', '.join(PUBLISHED)}")
        return np.array([list(PUBLISHED).index(name)], np.int32)
