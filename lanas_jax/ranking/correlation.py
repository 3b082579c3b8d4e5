"""How well one column of numbers ranks another: Spearman's rho and Kendall's tau-b, with bootstrap intervals.

Both count order alone, and give 1 to the same order and -1 to the reverse. Tau-b is the share of pairs in the same
order minus that of pairs in opposite order, corrected for ties. Intervals are percentiles over resampled networks: they
say how much another sample of as many networks could differ, not how much another training of the same ones could.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

RESAMPLES = 2000
FEWEST = 3  # networks for which an order means anything


class Coefficient(NamedTuple):
    """A coefficient and its bootstrap interval; NaN where it is not defined."""

    value: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """As tables show it."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})" if math.isfinite(self.value) else "undefined"


class RankCorrelation(NamedTuple):
    """How two columns rank the same networks.

    Attributes:
      spearman: the correlation of ranks.
      kendall: tau-b.
      networks: those counted, which have a number in both columns.
      missing: those left out.
      resamples: on which the intervals rest; those in which a column is constant have no coefficient and are left out.
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
    """Spearman's and Kendall's coefficients of two columns.

    Args:
      x: a number per network; NaN: there is none.
      y: the same.
      confidence: of the intervals.
      resamples: draws of as many networks, with repetition.
      seed: of the draws.

    Returns:
      Coefficients; NaN where fewer than three networks have both numbers, or a column is constant.
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
    """Spearman's and Kendall's."""
    kendall = stats.kendalltau(x, y, method="asymptotic")  # the method is that of the p-value: the quickest one
    return float(stats.spearmanr(x, y).statistic), float(kendall.statistic)


def _constant(column: Float[np.ndarray, " n"]) -> bool:
    return bool((column == column[0]).all())
