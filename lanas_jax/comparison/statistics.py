"""What traces of searches say: samples to a target, regret, and how sure of it one can be.

A trace holds the value of each distinct valid architecture that a search tried, in order; searches of a different
length end in NaN. Regret is what the best so far falls short of the table's optimum.
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
    """First quartile, median, third quartile; infinite where fewer searches than that got there."""

    lower: float
    median: float
    upper: float


class Interval(NamedTuple):
    """A mean and its bootstrap interval."""

    mean: float
    low: float
    high: float


def samples_to(values: Values, target: float) -> Float[np.ndarray, " seeds"]:
    """Samples until a search first tried a value of at least `target`; infinite where it never did."""
    reached = values >= np.float32(target)
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, np.inf)


def times_to(values: Values, times: Values, target: float) -> Float[np.ndarray, " seeds"]:
    """When a search was first done with a value of at least `target`; infinite where it never was."""
    reached = values >= np.float32(target)
    return np.where(reached, times, np.inf).min(axis=1)


def quartiles(samples: Float[np.ndarray, " seeds"]) -> Quartiles:
    """Quartiles of numbers of samples, of which some may be infinite."""
    ordered = np.sort(samples)

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
        return float(low if low == high else low + (high - low) * (place % 1.0))

    return Quartiles(at(0.25), at(0.5), at(0.75))


def top_value(table: Float[np.ndarray, " m"], share: float = TOP_SHARE) -> float:
    """The value that the best `share` of a table's architectures reach, at least one of them."""
    return float(np.sort(table)[::-1][max(int(len(table) * share), 1) - 1])


def regret(values: Values, optimum: float) -> Float[np.ndarray, "seeds budget"]:
    """What the best of each search falls short of the optimum after each sample."""
    best = np.maximum.accumulate(np.where(np.isnan(values), -np.inf, values), axis=1)
    return np.float32(optimum) - best


def bootstrap(numbers: Float[np.ndarray, " seeds"], confidence: float = 0.95, seed: int = 0) -> Interval:
    """The mean with its percentile bootstrap interval over searches."""
    rows = np.random.default_rng(seed).integers(0, len(numbers), (RESAMPLES, len(numbers)))
    low, high = np.quantile(numbers[rows].mean(axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(numbers.mean()), float(low), float(high))


def random_samples(m: int, good: int, share: float = 0.5) -> int:
    """After how many draws without repetition the given share of random searches has met a good architecture.

    Args:
      m: architectures in the table.
      good: those among them that count.
      share: 0.5 gives the median.
    """
    draws: Int[np.ndarray, " draws"] = np.arange(m - good + 1)
    missed = special.gammaln(m - good + 1) - special.gammaln(m - good - draws + 1)
    missed = missed - special.gammaln(m + 1) + special.gammaln(m - draws + 1)
    return int(np.searchsorted(-missed, -math.log(1 - share) - 1e-9))
