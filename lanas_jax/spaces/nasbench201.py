"""The space of NAS-Bench-201 (arXiv 2001.00326), also NATS-Bench's topology space: cells of six labelled edges.

A cell has four nodes. Each pair of nodes is joined by an edge that applies one of five operations, including "none".
The value of a node is the sum of its incoming edges. The benchmark's network stacks the cell in three stages; residual
blocks between the stages halve the resolution and double the channels. `models/nasbench/nasbench201.py` builds it.
"""

import dataclasses
import functools
import math
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt

from lanas_jax.spaces.base import CellGraph, Codes, Cost, SearchSpace
from lanas_jax.spaces.choices import Choice

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NONE, SKIP_CONNECT, CONV_1X1, CONV_3X3, AVERAGE_POOL = range(5)
STAGES = 3
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))  # paths from input to output, as positions in a code
PATH_SHARE = 0.35  # share of the prior variance explained by path counts; the rest is explained by edges
_NODES = ("input", "node 1", "node 2", "output")
_ARCH = re.compile(r"\|(\w+)~0\|\+\|(\w+)~0\|(\w+)~1\|\+\|(\w+)~0\|(\w+)~1\|(\w+)~2\|")


class NASBench201Stage(NamedTuple):
    """A sequence of cells of one size."""

    channels: int  # channels of each cell's input and output
    size: int  # height and width of each cell's input and output


def _scrambled(numbers: UInt[np.ndarray, "..."]) -> UInt[np.ndarray, "..."]:
    """Returns a hash of each 64-bit integer (the finalizer of SplitMix64, doi.org/10.1145/2660193.2660195)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


@dataclasses.dataclass(frozen=True, init=False)
class NASBench201Space(SearchSpace):
    """Six edges, five operations each: 15,625 cells.

    Only 4,930 cells compute different functions (`functions`); the benchmark's authors count 6,466. `canonical` is the
    identity nevertheless: the benchmark trained each of the 15,625 cells separately, and its tables have a value for
    each.

    Args:
      channels: channels of the stem and the first stage; doubled from stage to stage.
      cells: number of cells in each of the three stages.
      image_size: height and width of the images, in pixels; 16 in the benchmark's ImageNet16-120.
      image_channels: number of image channels.
      classes: number of classes.

    Raises:
      ValueError: if a size is below one, or the image size cannot be halved twice.
    """

    channels: int
    cells: int
    image_size: int
    image_channels: int
    classes: int

    def __init__(
        self, *, channels: int = 16, cells: int = 5, image_size: int = 32, image_channels: int = 3, classes: int = 10
    ) -> None:
        self._set_sizes(
            channels=channels, cells=cells, image_size=image_size, image_channels=image_channels, classes=classes
        )
        if image_size % 2 ** (STAGES - 1):
            raise ValueError(f"image_size must be a multiple of {2 ** (STAGES - 1)}; got {image_size}")
        super().__init__(Choice(f"edge {i}-{j}", OPERATIONS) for i, j in EDGES)

    @property
    def stages(self) -> tuple[NASBench201Stage, ...]:
        """Cell sizes per stage, from stem to head."""
        return tuple(NASBench201Stage(self.channels << i, self.image_size >> i) for i in range(STAGES))

    def functions(self, codes: Codes) -> Int[np.ndarray, " n"]:
        """Returns integers that are equal for cells that compute the same functions of their input.

        A node is the sum of a multiset of operations applied to earlier nodes. "skip_connect" adds the summands of its
        node, and operations on an empty sum add nothing. The integers are 64-bit hashes: different functions have equal
        ones with a probability of 2**-64.
        """
        codes = np.asarray(codes)
        salts = np.random.default_rng(0).integers(2**64, size=len(OPERATIONS), dtype=np.uint64)
        sums = [np.full(len(codes), 1, np.uint64)]
        for end in range(1, len(_NODES)):
            total = np.zeros(len(codes), np.uint64)
            for edge, (start, stop) in enumerate(EDGES):
                if stop == end:
                    operation, source = codes[:, edge], sums[start]
                    applied = _scrambled(source ^ salts[operation])
                    summand = np.where(operation == SKIP_CONNECT, source, applied)
                    total += np.where((operation == NONE) | (source == 0), np.uint64(0), summand)
            sums.append(total)
        return sums[-1].view(np.int64)

    def cost(self, codes: Codes) -> Cost:
        """Returns exact multiply-adds of one image's forward pass (convolutions and head) and trainable parameters.

        The benchmark's own count, which it calls FLOPs, also includes the biases of the head.
        """
        codes = np.asarray(codes)
        kernel_pixels = (codes == CONV_1X1).sum(axis=1) + 9 * (codes == CONV_3X3).sum(axis=1)
        convolutions = ((codes == CONV_1X1) | (codes == CONV_3X3)).sum(axis=1)
        total = np.zeros((len(codes), 2), np.int64) + self._fixed_cost()
        for channels, size in self.stages:
            weights = self.cells * kernel_pixels.astype(np.int64) * channels**2
            total[:, 0] += weights * size**2
            total[:, 1] += weights + self.cells * convolutions * 2 * channels
        return Cost(total[:, 0], total[:, 1])

    def terms(self, codes: Codes) -> Float[Array, "n t"]:
        """Returns the one-hot operations of the edges, then the centred counts of each path from input to output.

        The counts of a path are 1 if none of its edges is "none", then the number of its edges per other operation;
        all counts of an interrupted path are 0.
        """
        return jnp.concatenate([super().terms(codes), _path_counts(codes) - _path_scale()[0][None]], axis=1)

    @property
    def term_embedding(self) -> Float[np.ndarray, "t e"]:
        """Term embedding of the product space for the edges, and one column of equal variance per path count."""
        edges = math.sqrt(1 - PATH_SHARE) * super().term_embedding
        paths = np.diag(math.sqrt(PATH_SHARE) * _path_scale()[1])
        upper = np.pad(edges, ((0, 0), (0, paths.shape[1])))
        return np.concatenate([upper, np.pad(paths, ((0, 0), (edges.shape[1], 0)))]).astype(np.float32)

    def arch_string(self, code: Int[Array | np.ndarray, " dims"]) -> str:
        """Returns the cell in the benchmark's notation, ``|none~0|+|none~0|none~1|+|none~0|none~1|none~2|``."""
        array = self.check(np.asarray(code)[None])[0]
        nodes: list[str] = ["", "", ""]
        for (source, target), op in zip(EDGES, array, strict=True):
            nodes[target - 1] += f"{OPERATIONS[op]}~{source}|"
        return "+".join(f"|{node}" for node in nodes)

    def from_arch_string(self, text: str) -> Int[np.ndarray, " dims"]:
        """Returns the code of an architecture string; the inverse of `arch_string`.

        Raises:
          ValueError: if the text is not a cell of this space.
        """
        match = _ARCH.fullmatch(text)
        if match is None or not set(match.groups()) <= set(OPERATIONS):
            example = self.arch_string(np.zeros(self.dims, np.int32))
            raise ValueError(f"{text!r} is not a cell: expected the form {example} with {', '.join(OPERATIONS)}")
        return np.array([OPERATIONS.index(op) for op in match.groups()], np.int32)

    def describe(self, code: Int[Array | np.ndarray, " dims"]) -> str:
        """Returns the benchmark's notation of the cell, then one line per edge."""
        return f"{self.arch_string(code)}\n{super().describe(code)}"

    def graphs(self, code: Int[Array | np.ndarray, " dims"]) -> tuple[CellGraph, ...]:
        """Returns the cell as a graph: four nodes and the edges that are not "none"."""
        array = self.check(np.asarray(code)[None])[0]
        edges = tuple(
            (i, j, OPERATIONS[op]) for (i, j), op in zip(EDGES, array, strict=True) if OPERATIONS[op] != "none"
        )
        return (CellGraph("cell", _NODES, edges),)

    def _fixed_cost(self) -> Int[np.ndarray, " 2"]:
        """Returns the multiply-adds and parameters of stem, residual blocks and head."""
        stem, head = 9 * self.image_channels * self.channels, self.classes * self.stages[-1].channels
        multiply_adds, parameters = stem * self.image_size**2 + head, stem + head + self.classes
        for channels, size in self.stages[1:]:  # residual block before each stage: two 3x3 convolutions and one 1x1
            weights = (9 * (channels // 2 + channels) + channels // 2) * channels
            multiply_adds += weights * size**2
            parameters += weights + 4 * channels
        normalised = self.channels + self.stages[-1].channels
        return np.array([multiply_adds, parameters + 2 * normalised], np.int64)


@jax.jit
def _path_counts(codes: Codes) -> Float[Array, "n counts"]:
    """Returns the path counts described in `NASBench201Space.terms`, not centred."""
    on_path = np.array([[float(edge in path) for edge in range(len(EDGES))] for path in PATHS], np.float32)
    applied = jnp.asarray(codes)[:, :, None] == np.arange(len(OPERATIONS), dtype=np.int32)[None, None]
    counts = jnp.einsum("neo,pe->npo", applied.astype(jnp.float32), on_path, precision="highest")
    passes = counts[:, :, :1] == 0
    return jax.lax.collapse(jnp.where(passes, counts.at[:, :, 0].set(1.0), 0.0), 1)


@functools.cache
def _path_scale() -> tuple[np.ndarray, np.ndarray]:
    """Returns means of the path counts over all cells, and factors that scale them to equal shares of variance 1."""
    shape = (len(OPERATIONS),) * len(EDGES)
    codes = np.stack(np.unravel_index(np.arange(math.prod(shape)), shape), axis=1).astype(np.int32)
    with jax.ensure_compile_time_eval():
        counts = np.asarray(_path_counts(codes), np.float64)
    return counts.mean(axis=0).astype(np.float32), 1 / (counts.std(axis=0) * math.sqrt(counts.shape[1]))
