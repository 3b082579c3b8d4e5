"""What an experiment offers to `lanas rank`: estimates of an architecture's value, and the value they stand for.

Beside `Config` and `build`, its file has a frozen dataclass ``Rank`` of settings and a function
``rank(config, settings, directory) -> Ranking``, where ``directory`` is that of the run, with its trained supernets.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from lanas_jax.evaluators.base import Evaluator
from lanas_jax.study import discovery
from lanas_jax.study.discovery import ExperimentError

TRUTH = "truth"
RESERVED = ("code", TRUTH, "seconds")  # columns of ranking.csv


class RankingError(Exception):
    """A ranking that cannot be carried out as asked."""


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Estimates and the truth.

    Attributes:
      estimates: evaluators by name, such as one-shot and few-shot; the sample is stratified by the first.
      truth: what they are compared with: training from scratch.

    Raises:
      ValueError: no estimate, or one of a name that stands for something else in ranking.csv.
    """

    estimates: Mapping[str, Evaluator]
    truth: Evaluator

    def __post_init__(self) -> None:
        if not self.estimates:
            raise ValueError("a ranking needs at least one estimate")
        if taken := [name for name in self.estimates if not name or name in RESERVED]:
            raise ValueError(f"an estimate is called {taken[0]!r}; it needs a name other than {', '.join(RESERVED)}")


def check_offered(module: ModuleType) -> None:
    """Refuses an experiment that offers no ranking.

    Raises:
      ExperimentError: says what its file lacks.
    """
    if missing := discovery.missing(module, "Rank", "rank(config, settings, directory)"):
        raise ExperimentError(
            f"{module.__file__} offers no ranking: it has no {' and no '.join(missing)}. A run keeps the file it was "
            f"begun with; where a newer one offers a ranking, search again with it"
        )


def ranking_of(module: ModuleType, config: Any, settings: Any, directory: Path) -> Ranking:
    """Calls an experiment's `rank`.

    Raises:
      ExperimentError: it raised, or returned something else than a `Ranking`.
    """
    try:
        found = module.rank(config, settings, directory)
    except Exception as error:
        raise ExperimentError(f"{module.__file__}: rank(...) raised {type(error).__name__}: {error}") from error
    if not isinstance(found, Ranking):
        raise ExperimentError(f"{module.__file__}: rank(...) returned {found!r}, no Ranking")
    return found
