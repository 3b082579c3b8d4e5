"""Statistics of search traces: samples to a target, regret, and bootstrap intervals.

A trace contains the value of each distinct valid architecture that a search tried, in order; shorter searches are
padded with NaN. Regret is the table's optimum minus the best value so far.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import special

Values = Float[np.ndarray, "seeds budget"]

REGRET_AT = (50, 100, 200, 400)
TOP_SHARE = 0.001
RESAMPLES = 2000


class Quartiles(NamedTuple):
    """First quartile, median and third quartile; infinite if too few searches reached the target."""

    lower: float
    median: float
    upper: float


class Interval(NamedTuple):
    """A mean and its bootstrap interval."""

    mean: float
    low: float
    high: float


def samples_to(values: Values, target: float) -> Float[np.ndarray, " seeds"]:
    """Returns the number of samples until a search first reached `target`; infinite if it never did."""
    reached = values >= np.float32(target)
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, np.inf)


def times_to(values: Values, times: Values, target: float) -> Float[np.ndarray, " seeds"]:
    """Returns the time at which a search first reached `target`; infinite if it never did."""
    reached = values >= np.float32(target)
    return np.where(reached, times, np.inf).min(axis=1)


def quartiles(samples: Float[np.ndarray, " seeds"]) -> Quartiles:
    """Returns the quartiles of numbers of samples, some of which may be infinite."""
    ordered = np.sort(samples)

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
        return float(low if low == high else low + (high - low) * (place % 1.0))

    return Quartiles(at(0.25), at(0.5), at(0.75))


def top_value(table: Float[np.ndarray, " m"], share: float = TOP_SHARE) -> float:
    """Returns the value that the best `share` of a table's architectures reach; the share is at least one of them."""
    return float(np.sort(table)[::-1][max(int(len(table) * share), 1) - 1])


def regret(values: Values, optimum: float) -> Float[np.ndarray, "seeds budget"]:
    """Returns the optimum minus the best value so far of each search, after each sample."""
    best = np.maximum.accumulate(np.where(np.isnan(values), -np.inf, values), axis=1)
    return np.float32(optimum) - best


def bootstrap(numbers: Float[np.ndarray, " seeds"], confidence: float = 0.95, seed: int = 0) -> Interval:
    """Returns the mean over searches and its percentile bootstrap interval, which for a single search is its value."""
    from scipy import stats  # takes a second to import

    mean = float(numbers.mean())
    if len(numbers) < 2:
        return Interval(mean, mean, mean)
    drawn = stats.bootstrap(
        (numbers,), np.mean, n_resamples=RESAMPLES, confidence_level=confidence, method="percentile", rng=seed
    )
    return Interval(mean, float(drawn.confidence_interval.low), float(drawn.confidence_interval.high))


def random_samples(m: int, good: int, share: float = 0.5) -> int:
    """Returns the number of draws without replacement after which a share of random searches found a good architecture.

    Args:
      m: number of architectures in the table.
      good: number of good architectures among them.
      share: share of the random searches; 0.5 gives the median.
    """
    draws: Int[np.ndarray, " draws"] = np.arange(m - good + 1)
    missed = special.gammaln(m - good + 1) - special.gammaln(m - good - draws + 1)
    missed = missed - special.gammaln(m + 1) + special.gammaln(m - draws + 1)
    return int(np.searchsorted(-missed, -math.log(1 - share) - 1e-9))
