"""Optuna's multivariate TPE and NSGA-II, unmodified, as searchers (`lanas_jax.searchers.base.Searcher`).

`peers.py` runs TPE on tables. Here an Optuna study is asked for several codes before any tell, like the searchers of
this package, and may have several objectives, for which TPE is Optuna's multi-objective TPE.
An invalid code is reported to it as failed. A repeated code is answered with its value, or as failed while it is
pending. Neither counts as a sample. The state is Optuna's own object and cannot be saved, so a run is resumed by
replaying its asks and tells.
"""

import dataclasses
import warnings
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from lanas_jax.comparison.peers import PROPOSALS, optuna_distribution, require
from lanas_jax.searchers.history import Objectives
from lanas_jax.spaces.base import Codes, SearchSpace, Values

Code = tuple[int, ...]


class Session:
    """An Optuna study and the values of its codes.

    Args:
      space: search space.
      seed: random seed of the sampler.
      objectives: number of objectives, all of which are maximised.
      sampler: name of the sampler, tpe or nsga2.
    """

    def __init__(self, space: SearchSpace, seed: int, objectives: int = 1, sampler: str = "tpe"):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna warns that multivariate is experimental
            chosen = {
                "tpe": lambda: optuna.samplers.TPESampler(multivariate=True, seed=seed),
                "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=seed),
            }[sampler]()
        self.study = optuna.create_study(directions=["maximize"] * objectives, sampler=chosen)
        self.failed = optuna.trial.TrialState.FAIL
        self.distributions = {choice.name: optuna_distribution(choice, optuna) for choice in space.choices}
        self.space = space
        self.pending: dict[Code, Any] = {}
        self.values: dict[Code, list[float]] = {}

    def __repr__(self) -> str:
        """Distinguishes a used study from a new one, so that a checkpoint, which lacks the study, is not restored."""
        return f"Session({len(self.values)} told)"

    def propose(self) -> Code | None:
        """Returns the next new valid code, or None if the sampler only repeats earlier codes."""
        for _ in range(PROPOSALS):
            trial = self.study.ask(self.distributions)
            drawn = np.array([[trial.params[choice.name] for choice in self.space.choices]], np.int32)
            code: Code = tuple(np.asarray(self.space.canonical(drawn))[0].tolist())
            if not np.asarray(self.space.valid(drawn))[0]:
                self.study.tell(trial, state=self.failed)
            elif code not in self.pending and code not in self.values:
                self.pending[code] = trial
                return code
            else:
                self._answer(trial, self.values.get(code, [np.nan]))
        return None

    def receive(self, code: Code, values: list[float]) -> None:
        """Records the objectives of a code, NaN for a failure; tells Optuna only if it proposed the code."""
        self.values[code] = values
        if (trial := self.pending.pop(code, None)) is not None:
            self._answer(trial, values)

    def _answer(self, trial: Any, values: list[float]) -> None:
        if np.isnan(values).any():
            self.study.tell(trial, state=self.failed)
        else:
            self.study.tell(trial, values)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OptunaState:
    """The Optuna study, which is mutable."""

    told: Int[Array, ""]  # number of told trials
    session: Session = dataclasses.field(metadata={"static": True})


class _OptunaSearcher:
    """Asks and tells of an Optuna study."""

    space: SearchSpace
    objectives: int
    sampler: ClassVar[str]

    def __post_init__(self) -> None:
        require("tpe")

    def init(self, key: PRNGKeyArray) -> OptunaState:
        """Returns a new study. The key is consumed."""
        seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
        return OptunaState(jnp.int32(0), Session(self.space, seed, self.objectives, self.sampler))

    def ask(self, state: OptunaState, n: int) -> tuple[OptunaState, Int[Array, "n dims"]]:
        """Returns `n` new codes, with rows of -1 once Optuna only repeats earlier codes. Changes the state's study."""
        codes = np.full((n, self.space.dims), -1, np.int32)
        for row in range(n):
            if (code := state.session.propose()) is None:
                break
            codes[row] = code
        return state, jnp.asarray(codes)

    def tell(self, state: OptunaState, codes: Codes, values: Values | Objectives) -> OptunaState:
        """Records values, NaN for failed trials. Changes the state's study."""
        canonical = np.asarray(self.space.canonical(np.asarray(codes))).tolist()
        rows = np.asarray(values).reshape(len(canonical), self.objectives).tolist()
        for code, row in zip(canonical, rows, strict=True):
            state.session.receive(tuple(code), row)
        return OptunaState(state.told + len(canonical), state.session)


@dataclasses.dataclass(frozen=True)
class OptunaTPE(_OptunaSearcher):
    """Tree-structured Parzen estimators with multivariate kernels; all other settings are Optuna's defaults.

    Attributes:
      space: search space.
      objectives: number of objectives; with several, this is Optuna's multi-objective TPE.

    Raises:
      MissingPeerError: Optuna is not installed.
    """

    space: SearchSpace
    objectives: int = 1
    sampler: ClassVar[str] = "tpe"


@dataclasses.dataclass(frozen=True)
class OptunaNSGA2(_OptunaSearcher):
    """Optuna's NSGA-II, with its default settings.

    Attributes:
      space: search space.
      objectives: number of objectives.

    Raises:
      MissingPeerError: Optuna is not installed.
    """

    space: SearchSpace
    objectives: int = 2
    sampler: ClassVar[str] = "nsga2"
