"""Values looked up in a benchmark table of trained networks, so that searches can be repeated at no training cost.

A trial can sleep to simulate training, which is useful for testing clusters: the evaluator then behaves like a worker
that waits for its device.
"""

import dataclasses
import time
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from lanas_jax.evaluators.base import Outcome, with_costs
from lanas_jax.runtime.arithmetic import in_32_bits
from lanas_jax.tables.base import Table


@dataclasses.dataclass(frozen=True, eq=False)
class FromTable:
    """Looks up the values of codes in a table.

    Args:
      table: benchmark table with a value per code.
      seconds: mean simulated duration of a trial; each trial sleeps 0.5 to 1.5 times this long, drawn from its key.

    Raises:
      ValueError: `seconds` is negative, or the table has several objectives.
    """

    table: Table
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.seconds < 0:
            raise ValueError(f"seconds must be at least 0; got {self.seconds}")
        if np.ndim(self.table.values) > 1:
            raise ValueError("FromTable needs a table with one value per code; this one has several objectives")

    @in_32_bits
    def evaluate(self, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"]) -> Sequence[Outcome]:
        """Returns one outcome per code, with the costs of its space; a code that is not in the table fails."""
        values = np.asarray(self.table.lookup(codes)).tolist()
        waits = self.seconds * (0.5 + np.asarray(jax.vmap(jax.random.uniform)(keys)))
        outcomes = [self._one(value, float(wait)) for value, wait in zip(values, waits, strict=True)]
        return with_costs(self.table.space, codes, outcomes)

    def _one(self, value: float, wait: float) -> Outcome:
        time.sleep(wait)
        if np.isnan(value):
            return Outcome(None, "the code is not in the table", train_seconds=wait)
        return Outcome(value, train_seconds=wait)
