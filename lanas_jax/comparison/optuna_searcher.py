"""Optuna's multivariate TPE, unmodified, as a `lanas_jax.searchers.base.Searcher` for searches with any evaluator.

`peers.py` runs TPE on tables. Here it is asked for several codes before any tell, like the searchers of this package.
An invalid code is reported to it as failed. A repeated code is answered with its value, or as failed while it is
pending. Neither counts as a sample. The state is Optuna's own object and cannot be saved, so a run is resumed by
replaying its asks and tells.
"""

import dataclasses
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from lanas_jax.comparison.peers import PROPOSALS, optuna_distribution, require
from lanas_jax.spaces.base import Codes, SearchSpace, Values

Code = tuple[int, ...]


class Session:
    """An Optuna study and the values of its codes.

    Args:
      space: search space.
      seed: random seed of the sampler.
    """

    def __init__(self, space: SearchSpace, seed: int):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna warns that multivariate is experimental
            sampler = optuna.samplers.TPESampler(multivariate=True, seed=seed)
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        self.failed = optuna.trial.TrialState.FAIL
        self.distributions = {choice.name: optuna_distribution(choice, optuna) for choice in space.choices}
        self.space = space
        self.pending: dict[Code, Any] = {}
        self.values: dict[Code, float] = {}

    def __repr__(self) -> str:
        """Distinguishes a used study from a new one, so that a checkpoint, which lacks the study, is not restored."""
        return f"Session({len(self.values)} told)"

    def propose(self) -> Code | None:
        """Returns the next new valid code, or None if TPE only repeats earlier codes."""
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
                self._answer(trial, self.values.get(code, np.nan))
        return None

    def receive(self, code: Code, value: float) -> None:
        """Records the value of a code, NaN for a failure; tells Optuna only if it proposed the code."""
        self.values[code] = value
        if (trial := self.pending.pop(code, None)) is not None:
            self._answer(trial, value)

    def _answer(self, trial: Any, value: float) -> None:
        if np.isnan(value):
            self.study.tell(trial, state=self.failed)
        else:
            self.study.tell(trial, value)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TPEState:
    """The Optuna study, which is mutable."""

    told: Int[Array, ""]  # number of told trials
    session: Session = dataclasses.field(metadata={"static": True})


@dataclasses.dataclass(frozen=True)
class OptunaTPE:
    """Tree-structured Parzen estimators with multivariate kernels; all other settings are Optuna's defaults.

    Attributes:
      space: search space.

    Raises:
      MissingPeerError: Optuna is not installed.
    """

    space: SearchSpace

    def __post_init__(self) -> None:
        require("tpe")

    def init(self, key: PRNGKeyArray) -> TPEState:
        """Returns a new study. The key is consumed."""
        seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
        return TPEState(jnp.int32(0), Session(self.space, seed))

    def ask(self, state: TPEState, n: int) -> tuple[TPEState, Int[Array, "n dims"]]:
        """Returns `n` new codes, with rows of -1 once TPE only repeats earlier codes. Changes the state's study."""
        codes = np.full((n, self.space.dims), -1, np.int32)
        for row in range(n):
            if (code := state.session.propose()) is None:
                break
            codes[row] = code
        return state, jnp.asarray(codes)

    def tell(self, state: TPEState, codes: Codes, values: Values) -> TPEState:
        """Records values, NaN for failed trials. Changes the state's study."""
        canonical = np.asarray(self.space.canonical(np.asarray(codes))).tolist()
        for code, value in zip(canonical, np.asarray(values).tolist(), strict=True):
            state.session.receive(tuple(code), value)
        return TPEState(state.told + len(canonical), state.session)
