"""Rank correlation of two columns: Spearman's rho and Kendall's tau-b, with bootstrap intervals.

Both depend on order only: 1 for the same order, -1 for the reverse order. Tau-b is the fraction of concordant pairs
minus the fraction of discordant pairs, corrected for ties. Intervals are percentiles over resampled networks. They
measure the variation between samples of networks of the same size, not between trainings of the same networks.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

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
      networks: number of networks with a number in both columns.
      missing: number of networks without one, which are left out.
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
    rows = np.random.default_rng(seed).integers(0, len(x), (resamples, len(x)))
    drawn = np.array([_coefficients(x[row], y[row]) for row in rows if not (_constant(x[row]) or _constant(y[row]))])
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    spearman, kendall = map(Coefficient._make, zip(_coefficients(x, y), low.tolist(), high.tolist(), strict=True))
    return RankCorrelation(spearman, kendall, len(x), missing, len(drawn))


def _coefficients(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Returns Spearman's rho and Kendall's tau-b."""
    kendall = stats.kendalltau(x, y, method="asymptotic")  # `method` affects only the p-value; this is the fastest
    return float(stats.spearmanr(x, y).statistic), float(kendall.statistic)


def _constant(column: Float[np.ndarray, " n"]) -> bool:
    return bool((column == column[0]).all())
