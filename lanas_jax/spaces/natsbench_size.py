"""NATS-Bench's size space (arXiv 2009.00437): the widths of five stages."""

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Array, Int

from lanas_jax.spaces.base import SearchSpace
from lanas_jax.spaces.choices import Choice

WIDTHS = tuple(range(8, 65, 8))
STAGES = 5


@dataclasses.dataclass(frozen=True, init=False)
class NATSBenchSizeSpace(SearchSpace):
    """Five stages of 8, 16, ..., 64 channels: 32,768 networks. Widths form a scale, known to order the values."""

    doubts_scales: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__(Choice(f"width {stage}", WIDTHS, ordered=True) for stage in range(STAGES))

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
