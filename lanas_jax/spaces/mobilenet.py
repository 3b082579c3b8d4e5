"""The MobileNetV3 / EfficientNet space: stages of inverted residuals, elastic in depth, kernel, expansion and width.

The ImageNet experiments of arXiv 1906.06832 (section 5.2) search the networks of once-for-all (arXiv 1908.09791): five
stages of two to four layers. Each layer has a kernel of 3, 5 or 7 pixels and expands its input 3, 4 or 6 times. A
width multiplier and the image resolution are part of the code. There are ``(9**2 + 9**3 + 9**4)**5``, or 2.2e19,
networks for each width and resolution. Squeeze-and-excitation and activations are those of MobileNetV3.

A code holds the resolution and the width, then for each stage its depth and the kernel and expansion of each layer, up
to the largest depth. Layers beyond the depth are absent: codes that differ only in absent layers are one network.
`inverted_residuals.py` defines the layers of a network and their costs, `mobilenet_costs.py` sums the costs of many
codes, `mobilenet_features.py` computes their features, and `models/mobilenet/network.py` builds the networks.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lanas_jax.spaces import mobilenet_costs, mobilenet_features
from lanas_jax.spaces.base import Codes, Cost, LimitedCost
from lanas_jax.spaces.exact import check_countable, exceeds, nearest_floats
from lanas_jax.spaces.latency import LatencyTable
from lanas_jax.spaces.mobilenet_costs import COLUMNS, Totals
from lanas_jax.spaces.mobilenet_settings import STAGES, MobileNetSettings, MobileNetStage


@dataclasses.dataclass(frozen=True)
class MobileNetSpace(MobileNetSettings):
    """Networks of stages of inverted residuals.

    Args:
      stages: stages from stem to head.
      depths: possible numbers of layers per stage, ascending.
      kernels: possible sides of depthwise kernels, ascending.
      expansions: possible expansion ratios of a layer, ascending.
      widths: possible multipliers of all channels, ascending.
      resolutions: possible heights and widths of the images, in pixels, ascending.
      stem: channels of the stem and of the block before the first stage, before the multiplier.
      last: channels of the 1x1 convolution after the last stage, before the multiplier.
      hidden: channels of the dense layer before the classifier, before the multiplier.
      stem_stride: stride of the stem.
      image_channels: number of image channels.
      classes: number of classes.
      max_multiply_adds: hard limit on the multiply-adds of one image's forward pass; part of `valid`.
      max_parameters: hard limit on the trainable parameters; part of `valid`.
      latency: measured latencies of the layers on a device; optional.
      max_latency: hard limit on the nanoseconds per batch according to `latency`; part of `valid`.

    Raises:
      ValueError: if the settings are invalid or too large to count the costs, a limit is below the smallest network,
        the latency table lacks layers, or `max_latency` is given without a table.
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
        check_countable(*self.network(self.cardinalities - 1).cost)
        _check_limits(self)

    @property
    def named_codes(self) -> Mapping[str, tuple[int, ...]]:
        """Codes of the largest network (all last options), which contains all others, and of the smallest."""
        return {"largest": tuple((self.cardinalities - 1).tolist()), "smallest": (0,) * self.dims}

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Name of each column of `features`."""
        return super().feature_names + mobilenet_features.names(self)

    def features(self, codes: Codes) -> Float[Array, "n d"]:
        """Returns the features of a product space, 0 for absent layers, then `mobilenet_features.counts`."""
        codes = jnp.asarray(codes, jnp.int32)
        decides = self._decides(codes)[:, self._choice_of_column]
        own = jnp.where(decides, super().features(codes), 0.0)
        return jnp.concatenate([own, mobilenet_features.counts(self, codes)], axis=1)

    def terms(self, codes: Codes) -> Float[Array, "n t"]:
        """Returns the features, centred to mean 0 over random codes."""
        return self.features(codes) - mobilenet_features.embedding_scale(self)[0][None]

    @property
    def term_embedding(self) -> Float[np.ndarray, "t e"]:
        """Diagonal matrix of feature scales; the mean squared norm over random codes is 1."""
        return np.diag(mobilenet_features.embedding_scale(self)[1])

    @property
    def smallest(self) -> Totals:
        """Smallest value of each cost over all networks, ignoring limits."""
        return mobilenet_costs.bounds(self)[0]

    @property
    def largest(self) -> Totals:
        """Largest value of each cost over all networks, ignoring limits."""
        return mobilenet_costs.bounds(self)[1]

    def valid(self, codes: Codes) -> Bool[Array, " n"]:
        """Returns which codes are valid: integers in range, and exact costs within the hard limits."""
        codes = jnp.asarray(codes, jnp.int32)
        allowed = super().valid(codes)
        for column, limit in enumerate(self.limits):
            if limit is not None:
                allowed &= ~exceeds(mobilenet_costs.limbs(self, codes, column), limit)
        return allowed

    def starting_codes(self) -> Int[np.ndarray, "k dims"]:
        """Returns cheap networks within the limits, for each resolution and width that allow one; else none."""
        if self.limits == (None, None, None):
            return super().starting_codes()
        return mobilenet_costs.cheapest_valid(self)

    def cost(self, codes: Codes) -> Cost:
        """Returns exact multiply-adds of one image's forward pass and trainable parameters."""
        totals = mobilenet_costs.totals(self, codes)
        return Cost(totals[:, 0], totals[:, 1])

    @property
    def cost_names(self) -> tuple[str, ...]:
        """Names of the costs: those of `Cost`, and with a latency table ``latency``, in milliseconds per batch."""
        return (*Cost._fields, "latency") if self.latency is not None else Cost._fields

    def known_costs(self, codes: Codes) -> Float[np.ndarray, "n costs"]:
        """Returns a column for each of `cost_names`."""
        return mobilenet_costs.totals(self, codes) / self._units

    def traced_cost(self, codes: Codes) -> Float[Array, "n costs"]:
        """Returns `known_costs` of valid codes, rounded to float32, inside a compiled program."""
        codes, columns = jnp.asarray(codes, jnp.int32), range(len(self.cost_names))
        whole = nearest_floats(jnp.stack([mobilenet_costs.limbs(self, codes, column) for column in columns], axis=1))
        return whole / self._units.astype(np.float32)[None]

    @property
    def _units(self) -> Float[np.ndarray, " costs"]:
        """Units of `known_costs` in units of `COLUMNS`: a millisecond has a million nanoseconds."""
        return np.array([1.0, 1.0, 1e6])[: len(self.cost_names)]

    def nanoseconds(self, codes: Codes) -> Int[np.ndarray, " n"]:
        """Returns the exact nanoseconds per batch according to the latency table.

        Raises:
          ValueError: if the space has no latency table.
        """
        if self.latency is None:
            raise ValueError("the space has no latency table; construct it with latency=LatencyTable.read(path)")
        return mobilenet_costs.totals(self, codes)[:, COLUMNS.index("nanoseconds")]

    def limited(self, codes: Codes) -> tuple[LimitedCost, ...]:
        """Returns each limited cost with its limit."""
        totals = mobilenet_costs.totals(self, codes)
        return tuple(
            LimitedCost(name.replace("_", "-"), limit, totals[:, column])
            for column, (name, limit) in enumerate(zip(COLUMNS, self.limits, strict=True))
            if limit is not None
        )

    def at_resolution(self, codes: Codes, resolution: int) -> Int[np.ndarray, "n dims"]:
        """Returns the same networks at another image resolution, ignoring limits.

        Raises:
          ValueError: if the space does not have the resolution.
        """
        if resolution not in self.resolutions:
            raise ValueError(
                f"the space has no resolution of {resolution} pixels; it has {len(self.resolutions)}, "
                f"the smallest {self.resolutions[0]} and the largest {self.resolutions[-1]}"
            )
        codes = self.check(codes)
        codes[:, 0] = self.resolutions.index(resolution)
        return codes


def _check_limits(space: MobileNetSpace) -> None:
    """Checks that each limit allows some network.

    Raises:
      ValueError: if a limit is below the smallest network; names the limit, the smallest and the largest cost.
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
