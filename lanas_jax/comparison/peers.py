"""Peers, which are searchers of other packages, run unmodified on a benchmark: Optuna's multivariate TPE and SMAC3.

A peer receives each choice as categories, or as a range of integers if its options are a scale; all other settings are
the peer's own. A repeated architecture is answered from the table and not counted again. An invalid architecture is
reported as failed and not counted. Both packages are in the extra `peers`.

A table that is a sample of its space, or what a hard limit leaves of it, has hardly any architecture that a peer would
propose. There, TPE's candidates are untried codes of the table (`_pool_sampler`), and SMAC3 is refused.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import logging
import tempfile
import time
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from lanas_jax.runtime.arithmetic import in_32_bits
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.spaces.choices import Choice
from lanas_jax.tables.base import Table

NAMES = ("tpe", "smac")
CHECKED = 4096  # number of random codes that tell whether a table lacks codes of its space
STARTUP = 10  # number of uniform draws before TPE has a model, its default
PROPOSALS = 20  # maximum proposals per counted sample; a searcher that repeats itself more often has stopped searching


class MissingPeerError(Exception):
    """Raised when the package of a peer is not installed."""


class PeerSearch(NamedTuple):
    """The values and the cost of one search."""

    values: Float[np.ndarray, " budget"]  # NaN after the search ended
    winner: tuple[int, ...]
    seconds: float  # core seconds per sample


def require(name: str) -> None:
    """Checks that the package of a peer is installed.

    Raises:
      MissingPeerError: the package is not installed; the message names the extra.
    """
    package = {"tpe": "optuna", "smac": "smac"}[name]
    if importlib.util.find_spec(package) is None:
        raise MissingPeerError(f"{name} needs {package}, which is not installed: pip install 'lanas-jax[peers]'")


@in_32_bits
def lacks_codes(table: Table) -> bool:
    """Returns whether a table lacks valid codes of its space, judged by `CHECKED` random ones."""
    codes = table.space.random(jax.random.key(0), CHECKED)
    missing = np.isnan(np.asarray(table.lookup(codes))).reshape(CHECKED, -1).any(axis=1)
    return bool(np.any(np.asarray(table.space.valid(codes)) & missing))


def refuse_sample(name: str, table: Table) -> None:
    """Checks that a peer can search a table.

    Raises:
      ValueError: the peer proposes codes of the whole space, of which the table holds few.
    """
    if name == "smac" and lacks_codes(table):
        raise ValueError(
            f"smac proposes codes of the whole space, but the table has only {len(table):,} of {table.space.size:,}: "
            "leave smac out"
        )


@dataclasses.dataclass
class Answers:
    """A benchmark for a peer: returns the value of an architecture and counts the distinct ones.

    Attributes:
      space: search space.
      known: value of each canonical code.
      budget: maximum number of distinct architectures.
      is_sample: True if the table lacks valid codes of the space.
      values: values of the distinct architectures so far.
      winner: best architecture so far.
      asked: number of queries so far, including repetitions.
    """

    space: SearchSpace
    known: dict[tuple[int, ...], float]
    budget: int
    is_sample: bool = False
    values: list[float] = dataclasses.field(default_factory=list)
    winner: tuple[int, ...] = ()
    asked: int = 0
    _seen: set[tuple[int, ...]] = dataclasses.field(default_factory=set)

    @classmethod
    def of(cls, table: Table, budget: int, *, is_sample: bool = False) -> "Answers":
        """Returns the answers of a table; `is_sample` as returned by `lacks_codes`."""
        codes, values = np.asarray(table.codes).tolist(), np.asarray(table.values).tolist()
        return cls(table.space, dict(zip(map(tuple, codes), values, strict=True)), budget, is_sample)

    @functools.cached_property
    def optimum(self) -> float:
        """The highest value of the benchmark."""
        return max(self.known.values())

    def value(self, code: list[int]) -> float | None:
        """Returns the value of an architecture; None if it has none."""
        self.asked += 1
        key = tuple(code)
        if self.space.is_conditional or type(self.space).canonical is not SearchSpace.canonical:
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
        """True if the budget is used up, the optimum was found, or the searcher only repeats itself."""
        if len(self.values) >= self.budget or self.asked >= PROPOSALS * self.budget:
            return True
        return bool(self.values) and self.values[-1] >= self.optimum

    def padded(self) -> Float[np.ndarray, " budget"]:
        """Returns the values tried, padded to the budget: with the optimum if it was found, otherwise with NaN."""
        rest = self.optimum if self.values and max(self.values) >= self.optimum else np.nan
        return np.array(self.values + [rest] * (self.budget - len(self.values)), np.float32)


def search_by_peer(name: str, answers: Answers, seed: int) -> PeerSearch:
    """Runs one search by a peer in this process, up to the optimum or the budget.

    Args:
      name: name of the peer, one of `NAMES`.
      answers: benchmark without any queries yet; modified by the search.
      seed: random seed of the peer.
    """
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of other packages
        {"tpe": _tpe, "smac": _smac}[name](answers, seed)
    seconds = (time.process_time() - start) / max(len(answers.values), 1)
    return PeerSearch(answers.padded(), answers.winner, seconds)


def _tpe(answers: Answers, seed: int) -> None:
    """Runs Optuna's tree-structured Parzen estimator with multivariate kernels and its default settings."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    names = [choice.name for choice in answers.space.choices]
    untried = dict.fromkeys(answers.known)
    sampler = optuna.samplers.TPESampler(multivariate=True, seed=seed)
    if answers.is_sample:
        sampler = _pool_sampler(optuna, names, untried, seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    if answers.is_sample:
        for code in np.random.default_rng(seed).permutation(list(untried))[:STARTUP].tolist():
            study.enqueue_trial(dict(zip(names, code, strict=True)))
    distributions = {choice.name: optuna_distribution(choice, optuna) for choice in answers.space.choices}
    while not answers.over:
        trial = study.ask(distributions)
        code = [trial.params[name] for name in names]
        value = answers.value(code)
        untried.pop(tuple(code), None)
        if value is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, value)


def _pool_sampler(optuna: Any, names: list[str], untried: Collection[tuple[int, ...]], seed: int) -> Any:
    """Returns a TPE sampler that proposes only untried codes of a pool.

    TPE draws candidates from the density of the good trials and proposes the one with the greatest ratio of this
    density to that of the other trials. Here the candidates are drawn from the same density, restricted to the untried
    codes, so a hard limit that the pool meets is a constraint without any infeasible trial.

    Args:
      optuna: the package.
      names: names of the choices.
      untried: codes that may be proposed, which the caller updates.
      seed: random seed.
    """

    class PoolTPE(optuna.samplers.TPESampler):
        def _build_parzen_estimator(self, *arguments: Any, handle_below: bool) -> Any:
            estimator = super()._build_parzen_estimator(*arguments, handle_below=handle_below)

            def candidates(rng: np.random.RandomState, size: int) -> dict[str, np.ndarray]:
                columns = np.array(list(untried), float).T
                density = estimator.log_pdf(dict(zip(names, columns, strict=True)))
                drawn = np.argsort(-density - rng.gumbel(size=len(density)))[:size]
                return dict(zip(names, columns[:, drawn], strict=True))

            if handle_below:
                estimator.sample = candidates
            return estimator

    return PoolTPE(multivariate=True, n_startup_trials=STARTUP, seed=seed)


def optuna_distribution(choice: Choice, optuna: Any) -> Any:
    """Converts a choice to an Optuna distribution: categories, or integers if the options are a scale."""
    n = len(choice.options)
    if choice.is_scale:
        return optuna.distributions.IntDistribution(0, n - 1)
    return optuna.distributions.CategoricalDistribution(range(n))


def _smac(answers: Answers, seed: int) -> None:
    """Runs SMAC3's facade for hyper-parameter optimisation (random forest, log expected improvement), unmodified."""
    from ConfigSpace import CategoricalHyperparameter, ConfigurationSpace, OrdinalHyperparameter
    from smac import HyperparameterOptimizationFacade, Scenario
    from smac.main.exceptions import ConfigurationSpaceExhaustedException
    from smac.runhistory.dataclasses import TrialValue
    from smac.runhistory.enumerations import StatusType

    space = ConfigurationSpace(seed=seed)
    for choice in answers.space.choices:
        kind = OrdinalHyperparameter if choice.is_scale else CategoricalHyperparameter
        space.add(kind(choice.name, list(range(len(choice.options)))))
    with tempfile.TemporaryDirectory() as folder, _quiet():
        # SMAC3 may spend a quarter of the budget on its initial design; n_trials leaves room for uncounted repetitions.
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
            except (StopIteration, ConfigurationSpaceExhaustedException):  # SMAC3 has no new proposal
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
