"""Rank correlation of two columns: Spearman's rho and Kendall's tau-b, with bootstrap intervals.

Both depend on order only: 1 for the same order, -1 for the reverse order. Tau-b is the fraction of concordant pairs
minus the fraction of discordant pairs, corrected for ties. Intervals are percentiles over resampled networks. They
measure the variation between samples of networks of the same size, not between trainings of the same networks.
"""

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

RESAMPLES = 2000
FEWEST = 3  # smallest number of networks with a defined coefficient


class Coefficient(NamedTuple):
    """A coefficient and its bootstrap interval; NaN if undefined."""

    value: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """The coefficient and its interval as text, for tables."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})" if math.isfinite(self.value) else "undefined"


class RankCorrelation(NamedTuple):
    """The rank correlation of two columns over the same networks.

    Attributes:
      spearman: Spearman's rho.
      kendall: Kendall's tau-b.
      networks: number of networks with a value in both columns.
      missing: number of networks that lack a value and are left out.
      resamples: number of bootstrap resamples of the intervals, without those in which a column is constant.
    """

    spearman: Coefficient
    kendall: Coefficient
    networks: int
    missing: int
    resamples: int


def rank_correlation(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> RankCorrelation:
    """Computes Spearman's and Kendall's coefficients of two columns.

    Args:
      x: first column, a number per network; NaN: missing.
      y: second column, a number per network; NaN: missing.
      confidence: confidence level of the intervals.
      resamples: number of bootstrap resamples, each drawn with replacement.
      seed: random seed of the resamples.

    Returns:
      The coefficients; NaN if fewer than three networks have both numbers or a column is constant.
    """
    known = ~(np.isnan(x) | np.isnan(y))
    missing = int((~known).sum())
    x, y = x[known], y[known]
    if len(x) < FEWEST or _constant(x) or _constant(y):
        undefined = Coefficient(np.nan, np.nan, np.nan)
        return RankCorrelation(undefined, undefined, len(x), missing, 0)
    spearman, n_defined = _coefficient(_spearman, x, y, confidence, resamples, seed)
    kendall, _ = _coefficient(_kendall, x, y, confidence, resamples, seed)  # the same resamples
    return RankCorrelation(spearman, kendall, len(x), missing, n_defined)


def _coefficient(
    statistic: Callable[..., float],
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[Coefficient, int]:
    """Returns a coefficient with its interval, and the number of resamples in which it is defined."""
    from scipy import stats  # takes a second to import

    with warnings.catch_warnings():  # resamples without a coefficient warn; they are left out below
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        drawn = stats.bootstrap(
            (x, y), statistic, n_resamples=resamples, paired=True, vectorized=False, method="percentile", rng=seed
        ).bootstrap_distribution
    defined = drawn[~np.isnan(drawn)]
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Coefficient(statistic(x, y), float(low), float(high)), len(defined)


def _spearman(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Returns Spearman's rho; NaN if a column is constant."""
    from scipy import stats

    return np.nan if _constant(x) or _constant(y) else float(stats.spearmanr(x, y).statistic)


def _kendall(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Returns Kendall's tau-b; NaN if a column is constant."""
    from scipy import stats

    if _constant(x) or _constant(y):
        return np.nan
    # `method` affects only the p-value; this is the fastest
    return float(stats.kendalltau(x, y, method="asymptotic").statistic)


def _constant(column: Float[np.ndarray, " n"]) -> bool:
    return bool((column == column[0]).all())
