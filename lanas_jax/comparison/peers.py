"""Other people's searchers, run as they are on a benchmark: Optuna's multivariate TPE and SMAC3.

They are told what each choice is (categories, or a scale of integers where its options are one) and left alone. An
architecture proposed twice is answered from the table and not counted again; one that may not be built is reported as
failed and not counted. Both are in the extra `peers`.
"""

import contextlib
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lanas_jax.spaces.base import SearchSpace
from lanas_jax.tables.base import Table

NAMES = ("tpe", "smac")
PROPOSALS = 20  # per sample counted: a searcher that repeats itself more often than this has stopped searching


class MissingPeerError(Exception):
    """A package that is not installed."""


class PeerSearch(NamedTuple):
    """What one search tried, and how long one sample took."""

    values: Float[np.ndarray, " budget"]  # NaN after the search ended
    seconds_per_sample: float  # of a processor


class Answers:
    """A benchmark as a peer sees it: asked for an architecture, it answers with a value, and counts what is new."""

    def __init__(self, table: Table, budget: int):
        self.space, self.budget = table.space, budget
        self.values: list[float] = []
        self._optimum = table.best
        self._known = dict(zip(map(tuple, np.asarray(table.codes).tolist()), np.asarray(table.values), strict=True))
        self._plain = type(self.space).canonical is SearchSpace.canonical
        self._seen: set[tuple[int, ...]] = set()
        self._asked = 0

    def value(self, code: list[int]) -> float | None:
        """The value of an architecture; None where there is none."""
        self._asked += 1
        key = tuple(code) if self._plain else tuple(np.asarray(self.space.canonical(np.array([code], np.int32)))[0])
        value = self._known.get(key)
        if value is not None and key not in self._seen:
            self._seen.add(key)
            self.values.append(float(value))
        return None if value is None else float(value)

    @property
    def over(self) -> bool:
        """Whether the budget is used up, the optimum was found, or the searcher only repeats itself."""
        if len(self.values) >= self.budget or self._asked >= PROPOSALS * self.budget:
            return True
        return bool(self.values) and self.values[-1] >= self._optimum

    def padded(self) -> Float[np.ndarray, " budget"]:
        """The values tried; once the optimum is found, nothing better can follow, so it stands to the end."""
        rest = self._optimum if self.values and max(self.values) >= self._optimum else np.nan
        return np.array(self.values + [rest] * (self.budget - len(self.values)), np.float32)


def search(name: str, table: Table, budget: int, seed: int) -> PeerSearch:
    """One search by a peer, in this process, up to the optimum or the budget.

    Raises:
      MissingPeerError: the package is not installed; names the extra.
    """
    answers = Answers(table, budget)
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's code
        try:
            {"tpe": _tpe, "smac": _smac}[name](answers, seed)
        except ImportError as error:
            raise MissingPeerError(f"{name} needs a package that is missing: pip install 'lanas-jax[peers]'") from error
    return PeerSearch(answers.padded(), (time.process_time() - start) / max(len(answers.values), 1))


def _tpe(answers: Answers, seed: int) -> None:
    """Optuna's tree-structured Parzen estimator with multivariate kernels, all other settings its own."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(multivariate=True, seed=seed))
    distributions = {choice.name: _optuna_distribution(choice, optuna) for choice in answers.space.choices}
    while not answers.over:
        trial = study.ask(distributions)
        value = answers.value([trial.params[choice.name] for choice in answers.space.choices])
        if value is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, value)


def _optuna_distribution(choice: Any, optuna: Any) -> Any:
    n = len(choice.options)
    if choice.ordered:
        return optuna.distributions.IntDistribution(0, n - 1)
    return optuna.distributions.CategoricalDistribution(range(n))


def _smac(answers: Answers, seed: int) -> None:
    """SMAC3's facade for hyper-parameter optimisation (random forest, log expected improvement), settings its own."""
    from ConfigSpace import CategoricalHyperparameter, ConfigurationSpace, OrdinalHyperparameter
    from smac import HyperparameterOptimizationFacade, Scenario
    from smac.runhistory.dataclasses import TrialValue
    from smac.runhistory.enumerations import StatusType

    space = ConfigurationSpace(seed=seed)
    for choice in answers.space.choices:
        kind = OrdinalHyperparameter if choice.ordered else CategoricalHyperparameter
        space.add(kind(choice.name, list(range(len(choice.options)))))
    with tempfile.TemporaryDirectory() as folder, _quiet():
        scenario = Scenario(
            space, deterministic=True, n_trials=PROPOSALS * answers.budget, seed=seed, output_directory=folder
        )
        # The initial design is sized for the budget, not for the proposals that repetitions may need.
        design = HyperparameterOptimizationFacade.get_initial_design(
            dataclass_with(scenario, n_trials=answers.budget)
        )
        smac = HyperparameterOptimizationFacade(
            scenario, lambda config, seed=0: 0.0, initial_design=design, logging_level=False, overwrite=True
        )
        while not answers.over:
            info = smac.ask()
            value = answers.value([int(info.config[choice.name]) for choice in answers.space.choices])
            status = StatusType.CRASHED if value is None else StatusType.SUCCESS
            smac.tell(info, TrialValue(cost=1.0 if value is None else -value, status=status), save=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        yield
    finally:
        logging.disable(level)
