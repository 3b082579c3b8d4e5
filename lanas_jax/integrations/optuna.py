"""LaNAS as a sampler of Optuna 4 and 5 (extra `optuna`).

::

    study = optuna.create_study(sampler=LaNASSampler(seed=0))
    study.optimize(objective, n_trials=100)

Optuna asks for the parameters of one trial at a time and records all trials in its storage. A proposal is a function of
the seed, the number of the trial, and the finished and running trials of the study. The sampler has no other state, so
a study in a database continues as if it had not been interrupted, and several processes can share one study.

- **Search space**: the parameters that all finished trials have with the same distribution (Optuna's intersection
  search space), or those of `search_space`. With ``group=True``, parameters that occur together form groups, and each
  group is searched separately. All other parameters are drawn independently, such as those of a branch that only some
  trials take.
- **First trials**: the first `n_startup_trials` are drawn uniformly, without repetitions.
- **Running trials** count as pending, so that proposals spread out.
- **Failed trials** have no value and are not proposed again. **Pruned trials** have the last value they reported, but
  no better one than the median of the completed trials.
- **Constraints**: trials that violate constraints rank below all others, by the sum of their violations.
- **Grid**: numeric parameters take the values of a grid. Once all combinations were tried, the grid gets twice as many
  intervals. If no parameter can have more values, combinations are repeated at random.
"""

import dataclasses
import datetime
import functools
import statistics
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

try:
    import optuna
except ImportError as error:
    raise ImportError("LaNASSampler needs optuna, which is not installed: pip install 'lanas-jax[optuna]'") from error
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.samplers._base import _process_constraints_after_trial
from optuna.search_space import IntersectionSearchSpace
from optuna.search_space.group_decomposed import _GroupDecomposedSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lanas_jax.integrations.grid import Code, Grid
from lanas_jax.runtime.numbers import whole_number
from lanas_jax.searchers.lanas import LaNAS, LaNASState
from lanas_jax.searchers.sampling import LISTED
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.spaces.choices import MOST_OPTIONS

STEPS = 33  # default number of values of a continuous parameter
PROPOSED = "lanas:params"  # system attribute of a trial: its parameters, before the objective has suggested them
CONSTRAINTS = "constraints"  # system attribute of Optuna: a list, or one attribute per constraint after a colon
INFEASIBLE = -1e30  # values of trials that violate constraints lie between this and twice this
ATTEMPTS = 1000  # maximum number of random draws for one that is new and allowed
REJECTIONS = 100  # maximum number of proposals in a large space for one that is allowed

_logger = optuna.logging.get_logger(__name__)


class LaNASSampler(BaseSampler):
    """Proposes the parameters of Optuna's trials by LaNAS.

    Args:
      steps: maximum number of values of a numeric parameter; continuous parameters take this many, evenly spaced, or in
        equal ratios with ``log=True``.
      seed: random seed; default: a random one.
      n_startup_trials: number of finished trials before LaNAS proposes; until then, proposals are uniform.
      search_space: distributions of the parameters to search, known before the first trial; default: those that all
        finished trials have.
      allowed: function that receives the parameters of `search_space` by name and returns whether a trial may have
        them, such as ``lambda params: params["units"] * params["layers"] <= 1024``. Enqueued trials are not checked.
      constraints_func: function from a finished trial to a list of numbers, of which positive ones are violated
        constraints, as in Optuna's samplers. Constraints that trials set themselves (Optuna 5) count in the same way.
      group: True to search each group of parameters that occur together by itself, for conditional spaces.
      independent_sampler: sampler of parameters outside the search space; default: uniform draws.
      warn_independent_sampling: True to log a warning when a parameter is outside the search space for the first time.

    Raises:
      ValueError: `steps` is below 2 or above 4,096, `n_startup_trials` is negative, `seed` is not a whole number,
        `allowed` has no `search_space`, `group` is combined with `search_space`, or `search_space` has something other
        than distributions.
    """

    def __init__(
        self,
        *,
        steps: int = STEPS,
        seed: int | None = None,
        n_startup_trials: int = 15,
        search_space: Mapping[str, BaseDistribution] | None = None,
        allowed: Callable[[dict[str, Any]], bool] | None = None,
        constraints_func: Callable[[FrozenTrial], Sequence[float]] | None = None,
        group: bool = False,
        independent_sampler: BaseSampler | None = None,
        warn_independent_sampling: bool = True,
    ):
        self._steps = whole_number("steps", steps, 2, MOST_OPTIONS)
        self._seed = _random_seed() if seed is None else whole_number("seed", seed, 0) % 2**31
        self._startup = whole_number("n_startup_trials", n_startup_trials, 0)
        if allowed is not None and search_space is None:
            raise ValueError("allowed needs search_space: without it, the parameters are unknown before a trial")
        if group and search_space is not None:
            raise ValueError("group finds the parameters by itself: leave out group or search_space")
        self._declared = None if search_space is None else dict(search_space)
        for name, distribution in (self._declared or {}).items():
            if not isinstance(distribution, BaseDistribution):
                raise ValueError(
                    f"search_space must map names to Optuna's distributions; got {distribution!r} for {name!r}"
                )
        self._allowed = allowed
        self._constraints_func = constraints_func
        self._group = bool(group)
        self._independent = independent_sampler
        self._warns = bool(warn_independent_sampling)
        self._lock = threading.RLock()
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        """Returns the settings; what was learned is rebuilt from the study."""
        return {name: value for name, value in self.__dict__.items() if name not in _LEARNED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()
        self._forget()

    def reseed_rng(self) -> None:
        """Reseeds the independent sampler. Other draws need no reseeding: they depend on the number of the trial."""
        if self._independent is not None:
            self._independent.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Returns the parameters that LaNAS proposes for the next trial, without those that have a single value."""
        self._raise_error_if_multi_objective(study)
        with self._lock:
            if trial.number == 0:  # of a new study, even if a database gives it the identity of a deleted one
                self._forget()
            self._remember(study)
            groups = self._groups_of(study)
        return {name: distribution for group in groups for name, distribution in sorted(group.items())}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Returns parameters of a trial, and records them in its system attributes for other processes.

        Raises:
          ValueError: the study has several objectives, or `allowed` cannot be checked because another sampler fixes
            parameters of `search_space`.
        """
        self._raise_error_if_multi_objective(study)
        if self._allowed is not None and (missing := sorted(set(self._declared or ()) - search_space.keys())):
            raise ValueError(
                f"allowed needs all parameters of search_space, but another sampler fixes {', '.join(missing)}: leave "
                "what is fixed out of search_space, and state the condition for the others"
            )
        if not search_space:
            return {}
        with self._lock:
            self._remember(study)
            groups = [{n: d for n, d in group.items() if n in search_space} for group in self._groups_of(study)]
            others = {name: d for name, d in search_space.items() if not any(name in group for group in groups)}
            trials = study._get_trials(deepcopy=False, use_cache=False)
            rest = [other for other in trials if other.number != trial.number]
            fixed = dict(trial.system_attrs.get("fixed_params", {}))
            params: dict[str, Any] = {}
            for group in [*groups, others]:
                if group and not group.keys() <= fixed.keys():
                    params |= self._propose(study, trial, group, rest)
            if params:
                study._storage.set_trial_system_attr(trial._trial_id, PROPOSED, params)
        return params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Returns a value of a parameter outside the search space."""
        self._raise_error_if_multi_objective(study)
        if self._warns and param_name not in self._warned and trial.number > self._startup:
            self._warned.add(param_name)
            _logger.warning(
                f"The parameter {param_name!r} is not in the search space of LaNASSampler, because not all finished "
                "trials have it with the same distribution: it is drawn independently. Give search_space, or group=True"
            )
        if self._independent is not None:
            return self._independent.sample_independent(study, trial, param_name, param_distribution)
        seed = np.random.SeedSequence([self._seed, trial.number, zlib.crc32(param_name.encode())])
        sampler = RandomSampler(int(seed.generate_state(1)[0]))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Passes the call on to the independent sampler."""
        if self._independent is not None:
            self._independent.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Records the constraints of a finished trial."""
        if self._constraints_func is not None:
            _process_constraints_after_trial(self._constraints_func, study, trial, state)
        if self._independent is not None:
            self._independent.after_trial(study, trial, state, values)

    def _forget(self) -> None:
        self._study: tuple[Any, int, str] | None = None  # storage, number and name
        self._intersection = IntersectionSearchSpace(include_pruned=True)
        self._decomposed = _GroupDecomposedSearchSpace(include_pruned=True)
        self._searches: dict[tuple[Any, int], Search] = {}  # by parameters and steps
        self._warned: set[str] = set()

    def _remember(self, study: Study) -> None:
        """Forgets the trials of another study."""
        known, found = self._study, (study._storage, study._study_id, study.study_name)
        if known is None or known[0] is not found[0] or known[1:] != found[1:]:
            self._forget()
            self._study = found

    def _groups_of(self, study: Study) -> list[dict[str, BaseDistribution]]:
        if self._declared is not None:
            return [self._declared]
        if self._group:
            groups = sorted(self._decomposed.calculate(study).search_spaces, key=sorted)
        else:
            groups = [self._intersection.calculate(study)]
        return [{name: d for name, d in group.items() if not d.single()} for group in groups]

    def _propose(
        self, study: Study, trial: FrozenTrial, group: dict[str, BaseDistribution], trials: list[FrozenTrial]
    ) -> dict[str, Any]:
        """Returns parameters for a group, from a finer grid if all combinations were tried, or repeated ones."""
        running = [_params(other) for other in trials if not other.state.is_finished()]
        steps = self._steps
        while True:
            search = self._search(group, steps)
            search.observe(trials, study.direction == StudyDirection.MINIMIZE)
            if (code := search.propose(trial.number, running)) is not None:
                return search.grid.params(code)
            steps = 2 * steps - 1  # the finer grid includes the points of this one
            if search.space.size > LISTED or steps > MOST_OPTIONS or Grid.of(group, steps) == search.grid:
                return search.grid.params(search.repeat(trial.number))

    def _search(self, group: dict[str, BaseDistribution], steps: int) -> "Search":
        key = (tuple((name, repr(group[name])) for name in sorted(group)), steps)  # categories may have no hash
        if key not in self._searches:
            allowed = self._allowed if self._declared is not None and group.keys() == self._declared.keys() else None
            self._searches[key] = Search(Grid.of(group, steps), self._seed, self._startup, allowed)
        return self._searches[key]


_LEARNED = ("_lock", "_study", "_intersection", "_decomposed", "_searches", "_warned")


class Search:
    """What is known about a group of parameters, and the next proposal.

    Args:
      grid: search space over the parameters.
      seed: random seed.
      startup: number of finished trials before LaNAS proposes.
      allowed: function that returns whether a trial may have these parameters; None if all are allowed.
    """

    def __init__(self, grid: Grid, seed: int, startup: int, allowed: Callable[[dict[str, Any]], bool] | None):
        self.grid = grid
        self.space = grid.space
        self._seed = seed
        self._startup = startup
        self._allowed = allowed
        self._told: set[int] = set()  # numbers of the trials
        self._results: list[tuple[Code, float]] = []  # finished trials of this space, in order of completion
        self._completed: list[float] = []  # values of completed trials
        self._searcher: LaNAS | None = None
        self._state: LaNASState | None = None
        self._learned = 0  # number of results in the state

    def observe(self, trials: list[FrozenTrial], minimize: bool) -> None:
        """Records the trials that have finished since the last call, in order of completion."""
        new = [trial for trial in trials if trial.state.is_finished() and trial.number not in self._told]
        names = {parameter.name for parameter in self.grid.parameters}
        for trial in sorted(new, key=lambda trial: (trial.datetime_complete or datetime.datetime.min, trial.number)):
            self._told.add(trial.number)
            if trial.params and names.isdisjoint(trial.params):
                continue  # it took another branch, and was only proposed these parameters
            if (code := self.grid.code(_params(trial))) is not None:
                self._results.append((code, self._value(trial, -1.0 if minimize else 1.0)))

    def propose(self, number: int, running: list[dict[str, Any]]) -> Code | None:
        """Returns an untried code for a trial; None if there is none.

        Args:
          number: number of the trial, which determines its random key.
          running: parameters of the trials that are running.
        """
        pending = [code for params in running if (code := self.grid.code(params)) is not None]
        if len(self._results) < self._startup:
            return self._draw(number, pending)
        searcher = self._prepared()
        state = self._learn(searcher)
        if pending:
            state = searcher.add_pending(state, _padded(pending, self.space.dims))
        key = jax.random.fold_in(jax.random.key(self._seed), number)
        state = dataclasses.replace(state, key=key)
        for _ in range(1 if self._allowed is None or searcher.pool is not None else REJECTIONS):
            state, codes = searcher.ask(state, 1)
            code = tuple(np.asarray(codes)[0].tolist())
            if code[0] < 0:
                return None
            if searcher.pool is not None or self._may_be(code):
                return code
        return self._draw(number, pending)

    def repeat(self, number: int) -> Code:
        """Returns a random code for a trial of a space whose codes were all tried."""
        codes = self._listed if self.space.size <= LISTED else [code for code, _ in self._results]
        return codes[int(np.random.default_rng([self._seed, number]).integers(len(codes)))]

    def _value(self, trial: FrozenTrial, sign: float) -> float:
        """Returns the value to maximize; NaN for a failed trial."""
        value = trial.value
        if trial.state == TrialState.FAIL or value is None or np.isnan(value):
            return np.nan
        if (violation := _violation(trial)) > 0:
            return INFEASIBLE * (1 + violation / (1 + violation) if np.isfinite(violation) else 2.0)
        value = float(np.clip(sign * value, INFEASIBLE / 10, -INFEASIBLE / 10))
        if trial.state == TrialState.PRUNED:
            return min(value, statistics.median(self._completed)) if self._completed else value
        self._completed.append(value)
        return value

    def _may_be(self, code: Code) -> bool:
        return self._allowed is None or bool(self._allowed(self.grid.params(code)))

    def _draw(self, number: int, pending: list[Code]) -> Code | None:
        """Returns a uniform draw among the codes that were not tried and are allowed; None if there is none.

        Raises:
          ValueError: none of many random codes of a space too large to list is allowed.
        """
        random = np.random.default_rng([self._seed, number])
        tried = {*pending, *(code for code, _ in self._results)}
        for _ in range(ATTEMPTS):
            code = tuple(random.integers(0, self.space.cardinalities).tolist())
            if code not in tried and self._may_be(code):
                return code
        if self.space.size > LISTED:
            raise ValueError(f"allowed rejects {ATTEMPTS:,} random combinations of {self._names}: it may be too strict")
        left = [code for code in self._listed if code not in tried]
        return left[int(random.integers(len(left)))] if left else None

    @functools.cached_property
    def _listed(self) -> list[Code]:
        """All allowed codes of a small space.

        Raises:
          ValueError: no code is allowed.
        """
        codes = [code for code in map(tuple, self.space.enumerate().tolist()) if self._may_be(code)]
        if not codes:
            raise ValueError(
                f"allowed rejects all {self.space.size:,} combinations of {self._names}: change it, or give more steps"
            )
        return codes

    @property
    def _names(self) -> str:
        return ", ".join(parameter.name for parameter in self.grid.parameters)

    def _prepared(self) -> LaNAS:
        if self._searcher is None and self._allowed is not None and self.space.size <= LISTED:
            self._searcher = LaNAS(self.space, pool=np.array(self._listed, np.int32), initial=self._startup)
        elif self._searcher is None:
            self._searcher = _searcher_of(self.space, self._startup)
        return self._searcher

    def _learn(self, searcher: LaNAS) -> LaNASState:
        """Returns the state after all results; each is told by itself, as in a search of one trial at a time."""
        state = searcher.init(jax.random.key(self._seed)) if self._state is None else self._state
        for code, value in self._results[self._learned :]:
            state = searcher.add_pending(state, _padded([code], self.space.dims))
            state = searcher.tell(state, np.array([code], np.int32), np.array([value], np.float32))
        self._state, self._learned = state, len(self._results)
        return state


@functools.lru_cache(maxsize=4)
def _searcher_of(space: SearchSpace, startup: int) -> LaNAS:
    """Returns the searcher of a space; cached, since listing the codes of a space takes up to a second."""
    return LaNAS(space, initial=startup)


def _params(trial: FrozenTrial) -> dict[str, Any]:
    """Returns the parameters of a trial; if it runs or failed, also those that it was given but did not suggest."""
    if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
        return dict(trial.params)
    proposed, fixed = (trial.system_attrs.get(name, {}) for name in (PROPOSED, "fixed_params"))
    return {**proposed, **fixed, **trial.params}


def _violation(trial: FrozenTrial) -> float:
    """Returns the sum of the violated constraints of a trial."""
    attributes = trial.system_attrs
    numbers = [*(attributes.get(CONSTRAINTS) or ())]
    numbers += [number for name, number in attributes.items() if name.startswith(f"{CONSTRAINTS}:")]
    return float(sum(number for number in numbers if number > 0))


def _padded(codes: Sequence[Code], dims: int) -> Int[np.ndarray, "n dims"]:
    """Returns codes with rows of -1 up to a power of two, at least 8, so that few numbers of rows are compiled."""
    rows = np.full((max(8, 1 << (len(codes) - 1).bit_length()), dims), -1, np.int32)
    rows[: len(codes)] = codes
    return rows


def _random_seed() -> int:
    return int(np.random.SeedSequence().generate_state(1)[0]) % 2**31
