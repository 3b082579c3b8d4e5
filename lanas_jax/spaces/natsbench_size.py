"""NATS-Bench's size space (arXiv 2009.00437): the widths of five stages.

All networks have the cell ``|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|
nor_conv_3x3~2|`` of NAS-Bench-201: once at full resolution, then twice behind a residual block that halves the
resolution. Each of these five stages has a width of its own.
"""

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Array, Int

from lanas_jax.spaces.base import Codes, Cost, SearchSpace
from lanas_jax.spaces.choices import Choice

WIDTHS = tuple(range(8, 65, 8))
STAGES = 5
_PIXELS = (32 * 32, 16 * 16, 16 * 16, 8 * 8, 8 * 8)  # output pixels of each stage, CIFAR-10


@dataclasses.dataclass(frozen=True, init=False)
class NATSBenchSizeSpace(SearchSpace):
    """Five stages of 8, 16, ..., 64 channels: 32,768 networks. Widths form a scale, known to order the values."""

    doubts_scales: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__(Choice(f"width {stage}", WIDTHS, ordered=True) for stage in range(STAGES))

    def cost(self, codes: Codes) -> Cost:
        """Returns exact multiply-adds of one CIFAR-10 image (convolutions and head) and trainable parameters.

        The benchmark's networks for k classes have k - 10 times one plus the last width more parameters.
        """
        widths = np.array(WIDTHS, np.int64)[np.asarray(codes)].T
        weights = 3 * 9 * widths[0]  # of the convolutions so far: the stem
        multiply_adds, norms = weights * _PIXELS[0], widths[0] + widths[-1]  # norms: channels of batch normalizations
        before = widths[0]
        for stage, width in enumerate(widths):
            halves = stage % 2 == 1
            first, later = before * width, width * width
            # A residual block has two 3x3 convolutions, and a 1x1 one without normalization in its shortcut. A cell has
            # two 3x3 convolutions from its input and three between its nodes; its skip is a 1x1 one if widths differ.
            skip = np.where(halves | (before != width), first, 0)
            added = 9 * first + 9 * later + skip if halves else 18 * first + 27 * later + skip
            norms = norms + (2 * width if halves else (5 + (before != width)) * width)
            weights, multiply_adds, before = weights + added, multiply_adds + added * _PIXELS[stage], width
        head = 10 * before
        return Cost(multiply_adds + head, weights + 2 * norms + head + 10)

    def arch_string(self, code: Int[Array | np.ndarray, " dims"]) -> str:
        """Returns the network in the benchmark's notation, such as ``8:64:16:24:32``."""
        return ":".join(str(WIDTHS[i]) for i in self.check(np.asarray(code)[None])[0])

    def from_arch_string(self, text: str) -> Int[np.ndarray, " dims"]:
        """Returns the code of an architecture string; the inverse of `arch_string`.

        Raises:
          ValueError: if the text is not a network of this space.
        """
        names, widths = text.split(":"), [str(width) for width in WIDTHS]
        if len(names) != STAGES or not set(names) <= set(widths):
            raise ValueError(
                f"{text!r} is not a network: expected five widths of {', '.join(widths)}, joined by colons"
            )
        return np.array([widths.index(name) for name in names], np.int32)
