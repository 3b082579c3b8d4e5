"""The space of NAS-Bench-201 (arXiv 2001.00326), also NATS-Bench's topology space: cells of six labelled edges.

A cell has four nodes. Each pair of nodes is joined by an edge that applies one of five operations, "none" among them,
and a node is the sum of the edges that enter it.
"""

import dataclasses
import re

import numpy as np
from jaxtyping import Array, Int

from lanas_jax.spaces.base import CellGraph, Choice, SearchSpace

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
_NODES = ("input", "node 1", "node 2", "output")
_ARCH = re.compile(r"\|(\w+)~0\|\+\|(\w+)~0\|(\w+)~1\|\+\|(\w+)~0\|(\w+)~1\|(\w+)~2\|")


@dataclasses.dataclass(frozen=True, init=False)
class NASBench201Space(SearchSpace):
    """Six edges, five operations each: 15,625 cells.

    `canonical` is the identity although only 6,466 cells differ in what they compute: the benchmark trained all 15,625
    on their own, and its tables have a value for each.
    """

    def __init__(self) -> None:
        super().__init__(Choice(f"edge {i}-{j}", OPERATIONS) for i, j in EDGES)

    def arch_string(self, code: Int[Array | np.ndarray, " dims"]) -> str:
        """The cell as the benchmark writes it, such as ``|none~0|+|none~0|none~1|+|none~0|none~1|none~2|``."""
        array = self.check(np.asarray(code)[None])[0]
        nodes: list[str] = ["", "", ""]
        for (source, target), op in zip(EDGES, array, strict=True):
            nodes[target - 1] += f"{OPERATIONS[op]}~{source}|"
        return "+".join(f"|{node}" for node in nodes)

    def from_arch_string(self, text: str) -> Int[np.ndarray, " dims"]:
        """The inverse of `arch_string`.

        Raises:
          ValueError: not a cell of this space.
        """
        match = _ARCH.fullmatch(text)
        if match is None or not set(match.groups()) <= set(OPERATIONS):
            example = self.arch_string(np.zeros(self.dims, np.int32))
            raise ValueError(f"{text!r} is not a cell: expected the form {example} with {', '.join(OPERATIONS)}")
        return np.array([OPERATIONS.index(op) for op in match.groups()], np.int32)

    def describe(self, code: Int[Array | np.ndarray, " dims"]) -> str:
        """The benchmark's own name for the cell, and a line per edge."""
        return f"{self.arch_string(code)}\n{super().describe(code)}"

    def graphs(self, code: Int[Array | np.ndarray, " dims"]) -> tuple[CellGraph, ...]:
        """The cell: four nodes and the edges that are not "none"."""
        array = self.check(np.asarray(code)[None])[0]
        edges = tuple(
            (i, j, OPERATIONS[op]) for (i, j), op in zip(EDGES, array, strict=True) if OPERATIONS[op] != "none"
        )
        return (CellGraph("cell", _NODES, edges),)
