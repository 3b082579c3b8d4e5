"""The data behind the plots: running best, bands of several runs, elapsed seconds.

Plain functions of arrays and trials; `plots` draws them.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lanas_jax.storage.trial import Status, Trial


class EpochCurves(NamedTuple):
    """Accuracies of a supernet's subnetworks after epochs of its training."""

    epochs: Float[np.ndarray, " n"]
    accuracies: Mapping[str, Float[np.ndarray, " n"]]  # by the name of the subnetwork, in [0, 1]


def done(trials: Sequence[Trial]) -> list[Trial]:
    """Returns the trials with a value, in order of trial number."""
    return sorted((t for t in trials if t.status == Status.DONE and t.value is not None), key=lambda t: t.id)


def running_best(values: Sequence[float]) -> list[float]:
    """Returns the largest value so far, after each trial."""
    return list(itertools.accumulate(values, max))


def seconds_after(trials: Sequence[Trial]) -> dict[int, float]:
    """Returns the seconds spent on trials up to the end of each finished one, by trial number.

    Compile and train seconds are summed in order of trial number. They are shares of the time of their batch, so the
    sum is the time that the search spent on candidates, without pauses between a kill and a resume.
    """
    total = 0.0
    after = {}
    for trial in sorted(trials, key=lambda t: t.id):
        if trial.status != Status.PENDING:
            total += (trial.compile_seconds or 0.0) + (trial.train_seconds or 0.0)
            after[trial.id] = total
    return after


class Band(NamedTuple):
    """The best values of several runs as step functions: mean, lowest and highest value from each place on."""

    x: Float[np.ndarray, " n"]
    mean: Float[np.ndarray, " n"]
    low: Float[np.ndarray, " n"]
    high: Float[np.ndarray, " n"]


def band_by_trial(runs: Sequence[Float[np.ndarray, " _"]]) -> Band:
    """Returns the band against the number of finished trials, as long as the shortest run.

    Args:
      runs: best value after each finished trial of each run; NaN before its first value.
    """
    length = min(map(len, runs), default=0)
    return _band(np.arange(1.0, length + 1), np.array([run[:length] for run in runs]).reshape(len(runs), length))


def band_by_time(runs: Sequence[tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]]) -> Band:
    """Returns the band against time, as long as the shortest run.

    Args:
      runs: end of each finished trial of each run, ascending, and the best value at that time.
    """
    if not all(len(times) for times, _ in runs):
        return _band(np.zeros(0), np.zeros((len(runs), 0)))
    first, last = max(times[0] for times, _ in runs), min(times[-1] for times, _ in runs)
    ends = np.unique(np.concatenate([times for times, _ in runs]))
    x = ends[(ends >= first) & (ends <= last)]
    return _band(x, np.array([best[np.searchsorted(times, x, side="right") - 1] for times, best in runs]))


def _band(x: Float[np.ndarray, " n"], best: Float[np.ndarray, "runs n"]) -> Band:
    """Returns the band of the places at which all runs have a value."""
    known = ~np.isnan(best).any(axis=0)
    best = best[:, known]
    return Band(x[known], best.mean(axis=0), best.min(axis=0, initial=np.inf), best.max(axis=0, initial=-np.inf))


def axis_floor(values: Sequence[float] | Float[np.ndarray, " n"]) -> float:
    """Returns the lowest value to show on an axis.

    A few candidates that hardly learned would compress all others into a line. Values are left out if they are below
    the lower quartile by more than twice the distance from there to the best value.
    """
    quartile, high = np.quantile(np.asarray(values), [0.25, 1.0])
    limit = quartile - 2.0 * (high - quartile) if high > quartile else -np.inf
    return min(value for value in values if value >= limit)
