"""The objectives that a benchmark table has a column for, by name; all are maximised, so costs are negative."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from lanas_jax.spaces.base import Cost
from lanas_jax.spaces.nasbench201 import NASBench201Space
from lanas_jax.tables.benchmark import THROUGHPUT, Benchmark
from lanas_jax.tables.nats_bench import HARDWARE

ACCURACIES = ("accuracy", "test_accuracy")


def objective_names(benchmark: Benchmark) -> tuple[str, ...]:
    """Returns the names of the objectives of a benchmark: accuracies, costs, throughputs."""
    throughputs = tuple(THROUGHPUT + device for device in benchmark.throughputs)
    return (*ACCURACIES, *cost_names(benchmark), *throughputs)


def cost_names(benchmark: Benchmark) -> tuple[str, ...]:
    """Returns the names of the objectives that are minimised: costs that the space defines, and measured ones."""
    try:
        benchmark.space.cost(benchmark.codes[:1])
    except NotImplementedError:
        return tuple(benchmark.costs)
    return (*Cost._fields, *benchmark.costs)


def objective_values(benchmark: Benchmark, names: Sequence[str]) -> Float[np.ndarray, "m k"]:
    """Returns a column per objective: mean accuracies, negative costs, or throughputs, NaN where not measured.

    Args:
      benchmark: benchmark.
      names: names of the objectives: accuracy (validation; in a benchmark of losses, the negated loss), test_accuracy,
        multiply_adds, parameters, a measured cost such as latency_edgegpu, or a throughput such as throughput_tpuv3.

    Raises:
      ValueError: a name is unknown, or no network was measured in all objectives.
    """
    known = objective_names(benchmark)
    unknown = [name for name in names if name not in known]
    if unknown:
        remedy = f"choose from {', '.join(known)}"
        if benchmark.space == NASBench201Space() and not benchmark.costs:
            remedy += f"; latencies and energies need the file {HARDWARE} in the folder LANAS_DATA"
        raise ValueError(f"{benchmark.name} has no objective {unknown[0]!r}; {remedy}")
    values = np.stack([_column(benchmark, name) for name in names], axis=1)
    if not np.isfinite(values).all(axis=1).any():
        raise ValueError(f"no network of {benchmark.name} was measured in all of {', '.join(names)}")
    return values


def _column(benchmark: Benchmark, name: str) -> Float[np.ndarray, " m"]:
    if name == "accuracy":
        column = benchmark.validation.mean(axis=1)
    elif name == "test_accuracy":
        column = benchmark.test.mean(axis=1)
    elif name in Cost._fields:
        column = -getattr(benchmark.space.cost(benchmark.codes), name)
    elif name in benchmark.costs:
        column = -np.asarray(benchmark.costs[name])
    else:
        column = benchmark.throughputs[name.removeprefix(THROUGHPUT)]
    return np.asarray(column, np.float32)
