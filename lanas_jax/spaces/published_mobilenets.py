"""The published networks of inverted residual blocks as a space of their own, so that they can be trained by a code."""

import dataclasses

import numpy as np
from jaxtyping import Array, Int

from lanas_jax.spaces.base import Choice, Codes, Cost, SearchSpace
from lanas_jax.spaces.inverted_residuals import PUBLISHED, MobileNet


@dataclasses.dataclass(frozen=True)
class PublishedMobileNets(SearchSpace):
    """The space of the published networks: its only choice is which of them.

    Args:
      classes: outputs of the networks.
      resolution: height and width of the images, in pixels.

    Raises:
      ValueError: a number below one.
    """

    classes: int
    resolution: int

    def __init__(self, classes: int = 1000, resolution: int = 224):
        self._set_sizes(classes=classes, resolution=resolution)
        super().__init__([Choice("network", PUBLISHED)])

    def network(self, code: Int[Array | np.ndarray, " dims"]) -> MobileNet:
        """The network of a code, layer by layer.

        Raises:
          ValueError: a bad code.
        """
        name = self.choices[0].options[self.check(np.asarray(code)[None])[0, 0]]
        return PUBLISHED[name](self.classes, self.resolution)

    def cost(self, codes: Codes) -> Cost:
        """Multiply-adds and parameters of each network."""
        costs = np.array([self.network(code).cost for code in np.asarray(codes)], np.int64).reshape(-1, 2)
        return Cost(costs[:, 0], costs[:, 1])

    def code(self, name: str) -> Int[np.ndarray, " dims"]:
        """The code of a published network.

        Raises:
          ValueError: there is none of that name.
        """
        if name not in PUBLISHED:
            raise ValueError(f"no published network is called {name!r}; expected one of {', '.join(PUBLISHED)}")
        return np.array([list(PUBLISHED).index(name)], np.int32)
