"""Optuna's multivariate TPE, run as it is, as a `lanas_jax.searchers.base.Searcher`: for searches that train or mask.

`peers.py` runs it on tables. Here it is asked for several codes before it is told of any, as our own searchers are. A
code that may not be built is reported to it as failed; one proposed again is answered with its value, or as failed
while that is pending; neither is counted. Its state is Optuna's own object, so it cannot be written down: a run is
resumed by asking and telling it again in order.
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
    """An Optuna study, and what became of each code.

    Args:
      space: what is searched.
      seed: of the sampler.
    """

    def __init__(self, space: SearchSpace, seed: int):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # multivariate is experimental to Optuna
            sampler = optuna.samplers.TPESampler(multivariate=True, seed=seed)
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        self.failed = optuna.trial.TrialState.FAIL
        self.distributions = {choice.name: optuna_distribution(choice, optuna) for choice in space.choices}
        self.space = space
        self.pending: dict[Code, Any] = {}
        self.values: dict[Code, float] = {}

    def __repr__(self) -> str:
        """Tells a study from a new one, so that no checkpoint of its state, which lacks the study, is taken for it."""
        return f"Session({len(self.values)} told)"

    def propose(self) -> Code | None:
        """The next new code that may be built, or None where it only repeats itself."""
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
        """Takes in the value of a code, NaN where it failed; one that Optuna did not propose is kept from it."""
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
    """The study, which changes in place."""

    told: Int[Array, ""]  # trials
    session: Session = dataclasses.field(metadata={"static": True})


@dataclasses.dataclass(frozen=True)
class OptunaTPE:
    """Tree-structured Parzen estimators with multivariate kernels, all other settings Optuna's own.

    Attributes:
      space: what is searched.

    Raises:
      MissingPeerError: Optuna is not installed.
    """

    space: SearchSpace

    def __post_init__(self) -> None:
        require("tpe")

    def init(self, key: PRNGKeyArray) -> TPEState:
        """A new study. The key is consumed."""
        seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
        return TPEState(jnp.int32(0), Session(self.space, seed))

    def ask(self, state: TPEState, n: int) -> tuple[TPEState, Int[Array, "n dims"]]:
        """`n` new codes; rows of -1 where it only repeats itself. The state's study is changed."""
        codes = np.full((n, self.space.dims), -1, np.int32)
        for row in range(n):
            if (code := state.session.propose()) is None:
                break
            codes[row] = code
        return state, jnp.asarray(codes)

    def tell(self, state: TPEState, codes: Codes, values: Values) -> TPEState:
        """Takes in values, NaN for failed trials. The state's study is changed."""
        canonical = np.asarray(self.space.canonical(np.asarray(codes))).tolist()
        for code, value in zip(canonical, np.asarray(values).tolist(), strict=True):
            state.session.receive(tuple(code), value)
        return TPEState(state.told + len(canonical), state.session)
