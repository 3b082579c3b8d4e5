"""The report's section on hard cost limits: how close the proposals of a search come to each."""

from collections.abc import Sequence

import numpy as np

from lanas_jax.report import curves, formatting, plots
from lanas_jax.report.elements import Element, element
from lanas_jax.report.formatting import ValueFormat
from lanas_jax.spaces.base import LimitedCost, SearchSpace
from lanas_jax.storage.trial import Trial


def section(space: SearchSpace, trials: Sequence[Trial], show: ValueFormat) -> list[Element]:
    """Returns a sentence and a plot per limited cost; nothing if the space has no limit or there are no proposals.

    The costs are the space's own, for all proposals of any status.
    """
    if not trials:
        return []
    limited = space.limited(np.array([trial.code for trial in trials], np.int32))
    if not limited:
        return []
    sentences = [element("p", sentence(cost), class_="quiet") for cost in limited]
    done = {trial.id for trial in curves.done(trials)}
    valued = [i for i, trial in enumerate(trials) if trial.id in done]
    return [element("h2", "Hard limits"), *sentences, *_figures(limited, trials, valued, show)]


def sentence(cost: LimitedCost) -> str:
    """Returns a sentence on how many proposals exceed the limit and how close the others come to it."""
    above = int((cost.costs > cost.limit).sum())
    number = f"{above} are" if above > 1 else f"{above or 'none'} is"
    shares = cost.costs / cost.limit
    return (
        f"At most {cost.limit:,} {cost.name}: of {formatting.plural(len(cost.costs), 'network')} proposed, "
        f"{number} above. The largest has {_percent(float(shares.max()))} of it, "
        f"the median {_percent(float(np.median(shares)))}."
    )


def _figures(
    limited: Sequence[LimitedCost], trials: Sequence[Trial], valued: Sequence[int], show: ValueFormat
) -> list[Element]:
    if not valued:
        return []
    values = np.array([trials[i].value for i in valued], float)
    figures = [
        element(
            "figure",
            plots.value_against_limit(cost.costs[list(valued)], values, cost.limit, cost.name, show),
            element("figcaption", f"Value against {cost.name}; the line is the limit."),
        )
        for cost in limited
    ]
    return [element("div", *figures, class_="plots")]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}{formatting.SPACE}%"
