"""The objectives that a benchmark table has a column for, by name; all are maximised, so costs are negative."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from lanas_jax.spaces.base import Cost
from lanas_jax.tables.benchmark import THROUGHPUT, Benchmark

ACCURACIES = ("accuracy", "test_accuracy")


def objective_names(benchmark: Benchmark) -> tuple[str, ...]:
    """Returns the names of the objectives of a benchmark: accuracies, costs that its space defines, throughputs."""
    throughputs = tuple(THROUGHPUT + device for device in benchmark.throughputs)
    try:
        benchmark.space.cost(benchmark.codes[:1])
    except NotImplementedError:
        return (*ACCURACIES, *throughputs)
    return (*ACCURACIES, *Cost._fields, *throughputs)


def objective_values(benchmark: Benchmark, names: Sequence[str]) -> Float[np.ndarray, "m k"]:
    """Returns a column per objective: mean accuracies, negative costs, or throughputs, NaN where not measured.

    Args:
      benchmark: benchmark.
      names: names of the objectives: accuracy (validation; in a benchmark of losses, the negated loss), test_accuracy,
        multiply_adds, parameters, or such as throughput_tpuv3.

    Raises:
      ValueError: a name is unknown.
    """
    known = objective_names(benchmark)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"{benchmark.name} has no objective {unknown[0]!r}; choose from {', '.join(known)}")
    return np.stack([_column(benchmark, name) for name in names], axis=1)


def _column(benchmark: Benchmark, name: str) -> Float[np.ndarray, " m"]:
    if name == "accuracy":
        column = benchmark.validation.mean(axis=1)
    elif name == "test_accuracy":
        column = benchmark.test.mean(axis=1)
    elif name in Cost._fields:
        column = -getattr(benchmark.space.cost(benchmark.codes), name)
    else:
        column = benchmark.throughputs[name.removeprefix(THROUGHPUT)]
    return np.asarray(column, np.float32)
