"""Gathers of a traced program, counted in its StableHLO as lowered.

Accelerators read the rows of a gather one after another, and their compilers estimate no time for them.
"""

import math
import re
from collections.abc import Sequence

import jax

GATHER = re.compile(r'"stablehlo\.gather".*slice_sizes = array<i64: ([\d, ]*)>.*-> tensor<([^>]*)>')


def gathered_rows(lowered: jax.stages.Lowered) -> Sequence[int]:
    """Returns the number of rows that each gather of a program reads, in the order of its text; loops count once."""
    found = []
    for sizes, result in GATHER.findall(lowered.as_text()):
        *shape, _ = result.split("x")
        row = math.prod(int(size) for size in sizes.split(","))
        found.append(math.prod(map(int, shape)) // max(row, 1))
    return found
