"""Values by training every candidate from scratch, the evaluation of section 4.1 of arXiv 1906.06832.

A value is the accuracy on the search-validation split after the last step; the test split does not come in here. What
goes wrong with a candidate is an outcome: a loss that is not finite names its step, and where a program does not fit
into memory its candidates are tried again one by one, so that only those fail that do not fit by themselves. Ctrl-C
passes through.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from lanas_jax.candidates import halving
from lanas_jax.candidates.halving import Halving, Trainer
from lanas_jax.candidates.plans import OUT_OF_MEMORY, Plans
from lanas_jax.candidates.population import CompiledPopulation, Results
from lanas_jax.candidates.step import Network
from lanas_jax.data.splits import SearchData
from lanas_jax.evaluators.base import Outcome, with_costs
from lanas_jax.training.sgd import TrainConfig


@dataclasses.dataclass(frozen=True, eq=False)
class FromScratch:
    """Trains candidates on the devices of this process.

    Args:
      network: one network for every code; with `for_code`, a network for each too.
      data: train and search-validation splits.
      config: how each candidate is trained.
      devices: where; default: all devices of this process.
      per_device: candidates in one program on each device; a batch of ``devices * per_device`` fills it.
      abreast: whether a device's candidates train at the same time, by one program for all, instead of one after the
        other; ``auto``: where `plan` is ``auto`` too and the devices are accelerators, what a measurement finds faster.
      plan: ``shared``, one program for all candidates, compiled once; ``specialised``, a program for each; ``auto``,
        the one that a measurement at the first batch expects to be done sooner.
      candidates: in the whole search, for ``auto``; default: those of the first batch.
      halving: stops candidates of a batch that do worse than others, so that outcomes depend on the batch; None: all
        are trained to the end.
      report: is told which plan was chosen, and why.

    Raises:
      ValueError: a specialised plan for a network that cannot be built for a code.
    """

    network: Network
    data: SearchData
    config: TrainConfig
    devices: Sequence[jax.Device] | None = None
    per_device: int = 4
    abreast: bool | Literal["auto"] = "auto"
    plan: Literal["auto", "shared", "specialised"] = "auto"
    candidates: int | None = None
    halving: Halving | None = None
    report: Callable[[str], None] = print

    def __post_init__(self) -> None:
        if self.plan == "specialised":
            _ = self.plans.specialised  # refuses a network that has no such plan, before anything is trained

    @functools.cached_property
    def plans(self) -> Plans:
        """The ways to train."""
        return Plans(self.network, self.config, self.data, self.devices, self.per_device)

    @property
    def compiled(self) -> CompiledPopulation:
        """The programs that train a batch, whatever its codes."""
        choice = self.__dict__.get("choice")
        abreast = self.abreast is True if choice is None else choice.abreast
        return self.plans.abreast if abreast else self.plans.in_turn

    def evaluate(self, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"]) -> Sequence[Outcome]:
        """Trains the candidates of `codes` and gives each its search-validation accuracy.

        Args:
          codes: ``int32[n, dims]``, any number of them.
          keys: ``key[n]``, one per trial; consumed.

        Returns:
          One outcome per code, in order. Seconds are shared: compiling a program for all candidates falls on the batch
          that waited for it.

        Raises:
          ValueError: a code that is not of the space.
        """
        codes = self.network.space.check(codes)
        compiled_before = self.plans.compile_seconds
        try:
            outcomes = self._train(
                self.plans.specialised if self._specialised(codes, keys) else self.compiled, codes, keys
            )
        except jax.errors.JaxRuntimeError as error:
            if OUT_OF_MEMORY not in str(error):
                raise
            outcomes = [self._train_alone(codes[i : i + 1], keys[i : i + 1]) for i in range(len(codes))]
        seconds = (self.plans.compile_seconds - compiled_before) / len(codes)
        outcomes = [dataclasses.replace(one, compile_seconds=one.compile_seconds + seconds) for one in outcomes]
        return with_costs(self.network.space, codes, outcomes)

    def _specialised(self, codes: np.ndarray, keys: Key[Array, " n"]) -> bool:
        """Whether candidates have a program each; measured at the first call, if so asked."""
        if self.plan != "auto":
            return self.plan == "specialised"
        if "choice" not in self.__dict__:
            try:
                choice = self.plans.choose(self.candidates or len(codes), codes, keys, self.abreast)
            except FloatingPointError as error:  # a candidate that fails at once; the next batch is measured instead
                self.report(f"one program, for this batch: no plan could be measured by it ({error})")
                return False
            shared = "one program, candidates abreast" if choice.abreast else "one program"
            self.report(f"{'a program for each candidate' if choice.specialised else shared}: {choice.reason}")
            self.__dict__["choice"] = choice
        return self.__dict__["choice"].specialised

    def _train(self, trainer: Trainer, codes: np.ndarray, keys: Key[Array, " n"]) -> list[Outcome]:
        """Outcomes without costs."""
        results = halving.train(trainer, self.halving, self.config.steps(len(self.data.train)), codes, keys)
        seconds = results.seconds / len(codes)
        rows = zip(results.accuracy, results.compile_seconds, results.steps, failures(results), strict=True)
        return [
            Outcome(
                value=None if reason else float(accuracy),
                reason=reason,
                compile_seconds=float(compile_seconds),
                train_seconds=seconds,
                steps=int(steps),
            )
            for accuracy, compile_seconds, steps, reason in rows
        ]

    def _train_alone(self, code: np.ndarray, key: Key[Array, " 1"]) -> Outcome:
        """The outcome of one candidate that shares its device with no other."""
        try:
            return self._train(self.plans.specialised if self._specialised(code, key) else self.plans.alone, code, key)[
                0
            ]
        except jax.errors.JaxRuntimeError as error:
            if OUT_OF_MEMORY not in str(error):
                raise
            return Outcome(None, f"out of memory: {str(error).splitlines()[0]}")


def failures(results: Results) -> list[str | None]:
    """Why each candidate has no value, or None where it has one. Steps count from 1."""
    reasons: list[str | None] = []
    for train_loss, loss, steps in zip(results.train_loss, results.loss, results.steps, strict=True):
        if not np.isfinite(train_loss):
            reasons.append(f"loss became {_name(train_loss)} at step {steps}")
        elif not np.isfinite(loss):
            reasons.append(f"loss on the validation images is {_name(loss)} after {steps} steps")
        else:
            reasons.append(None)
    return reasons


def _name(loss: np.floating) -> str:
    return "NaN" if np.isnan(loss) else "infinite"
