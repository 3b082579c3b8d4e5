"""Other people's searchers, run as they are on a benchmark: Optuna's multivariate TPE and SMAC3.

They are told what each choice is (categories, or a scale of integers where its options are one) and left alone. An
architecture proposed twice is answered from the table and not counted again; one that may not be built is reported as
failed and not counted. Both are in the extra `peers`.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import logging
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from lanas_jax.spaces.base import Choice, SearchSpace
from lanas_jax.tables.base import Table

NAMES = ("tpe", "smac")
PROPOSALS = 20  # per sample counted: a searcher that repeats itself more often than this has stopped searching


class MissingPeerError(Exception):
    """A package that is not installed."""


class PeerSearch(NamedTuple):
    """What one search tried, and what one sample took."""

    values: Float[np.ndarray, " budget"]  # NaN after the search ended
    winner: tuple[int, ...]
    seconds: float  # of a processor core, per sample


def require(name: str) -> None:
    """Makes sure that a peer is installed.

    Raises:
      MissingPeerError: it is not; names the extra.
    """
    package = {"tpe": "optuna", "smac": "smac"}[name]
    if importlib.util.find_spec(package) is None:
        raise MissingPeerError(f"{name} needs {package}, which is not installed: pip install 'lanas-jax[peers]'")


@dataclasses.dataclass
class Answers:
    """A benchmark as a peer sees it: asked for an architecture, it answers with a value, and counts what is new.

    Attributes:
      space: what may be asked for.
      known: the value of each canonical code.
      budget: architectures that count.
      values: of those so far.
      winner: the best of them.
      asked: how often it was asked.
    """

    space: SearchSpace
    known: dict[tuple[int, ...], float]
    budget: int
    values: list[float] = dataclasses.field(default_factory=list)
    winner: tuple[int, ...] = ()
    asked: int = 0
    _seen: set[tuple[int, ...]] = dataclasses.field(default_factory=set)

    @classmethod
    def of(cls, table: Table, budget: int) -> "Answers":
        """The answers of a table."""
        codes, values = np.asarray(table.codes).tolist(), np.asarray(table.values).tolist()
        return cls(table.space, dict(zip(map(tuple, codes), values, strict=True)), budget)

    @functools.cached_property
    def optimum(self) -> float:
        """The highest value there is."""
        return max(self.known.values())

    def value(self, code: list[int]) -> float | None:
        """The value of an architecture; None where there is none."""
        self.asked += 1
        key = tuple(code)
        if type(self.space).canonical is not SearchSpace.canonical:
            key = tuple(np.asarray(self.space.canonical(np.array([code], np.int32)))[0].tolist())
        value = self.known.get(key)
        if value is not None and key not in self._seen:
            if value > max(self.values, default=-np.inf):
                self.winner = key
            self._seen.add(key)
            self.values.append(value)
        return value

    @property
    def over(self) -> bool:
        """Whether the budget is used up, the optimum was found, or the searcher only repeats itself."""
        if len(self.values) >= self.budget or self.asked >= PROPOSALS * self.budget:
            return True
        return bool(self.values) and self.values[-1] >= self.optimum

    def padded(self) -> Float[np.ndarray, " budget"]:
        """The values tried; once the optimum is found, nothing better can follow, so it stands to the end."""
        rest = self.optimum if self.values and max(self.values) >= self.optimum else np.nan
        return np.array(self.values + [rest] * (self.budget - len(self.values)), np.float32)


def search_by_peer(name: str, answers: Answers, seed: int) -> PeerSearch:
    """One search by a peer, in this process, up to the optimum or the budget.

    Args:
      name: one of `NAMES`.
      answers: the benchmark, not asked yet; it is used up.
      seed: of the peer.
    """
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's code
        {"tpe": _tpe, "smac": _smac}[name](answers, seed)
    seconds = (time.process_time() - start) / max(len(answers.values), 1)
    return PeerSearch(answers.padded(), answers.winner, seconds)


def _tpe(answers: Answers, seed: int) -> None:
    """Optuna's tree-structured Parzen estimator with multivariate kernels, all other settings its own."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(multivariate=True, seed=seed))
    distributions = {choice.name: optuna_distribution(choice, optuna) for choice in answers.space.choices}
    while not answers.over:
        trial = study.ask(distributions)
        value = answers.value([trial.params[choice.name] for choice in answers.space.choices])
        if value is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, value)


def optuna_distribution(choice: Choice, optuna: Any) -> Any:
    """A choice as Optuna knows them: categories, or integers where the options are a scale."""
    n = len(choice.options)
    if choice.ordered:
        return optuna.distributions.IntDistribution(0, n - 1)
    return optuna.distributions.CategoricalDistribution(range(n))


def _smac(answers: Answers, seed: int) -> None:
    """SMAC3's facade for hyper-parameter optimisation (random forest, log expected improvement), settings its own."""
    from ConfigSpace import CategoricalHyperparameter, ConfigurationSpace, OrdinalHyperparameter
    from smac import HyperparameterOptimizationFacade, Scenario
    from smac.main.exceptions import ConfigurationSpaceExhaustedException
    from smac.runhistory.dataclasses import TrialValue
    from smac.runhistory.enumerations import StatusType

    space = ConfigurationSpace(seed=seed)
    for choice in answers.space.choices:
        kind = OrdinalHyperparameter if choice.ordered else CategoricalHyperparameter
        space.add(kind(choice.name, list(range(len(choice.options)))))
    with tempfile.TemporaryDirectory() as folder, _quiet():
        # Of its trials SMAC3 may spend a quarter on its initial design; repetitions, not counted, come on top of them.
        scenario = Scenario(
            space, deterministic=True, n_trials=PROPOSALS * answers.budget, seed=seed, output_directory=Path(folder)
        )
        design = min(10 * answers.space.dims, max(answers.budget // 4, 1))
        initial = HyperparameterOptimizationFacade.get_initial_design(scenario, n_configs=design)
        smac = HyperparameterOptimizationFacade(
            scenario, lambda config, seed=0: 0.0, initial_design=initial, logging_level=False, overwrite=True
        )
        while not answers.over:
            try:
                info = smac.ask()
            except (StopIteration, ConfigurationSpaceExhaustedException):  # nothing new comes to its mind
                break
            value = answers.value([int(info.config[choice.name]) for choice in answers.space.choices])
            status = StatusType.CRASHED if value is None else StatusType.SUCCESS
            smac.tell(info, TrialValue(cost=1.0 if value is None else -value, status=status), save=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)
