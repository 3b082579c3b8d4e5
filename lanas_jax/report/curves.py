"""What the plots show, as numbers: the running best of a search, its seconds, the Pareto front.

Plain functions of arrays and trials; drawing them is for `plots`.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from lanas_jax.storage.trials import Status, Trial


def done(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that gave a value, in order of number."""
    return sorted((t for t in trials if t.status == Status.DONE and t.value is not None), key=lambda t: t.id)


def running_best(values: Sequence[float]) -> list[float]:
    """The largest value so far, after each trial."""
    return list(itertools.accumulate(values, max))


def seconds_after(trials: Sequence[Trial]) -> dict[int, float]:
    """Seconds spent on trials when each finished one was through, by trial number.

    Compile and train seconds are summed in order of number. They are shares of the time their batch took, so the sum is
    the time the search spent on candidates; pauses between a kill and a resume are not in it.
    """
    total = 0.0
    after = {}
    for trial in sorted(trials, key=lambda t: t.id):
        if trial.status != Status.PENDING:
            total += (trial.compile_seconds or 0.0) + (trial.train_seconds or 0.0)
            after[trial.id] = total
    return after


def pareto_front(
    costs: Float[np.ndarray, " n"] | Int[np.ndarray, " n"], values: Float[np.ndarray, " n"]
) -> Int[np.ndarray, " front"]:
    """Which points no other beats: none costs less for at least the value, none gives more for at most the cost.

    Args:
      costs: to be small, such as multiply-adds.
      values: to be large.

    Returns:
      Indices of the front in ascending order of cost; of equal points the first.
    """
    order = np.lexsort((np.arange(len(costs)), -values, costs))
    if not len(order):
        return order
    sorted_values = values[order]
    before = np.concatenate([[-np.inf], np.maximum.accumulate(sorted_values)[:-1]])
    return order[sorted_values > before]


def axis_floor(values: Sequence[float]) -> float:
    """The lowest value worth a place on an axis.

    A few candidates that hardly learned would squeeze all others into a line. Values further below the lower quartile
    than twice the distance from there to the best are left out.
    """
    quartile, high = np.quantile(np.asarray(values), [0.25, 1.0])
    limit = quartile - 2.0 * (high - quartile) if high > quartile else -np.inf
    return min(value for value in values if value >= limit)
