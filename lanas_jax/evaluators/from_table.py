"""Values looked up in a table of what others trained, for searches that are repeated at no cost.

A trial can be made to wait, as if it were trained, which is how clusters are tried out: the evaluator then does what a
worker does whose device is busy elsewhere.
"""

import dataclasses
import time
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from lanas_jax.evaluators.base import Outcome
from lanas_jax.tables.base import Table


@dataclasses.dataclass(frozen=True, eq=False)
class FromTable:
    """Looks codes up.

    Args:
      table: values.
      seconds: that a trial takes, on average: it waits for half to one and a half times as long, as its key says.

    Raises:
      ValueError: negative seconds.
    """

    table: Table
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.seconds < 0:
            raise ValueError(f"seconds must be at least 0; got {self.seconds}")

    def evaluate(self, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"]) -> Sequence[Outcome]:
        """One outcome per code; a code that the table lacks has failed."""
        values = np.asarray(self.table.lookup(codes)).tolist()
        waits = self.seconds * (0.5 + np.asarray(jax.vmap(jax.random.uniform)(keys)))
        return [self._one(value, float(wait)) for value, wait in zip(values, waits, strict=True)]

    def _one(self, value: float, wait: float) -> Outcome:
        time.sleep(wait)
        if np.isnan(value):
            return Outcome(None, "the table does not know it", train_seconds=wait)
        return Outcome(value, train_seconds=wait)
