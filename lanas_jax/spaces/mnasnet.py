"""The MnasNet space of Accel-NASBench (Ahmad et al., arXiv 2404.08005): seven stages around EfficientNet-B0.

MnasNet (arXiv 1807.11626) decides a network stage by stage; all layers of a stage are alike. Here, each of the seven
stages of EfficientNet-B0 (arXiv 1905.11946) has an expansion ratio, a kernel, a number of layers, and
squeeze-and-excitation or none: ``(3 * 2 * 3 * 2)**6 * (3 * 2 * 4 * 2)``, or 1.0e11, networks. Widths, strides, stem and
head are those of EfficientNet-B0, which is one of the networks. All codes build different networks.

`inverted_residuals.py` defines the layers. `tables/accel_nasbench.py` reads the networks of this space that were
trained on ImageNet.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Array, Int

from lanas_jax.spaces.base import Codes, Cost, SearchSpace
from lanas_jax.spaces.choices import Choice
from lanas_jax.spaces.inverted_residuals import Block, MobileNet, halved, head_cost, stem_cost

STEM, LAST = 32, 1280  # channels
WIDTHS = (16, 24, 40, 80, 112, 192, 320)
STRIDES = (1, 2, 2, 2, 1, 2, 1)
STAGES = len(WIDTHS)
EXPANSIONS, KERNELS, SQUEEZES = (1, 4, 6), (3, 5), (False, True)
DEPTHS = ((1, 2, 3),) * 5 + ((1, 2, 3, 4), (1, 2, 3))
SQUEEZE = 4  # input channels of a layer per channel of its squeeze-and-excitation bottleneck
NORMALIZED = 4  # operations per normalized number
_OPTIONS = (len(EXPANSIONS), len(KERNELS), max(map(len, DEPTHS)), len(SQUEEZES))


@dataclasses.dataclass(frozen=True, init=False)
class MnasNetSpace(SearchSpace):
    """Seven stages with an expansion, a kernel, a depth and squeeze-and-excitation each; images of 224 x 224 pixels.

    The choices have the benchmark's names and order: seven expansions ``block0_e``, ..., kernels ``block0_k``, numbers
    of layers ``block0_l``, and squeezes ``block0_se``. Numbers form scales, known to order the values.
    """

    doubts_scales: ClassVar[bool] = False

    def __init__(self) -> None:
        stages = range(STAGES)
        super().__init__(
            [
                *(Choice(f"block{s}_e", EXPANSIONS, ordered=True) for s in stages),
                *(Choice(f"block{s}_k", KERNELS, ordered=True) for s in stages),
                *(Choice(f"block{s}_l", DEPTHS[s], ordered=True) for s in stages),
                *(Choice(f"block{s}_se", SQUEEZES) for s in stages),
            ]
        )

    @property
    def named_codes(self) -> Mapping[str, tuple[int, ...]]:
        """Codes of EfficientNet-B0, and of the largest and the smallest network."""
        b0 = (0, *[2] * 6, *(0, 0, 1, 0, 1, 1, 0), *(0, 1, 1, 2, 2, 3, 0), *[1] * 7)
        return {"efficientnet_b0": b0, "largest": tuple((self.cardinalities - 1).tolist()), "smallest": (0,) * 28}

    def cost(self, codes: Codes) -> Cost:
        """Returns exact costs: multiply-adds as the benchmark counts them, and trainable parameters.

        The benchmark counts not only convolutions and dense layers, as `MobileNet.cost` does, but also four operations
        per normalized number, and the means over pixels. EfficientNet-B0 thus has 415.1 M instead of 385.8 M. Both
        costs equal the published ones of all trained networks to the last bit.
        """
        codes = self.check(codes)
        fixed, stages = _costs()
        options = codes.reshape(len(codes), 4, STAGES)
        chosen = [stages[s, *options[:, :, s].T] for s in range(STAGES)]
        return Cost(*(fixed + np.sum(chosen, axis=0)).T)

    def describe(self, code: Int[Array | np.ndarray, " dims"]) -> str:
        """Returns the code as text, one line per stage."""
        lines = []
        for s, (expansion, kernel, depth, squeeze) in enumerate(self.check(np.asarray(code)[None])[0].reshape(4, -1).T):
            layers = f"{depth + 1} layer{'s' if depth else ''} of {WIDTHS[s]} channels"
            squeezed = ", squeeze-and-excitation" if SQUEEZES[squeeze] else ""
            lines.append(f"stage {s}: {layers}: k{KERNELS[kernel]} x{EXPANSIONS[expansion]}{squeezed}")
        return "\n".join(lines)

    def network(self, code: Int[Array | np.ndarray, " dims"]) -> MobileNet:
        """Returns the network of a code, layer by layer.

        Raises:
          ValueError: if the code is invalid.
        """
        options = self.check(np.asarray(code)[None])[0].reshape(4, STAGES)
        blocks = [block for s in range(STAGES) for block in _blocks(s, *options[:, s].tolist())]
        return MobileNet(tuple(blocks), STEM, LAST, activation="swish", gate="sigmoid")


def _blocks(stage: int, expansion: int, kernel: int, depth: int, squeeze: int) -> list[Block]:
    """Returns the layers of a stage, given the positions of its options."""
    inputs, stride, blocks = (STEM, *WIDTHS)[stage], STRIDES[stage], []
    for _ in range(depth + 1):
        squeezed = inputs // SQUEEZE if SQUEEZES[squeeze] else 0
        expanded = inputs * EXPANSIONS[expansion]
        blocks.append(Block(inputs, expanded, WIDTHS[stage], KERNELS[kernel], stride, "swish", squeezed))
        inputs, stride = WIDTHS[stage], 1
    return blocks


@functools.cache
def _costs() -> tuple[Int[np.ndarray, "2"], Int[np.ndarray, "stages expansions kernels depths squeezes 2"]]:
    """Returns multiply-adds and parameters of stem and head, and of each stage with each of its options."""
    network = MobileNet((), STEM, LAST)
    size = network.sizes[0]
    stem = stem_cost(network.image_channels, STEM, size)
    normalized = STEM * size**2
    stages = np.zeros((STAGES, *_OPTIONS, 2), np.int64)
    for s in range(STAGES):
        for options in itertools.product(*map(range, (*_OPTIONS[:2], len(DEPTHS[s]), _OPTIONS[3]))):
            before = size
            for block in _blocks(s, *options):
                cost, after = block.cost(before), halved(before, block.stride)
                own = (block.expanded + block.outputs) * after**2 + block.expands * block.expanded * before**2
                pooled = block.expanded * (after**2 + 1) if block.squeezed else 0
                stages[s, *options] += (cost.multiply_adds + NORMALIZED * own + pooled, cost.parameters)
                before = after
        size = halved(size, STRIDES[s])
    head = head_cost(network, WIDTHS[-1], size)
    normalized += LAST * size**2
    more = NORMALIZED * normalized + LAST * (size**2 + 1)
    fixed = (stem.multiply_adds + head.multiply_adds + more, stem.parameters + head.parameters)
    return np.array(fixed, np.int64), stages
