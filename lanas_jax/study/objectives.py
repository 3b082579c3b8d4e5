"""The objectives of a study with several: their values of a trial, the front of all trials, and its knee.

An objective is the value that the evaluator returns, called ``accuracy`` or ``value``; a cost that is part of each
outcome, ``multiply_adds`` or ``parameters``; the ``latency`` of a space with a latency table, in milliseconds per
batch; or an outcome that the evaluator reports besides the value (`Outcome.outcomes`), with a minus in front of its
name if less of it is better. All are maximised inside, so a cost is its negative there.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lanas_jax.evaluators.base import Outcome, declared_outcomes
from lanas_jax.searchers.dominance import front_rows
from lanas_jax.searchers.objectives import LATENCY, check_objectives, is_cost, quantity
from lanas_jax.spaces.base import Cost, SearchSpace
from lanas_jax.storage.plain import LARGEST_VALUE
from lanas_jax.storage.trial import Trial, best

VALUES = ("accuracy", "value")  # names of the value that an evaluator returns
NAMES = (*VALUES, *Cost._fields)  # objectives that every study may have


def check_study_objectives(names: Sequence[str], searcher: Any, evaluator: Any) -> tuple[str, ...]:
    """Returns the names of a study's objectives, checked against its searcher; empty for a study with one.

    Raises:
      ValueError: a name is unknown or given twice, there are more than four, a value or a cost of the space has a
        minus, or the searcher searches others.
    """
    expected = getattr(searcher, "objectives", None)
    checked = check_objectives(names) if names else ()
    known = [*NAMES, *declared_outcomes(evaluator)]
    known += [LATENCY] * (LATENCY in searcher.space.cost_names and LATENCY not in known)
    unknown = [name for name in checked if quantity(name) not in known]
    if unknown:
        remedy = "; latency needs a space with a latency table" * (quantity(unknown[0]) == LATENCY)
        raise ValueError(f"there is no objective {unknown[0]!r}; choose from {', '.join(known)}{remedy}")
    if wrong := [name for name in checked if name.startswith("-") and quantity(name) in VALUES]:
        raise ValueError(f"the value of an evaluator is maximised; leave out the minus of {wrong[0]}")
    if set(VALUES) <= set(checked):
        raise ValueError("accuracy and value are the same objective; give one of them")
    if "accuracy" in checked and getattr(evaluator, "measure", "accuracy") != "accuracy":
        raise ValueError("the value of this evaluator is a negative loss, no accuracy: call it value")
    kind = type(searcher).__name__
    if isinstance(expected, tuple) and expected != checked:
        raise ValueError(
            f"{kind} searches the objectives {', '.join(expected)}, but the experiment has "
            f"{', '.join(checked) or 'none'}: give both the same"
        )
    if isinstance(expected, int) and expected != max(len(checked), 1):
        raise ValueError(f"{kind}(objectives={expected}) does not fit {len(checked)} objectives of the experiment")
    if expected is None and checked:
        raise ValueError(f"{kind} searches one objective; use ParetoLaNAS, NSGA2 or RandomSearch for {len(checked)}")
    return checked


def stored_outcomes(names: Sequence[str], evaluator: Any) -> tuple[str, ...]:
    """Returns the names of the outcomes that the trials of a study have besides their value and the costs of `Cost`."""
    declared = declared_outcomes(evaluator)
    return (*declared, LATENCY) if LATENCY in names and LATENCY not in declared else declared


def reported(trial: Trial | Outcome, name: str) -> float | None:
    """Returns an objective of a trial as it is shown: costs are positive. None if the trial lacks it."""
    name = quantity(name)
    if name in VALUES:
        found = trial.value
    else:
        found = getattr(trial, name) if name in Cost._fields else trial.outcomes.get(name)
    return None if found is None else float(found)


def objectives_of(trial: Trial | Outcome, names: Sequence[str]) -> tuple[float | None, ...]:
    """Returns the objectives of a trial, costs as their negatives; None for those that it lacks."""
    found = [(name, reported(trial, name)) for name in names]
    return tuple(None if number is None else -number if is_cost(name) else number for name, number in found)


def with_all_objectives(
    outcomes: Sequence[Outcome], codes: Int[np.ndarray, "n dims"], names: Sequence[str], space: SearchSpace
) -> list[Outcome]:
    """Returns outcomes with the latencies of their codes, as failures with their reason if they lack an objective.

    Args:
      outcomes: outcomes of trials.
      codes: codes of the trials.
      names: names of the objectives of their study.
      space: search space.
    """
    found = list(outcomes)
    if LATENCY in names and LATENCY in space.cost_names:
        latencies = space.known_costs(codes)[:, space.cost_names.index(LATENCY)].tolist()
        found = [
            dataclasses.replace(outcome, outcomes={**outcome.outcomes, LATENCY: latency})
            for outcome, latency in zip(found, latencies, strict=True)
        ]
    reasons = [_lacks(outcome, names) for outcome in found]
    return [
        outcome if reason is None else dataclasses.replace(outcome, value=None, reason=reason)
        for outcome, reason in zip(found, reasons, strict=True)
    ]


def _lacks(outcome: Outcome, names: Sequence[str]) -> str | None:
    """Returns why an outcome has no value of an objective; None if it failed anyway or has all."""
    for name in () if outcome.failed else names:
        number = reported(outcome, name)
        if number is None:
            return f"the evaluator reports no {quantity(name)}"
        if name not in VALUES and not abs(number) <= LARGEST_VALUE:  # NaN too
            return f"the {quantity(name)} is {number:g}"
    return None


def values_to_tell(trials: Sequence[Trial], names: Sequence[str] = ()) -> Float[np.ndarray, "n ..."]:
    """Returns the values of finished trials for the searcher's `tell`, NaN for failed ones.

    float32[n], or float32[n, k] for k objectives.
    """
    rows = [objectives_of(trial, names or VALUES[:1]) for trial in trials]
    told = [
        [np.nan if trial.value is None or x is None else x for x in row]
        for trial, row in zip(trials, rows, strict=True)
    ]
    values = np.array(told, np.float32).reshape(len(trials), max(len(names), 1))
    return values if names else values[:, 0]


def front(trials: Iterable[Trial], names: Sequence[str]) -> list[Trial]:
    """Returns the trials that no other beats in every objective, in descending order of the first objective.

    Of trials with equal objectives, the earliest is on the front.
    """
    done = [trial for trial in trials if trial.value is not None]
    points: dict[tuple[float | None, ...], Trial] = {}
    for trial in sorted(done, key=lambda trial: trial.id):
        points.setdefault(objectives_of(trial, names), trial)
    values = np.array(list(points), np.float64).reshape(len(points), len(names))
    found = [trial for trial, best in zip(points.values(), front_rows(values), strict=True) if best]
    return sorted(found, key=lambda trial: (-(objectives_of(trial, names)[0] or 0.0), trial.id))


def knee(members: Sequence[Trial], names: Sequence[str]) -> Trial | None:
    """Returns the trial of a front that is farthest beyond the plane through its extremes; None for an empty front.

    It has the highest sum of objectives, each scaled to [0, 1] over the front.
    """
    if not members:
        return None
    values = np.array([objectives_of(trial, names) for trial in members], np.float64)
    extent = values.max(axis=0) - values.min(axis=0)
    scaled = (values - values.min(axis=0)) / np.where(extent > 0, extent, 1.0)
    return members[int(np.argmax(scaled.sum(axis=1)))]


def winner_among(trials: Iterable[Trial], names: Sequence[str]) -> Trial | None:
    """Returns the winner of a study: the knee of its front, or with one objective the trial of the highest value."""
    trials = list(trials)
    return knee(front(trials, names), names) if names else best(trials)


def pick_trial(trials: Sequence[Trial], names: Sequence[str], text: str) -> Trial:
    """Returns the trial that a text such as ``knee``, ``trial 17`` or ``multiply_adds<=3e8`` means.

    A condition picks, of the trials on the front that meet it, the one with the highest value, or the highest first
    objective if the value is none of them.

    Args:
      trials: trials of a study.
      names: its objectives; empty for the evaluator's value alone.
      text: the pick, such as ``knee``, ``trial 17`` or ``multiply_adds<=3e8``.

    Raises:
      ValueError: the text is none of these, names another objective, or no trial meets it; names the nearest that does.
    """
    names = tuple(names) or VALUES[:1]
    members = front(trials, names)
    if not members:
        raise ValueError("no trial has succeeded yet")
    if text.strip() == "knee":
        return knee(members, names) or members[0]
    if found := re.fullmatch(r"\s*trial\s+(\d+)\s*", text):
        trial = next((trial for trial in trials if trial.id == int(found[1])), None)
        if trial is None or trial.value is None:
            there = "has no value" if trial else f"does not exist: there are {len(trials)}"
            raise ValueError(f"trial {found[1]} {there}; those on the front are {_listed(members)}")
        return trial
    found = re.fullmatch(r"\s*([\w-]+)\s*(<=|>=)\s*(\S+)\s*", text)
    limit = _number(found[3]) if found else None
    if found is None or limit is None:
        raise ValueError(f"pick must be such as knee, 'trial 17' or 'multiply_adds<=3e8'; got {text!r}")
    name, known = found[1].replace("-", "_"), (*NAMES, *members[0].outcomes)
    if name not in known:
        raise ValueError(f"there is no objective {name!r} to pick by; choose from {', '.join(known)}")
    numbers = [reported(trial, name) for trial in members]
    sign = 1 if found[2] == ">=" else -1
    meeting = [trial for trial, x in zip(members, numbers, strict=True) if x is not None and sign * (x - limit) >= 0]
    if meeting:
        if not set(names) & set(VALUES):
            return meeting[0]
        return max(meeting, key=lambda trial: -math.inf if trial.value is None else trial.value)
    measured = [(sign * x, trial, x) for trial, x in zip(members, numbers, strict=True) if x is not None]
    if not measured:
        raise ValueError(f"the trials of this run have no {name}")
    _, nearest, number = max(measured, key=lambda one: one[0])
    raise ValueError(f"no trial on the front has {text.strip()}; the nearest is trial {nearest.id} with {number:,.6g}")


def _listed(members: Sequence[Trial]) -> str:
    return ", ".join(str(trial.id) for trial in members)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
