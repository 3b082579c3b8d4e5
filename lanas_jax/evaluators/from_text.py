"""Values by training every candidate as a language model: the third task of arXiv 1906.06832.

The value is the negative number of bits per symbol on the validation part of a text; the test part is never read. A
model that is worse than guessing, which predicts all symbols with equal probability, has the value of guessing:
``-log2(symbols)``. A model whose loss is not finite has failed.

Candidates train vmapped, with the code as data. A step reads consecutive symbols at several places of the text; the
states of the cells are carried from step to step, gradients are not. Initial weights and the places where reading
begins are drawn from the key of the trial.
"""

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from lanas_jax.data.text import Text, side_by_side
from lanas_jax.evaluators.base import Outcome, with_costs
from lanas_jax.runtime import compile_cache
from lanas_jax.runtime.arithmetic import in_32_bits, nan_is_data
from lanas_jax.runtime.numbers import set_whole_numbers
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.training.language import (
    COLUMNS,
    GUESSING,
    Apply,
    LanguageState,
    TextTraining,
    bits_per_symbol,
    check_symbols,
    take_step,
)

State = TypeVar("State")
TRAINING = TextTraining()
HELD_OUT = 257  # maximum number of rows of a part of the text from which bits are computed
STEPS_PER_DISPATCH = 100  # Ctrl-C takes effect between dispatches


@runtime_checkable
class LanguageModels(Protocol[State]):
    """A family of language models that takes the code as data (`lanas_jax.models.recurrent` has one)."""

    @property
    def space(self) -> SearchSpace:
        """The space of the codes."""
        ...

    def init(self, key: PRNGKeyArray) -> PyTree[Array]:
        """Returns initial weights for any code. The key is consumed."""
        ...

    def state(self, n: int) -> State:
        """Returns the state before the first symbols of `n` sequences."""
        ...

    def apply(
        self, params: PyTree[Array], code: Int[Array, " dims"], symbols: Int[Array, "length n"], state: State
    ) -> tuple[Float[Array, "length n symbols"], State]:
        """Returns logits of the symbols that follow, and the state after the last symbols."""
        ...


class LanguagePrograms(NamedTuple):
    """Compiled programs for `vmapped` candidates."""

    start: jax.stages.Compiled
    advance: jax.stages.Compiled
    bits: jax.stages.Compiled


@dataclasses.dataclass(frozen=True, eq=False)
class FromText:
    """Trains candidates as language models on one device.

    Args:
      models: family of language models that takes the code as data.
      text: text to model.
      training: training of each candidate.
      vmapped: number of candidates in one program; smaller batches are padded.

    Raises:
      ValueError: `vmapped` is below one, or the text is too short for the streams or has symbols beyond those of the
        space.
    """

    models: LanguageModels[Any]
    text: Text
    training: TextTraining = TRAINING
    vmapped: int = 32

    def __post_init__(self) -> None:
        set_whole_numbers(self, vmapped=1)
        _ = self._lines  # rejects a text that is too short
        check_symbols(self.models.space, self.text.train, self.text.validation)

    @functools.cached_property
    def compiled(self) -> tuple[LanguagePrograms, float]:
        """The programs that train and value candidates, and the seconds to compile them."""
        with jax.enable_x64(False):
            began = time.perf_counter()
            codes = jax.ShapeDtypeStruct((self.vmapped, self.models.space.dims), jnp.int32)
            keys = jax.ShapeDtypeStruct((self.vmapped,), jax.random.key(0).dtype)
            start = jax.jit(jax.vmap(self._start)).lower(keys)
            number = jax.ShapeDtypeStruct((), jnp.int32)
            lines = jax.ShapeDtypeStruct(self._lines.shape, jnp.int32)
            states = start.out_info
            advance = jax.jit(self._advance, donate_argnums=0).lower(states, codes, number, lines)
            held_out = jax.ShapeDtypeStruct(self._held_out(self.text.validation).shape, jnp.int32)
            bits = jax.jit(jax.vmap(self._bits, (0, 0, None))).lower(states.params, codes, held_out)
            # LLVM spends most of the compilation on random numbers, which are drawn once per candidate.
            quick = {"xla_backend_optimization_level": 1} if jax.devices()[0].platform == "cpu" else {}
            lowered: Any = ((start, quick), (advance, {}), (bits, {}))
            programs = LanguagePrograms(*(compile_cache.compile_cached(*one)[0] for one in lowered))
            return programs, time.perf_counter() - began

    @in_32_bits
    @nan_is_data
    def evaluate(self, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"]) -> Sequence[Outcome]:
        """Trains the candidates of `codes` and returns their negative validation bits per symbol.

        Args:
          codes: architectures, ``int32[n, dims]``, any number of them.
          keys: PRNG keys, ``key[n]``, one per trial; consumed.

        Returns:
          One outcome per code, in order. Seconds are divided equally within the batch; compilation counts for the first
          batch.

        Raises:
          ValueError: a code is not in the space.
        """
        codes = self.models.space.check(codes)
        waited = 0.0 if "compiled" in self.__dict__ else self.compiled[1]
        began = time.perf_counter()
        bits = self.train(codes, keys, (self.text.validation,))[:, 0]
        n, ended = max(len(codes), 1), time.perf_counter()
        known: dict[str, Any] = {"compile_seconds": waited / n, "train_seconds": (ended - began) / n}
        known["steps"] = self.training.steps
        outcomes = [
            Outcome(-min(float(one), GUESSING), **known)
            if np.isfinite(one)
            else Outcome(None, "the loss on the validation part is not finite", **known)
            for one in bits
        ]
        return with_costs(self.models.space, codes, outcomes)

    @in_32_bits
    @nan_is_data
    def train(
        self, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"], parts: Sequence[Int[np.ndarray, " symbols"]]
    ) -> Float[np.ndarray, "n parts"]:
        """Trains candidates and returns their bits per symbol on parts of a text, which may be infinite or NaN.

        Args:
          codes: architectures, ``int32[n, dims]``, any number of them.
          keys: PRNG keys, ``key[n]``; consumed.
          parts: parts of the length of the validation part; bits are computed from their beginning.
        """
        programs, lines = self.compiled[0], jnp.asarray(self._lines)
        held_out = [jnp.asarray(self._held_out(part)) for part in parts]
        found = np.zeros((len(codes), len(parts)), np.float32)
        for first in range(0, len(codes), self.vmapped):
            rows = first + np.arange(self.vmapped) % len(codes[first : first + self.vmapped])
            here, n = jnp.asarray(codes[rows], jnp.int32), min(self.vmapped, len(codes) - first)
            states = programs.start(keys[rows])
            for step in range(0, self.training.steps, STEPS_PER_DISPATCH):
                states = programs.advance(states, here, jnp.asarray(step, jnp.int32), lines)
            for i, part in enumerate(held_out):
                found[first : first + n, i] = np.asarray(programs.bits(states.params, here, part))[:n]
        return found

    @functools.cached_property
    def _lines(self) -> Int[np.ndarray, "rows streams"]:
        """The training text in columns; rows from its beginning follow the last one."""
        return self.training.lines(self.text.train)

    def _held_out(self, part: Int[np.ndarray, " symbols"]) -> Int[np.ndarray, "rows columns"]:
        return side_by_side(part, COLUMNS)[:HELD_OUT]

    def _start(self, key: PRNGKeyArray) -> LanguageState:
        key, place_key = jax.random.split(key)
        params = self.models.init(key)
        rows = len(self._lines) - self.training.length
        place = jax.random.randint(place_key, (), 0, rows, jnp.int32)
        cell = self.models.state(self.training.streams)
        return LanguageState(params, self.training.optimizer.init(params), cell, place)

    def _advance(
        self,
        states: LanguageState,
        codes: Int[Array, "n dims"],
        first: Int[Array, ""],
        lines: Int[Array, "rows streams"],
    ) -> LanguageState:
        """Trains all candidates from step `first` to the end of the dispatch or of the training."""

        def step(state: LanguageState, code: Int[Array, " dims"]) -> LanguageState:
            return take_step(self.training, self._applied(code), state, lines)[0]

        last = jnp.minimum(first + STEPS_PER_DISPATCH, self.training.steps)
        return lax.fori_loop(first, last, lambda _, states: jax.vmap(step)(states, codes), states)

    def _bits(self, params: PyTree[Array], code: Int[Array, " dims"], lines: Int[Array, "rows n"]) -> Float[Array, ""]:
        return bits_per_symbol(self._applied(code), params, self.models.state(lines.shape[1]), lines)

    def _applied(self, code: Int[Array, " dims"]) -> Apply:
        return lambda params, symbols, cell: self.models.apply(params, code, symbols, cell)
