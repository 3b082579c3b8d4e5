"""The MobileNetV3 / EfficientNet space: stages of inverted residuals, elastic in depth, kernel, expansion and width.

The ImageNet experiments of arXiv 1906.06832 (section 5.2) search the networks of once-for-all (arXiv 1908.09791): five
stages of two to four layers, of which each has a kernel of 3, 5 or 7 pixels and expands its input 3, 4 or 6 times; a
multiplier of all widths and the resolution of the images belong to the code. That is ``(9**2 + 9**3 + 9**4)**5``, or
2.2e19, networks for each width and resolution. Squeeze-and-excitation and activations are those of MobileNetV3.

A code holds the resolution, the width, and of each stage the depth and then, for as many layers as it can have, kernel
and expansion. Layers beyond the depth are not there: all codes that differ in them alone are one network. A network's
layers, and what they cost, are those of `inverted_residuals.py`; `mobilenet_costs.py` sums the costs of many codes,
`mobilenet_features.py` counts what regressors see of them, and `models/mobilenet/network.py` builds the networks.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lanas_jax.spaces import mobilenet_costs, mobilenet_features
from lanas_jax.spaces.base import Codes, Cost, LimitedCost
from lanas_jax.spaces.exact import exceeds
from lanas_jax.spaces.latency import LatencyTable
from lanas_jax.spaces.mobilenet_costs import COLUMNS, Totals
from lanas_jax.spaces.mobilenet_settings import STAGES, MobileNetSettings, MobileNetStage


@dataclasses.dataclass(frozen=True)
class MobileNetSpace(MobileNetSettings):
    """Networks of stages of inverted residuals.

    Args:
      stages: from stem to head.
      depths: layers that a stage may have, ascending.
      kernels: sides of depthwise kernels, ascending.
      expansions: how many times a layer's input may be expanded, ascending.
      widths: multipliers of all channels, ascending.
      resolutions: heights and widths of images, in pixels, ascending.
      stem: channels of the stem and of the one block before the first stage, before the multiplier.
      last: channels of the 1x1 convolution after the last stage, before the multiplier.
      hidden: channels of the dense layer before the classifier, before the multiplier.
      stem_stride: of the stem.
      image_channels: channels of the images.
      classes: outputs of the network.
      max_multiply_adds: hard limit on the multiply-adds of one image's forward pass; a part of `valid`.
      max_parameters: hard limit on the trainable parameters; a part of `valid`.
      latency: what the layers take on a device, where that is to be known.
      max_latency: hard limit on the nanoseconds that a batch takes by that table; a part of `valid`.

    Raises:
      ValueError: settings of which no network can be made, a limit below the smallest network, a table that lacks
        layers, or a limit on the latency without a table.
    """

    def __init__(
        self,
        stages: Sequence[MobileNetStage] = STAGES,
        *,
        depths: Sequence[int] = (2, 3, 4),
        kernels: Sequence[int] = (3, 5, 7),
        expansions: Sequence[int] = (3, 4, 6),
        widths: Sequence[float] = (1.0,),
        resolutions: Sequence[int] = (224,),
        stem: int = 16,
        last: int = 960,
        hidden: int = 1280,
        stem_stride: int = 2,
        image_channels: int = 3,
        classes: int = 1000,
        max_multiply_adds: int | None = None,
        max_parameters: int | None = None,
        latency: LatencyTable | None = None,
        max_latency: int | None = None,
    ):
        settings = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        super().__init__(**settings)
        _check_limits(self)

    @property
    def named_codes(self) -> Mapping[str, tuple[int, ...]]:
        """The network of all last options, of which every other one is a part, and that of all first ones."""
        return {"largest": tuple((self.cardinalities - 1).tolist()), "smallest": (0,) * self.dims}

    @property
    def feature_names(self) -> tuple[str, ...]:
        """A name for each column of `features`."""
        return super().feature_names + mobilenet_features.names(self)

    def features(self, codes: Codes) -> Float[Array, "n d"]:
        """Choice after choice as in any space, 0 for layers that are not there; then the counts of `counts`."""
        codes = jnp.asarray(codes, jnp.int32)
        columns = [len(choice.options) - choice.ordered for choice in self.choices]
        decides = self._decides(codes)[:, np.repeat(np.arange(self.dims), columns)]
        own = jnp.where(decides, super().features(codes), 0.0)
        return jnp.concatenate([own, mobilenet_features.counts(self, codes)], axis=1)

    def terms(self, codes: Codes) -> Float[Array, "n t"]:
        """The features, each of mean 0 over random codes."""
        return self.features(codes) - mobilenet_features.embedding_scale(self)[0][None]

    @property
    def term_embedding(self) -> Float[np.ndarray, "t e"]:
        """A column for each feature; squared norms are 1 on average over random codes."""
        return np.diag(mobilenet_features.embedding_scale(self)[1])

    @property
    def smallest(self) -> Totals:
        """The smallest of each cost that a network has, limits not looked at."""
        return mobilenet_costs.bounds(self)[0]

    @property
    def largest(self) -> Totals:
        """The largest of each cost that a network has, limits not looked at."""
        return mobilenet_costs.bounds(self)[1]

    def valid(self, codes: Codes) -> Bool[Array, " n"]:
        """Whether each code may be built: integers in range, and the network within the hard limits, exactly."""
        codes = jnp.asarray(codes, jnp.int32)
        allowed = super().valid(codes)
        for column, limit in enumerate(self.limits):
            if limit is not None:
                allowed &= ~exceeds(mobilenet_costs.limbs(self, codes, column), limit)
        return allowed

    def starting_codes(self) -> Int[np.ndarray, "k dims"]:
        """Cheap networks within the limits, one for each resolution and width that allow one; none without limits."""
        if self.limits == (None, None, None):
            return super().starting_codes()
        return mobilenet_costs.cheapest_valid(self)

    def cost(self, codes: Codes) -> Cost:
        """Multiply-adds of one image's forward pass and trainable parameters, exact."""
        totals = mobilenet_costs.totals(self, codes)
        return Cost(totals[:, 0], totals[:, 1])

    def nanoseconds(self, codes: Codes) -> Int[np.ndarray, " n"]:
        """What a batch takes by the table of latencies, exact.

        Raises:
          ValueError: there is no table.
        """
        if self.latency is None:
            raise ValueError("the space has no table of latencies: give it one, latency=LatencyTable.read(path)")
        return mobilenet_costs.totals(self, codes)[:, COLUMNS.index("nanoseconds")]

    def limited(self, codes: Codes) -> tuple[LimitedCost, ...]:
        """Each limited cost, with its limit."""
        totals = mobilenet_costs.totals(self, codes)
        return tuple(
            LimitedCost(name.replace("_", "-"), limit, totals[:, column])
            for column, (name, limit) in enumerate(zip(COLUMNS, self.limits, strict=True))
            if limit is not None
        )

    def at_resolution(self, codes: Codes, resolution: int) -> Int[np.ndarray, "n dims"]:
        """The same networks on images of another resolution, whether within the limits or not.

        Raises:
          ValueError: the space has no such resolution.
        """
        if resolution not in self.resolutions:
            raise ValueError(
                f"the space has no resolution of {resolution} pixels: there are {len(self.resolutions)}, "
                f"the smallest {self.resolutions[0]} and the largest {self.resolutions[-1]}"
            )
        codes = self.check(codes)
        codes[:, 0] = self.resolutions.index(resolution)
        return codes


def _check_limits(space: MobileNetSpace) -> None:
    """Whether some network is within each.

    Raises:
      ValueError: names the limit, the smallest and the largest possible.
    """
    names = ("max_multiply_adds", "max_parameters", "max_latency")
    if space.limits == (None, None, None) and space.latency is None:
        return
    for name, limit, least, most in zip(names, space.limits, space.smallest, space.largest, strict=True):
        if limit is not None and least is not None and limit < least:
            raise ValueError(
                f"{name} of {limit:,} is below the smallest network of the space, which has {least:,}; "
                f"the largest has {most:,}"
            )
