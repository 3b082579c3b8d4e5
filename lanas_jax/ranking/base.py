"""The interface between an experiment and `lanas rank`: estimates of values, and the evaluator of the true values.

In addition to `Config` and `build`, the experiment file defines a frozen dataclass ``Rank`` of settings and a function
``rank(config, settings, directory) -> Ranking``, where ``directory`` is the folder of the run with its trained
supernets.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from lanas_jax.evaluators.base import Evaluator
from lanas_jax.evaluators.few_shot import FewShot
from lanas_jax.evaluators.one_shot import OneShot
from lanas_jax.storage.plain import shown
from lanas_jax.study import discovery
from lanas_jax.study.discovery import ExperimentError

TRUTH = "truth"
RESERVED = ("code", TRUTH, "seconds")  # columns of ranking.csv


class RankingError(Exception):
    """The requested ranking is impossible."""


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The evaluators of a ranking.

    Attributes:
      estimates: evaluators by name, such as one-shot and few-shot; the sample is stratified by the first.
      truth: evaluator that trains from scratch, the reference for the estimates.

    Raises:
      ValueError: there is no estimate, or the name of an estimate is empty or a reserved column of ranking.csv.
    """

    estimates: Mapping[str, Evaluator]
    truth: Evaluator

    def __post_init__(self) -> None:
        if not self.estimates:
            raise ValueError("a ranking needs at least one estimate")
        if taken := [name for name in self.estimates if not name or name in RESERVED]:
            raise ValueError(f"an estimate is named {taken[0]!r}; choose a name other than {', '.join(RESERVED)}")


def supernet_estimates(one_shot: OneShot, few_shot: Callable[[OneShot], FewShot]) -> dict[str, Evaluator]:
    """Returns one-shot and few-shot evaluators, each with batch statistics per code and with running statistics.

    Args:
      one_shot: evaluator by one supernet, which measures the batch statistics of each code.
      few_shot: function that returns the evaluator by its sub-supernets.
    """
    running = dataclasses.replace(one_shot, recalibration=0)
    return {
        "one-shot": one_shot,
        "few-shot": few_shot(one_shot),
        "one-shot, running statistics": running,
        "few-shot, running statistics": few_shot(running),
    }


def check_offered(module: ModuleType) -> None:
    """Checks that an experiment offers a ranking.

    Raises:
      ExperimentError: the experiment file lacks a definition; the message names it.
    """
    if missing := discovery.missing(module, "Rank", "rank(config, settings, directory)"):
        raise ExperimentError(
            f"{discovery.file_of(module)} offers no ranking: it has no {' and no '.join(missing)}. A run uses the copy "
            f"of the file saved at its start; to use a newer file, start a new search"
        )


def ranking_of(module: ModuleType, config: Any, settings: Any, directory: Path) -> Ranking:
    """Calls the experiment's `rank` and returns its ranking.

    Raises:
      ExperimentError: `rank` raised an exception or did not return a `Ranking`.
    """
    found = discovery.call_experiment(module, "rank(...)", config, settings, directory)
    if not isinstance(found, Ranking):
        raise ExperimentError(f"{discovery.file_of(module)}: rank(...) returned {shown(found)}; expected a Ranking")
    return found
