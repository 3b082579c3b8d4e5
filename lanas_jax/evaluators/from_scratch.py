"""Values by training every candidate from scratch, the evaluation of section 4.1 of arXiv 1906.06832.

A value is the accuracy on the search-validation split after the last step; the test split does not come in here. What
goes wrong with a candidate is an outcome: a loss that is not finite names its step, and where a program does not fit
into memory its candidates are tried again one by one, so that only those fail that do not fit by themselves. Ctrl-C
passes through.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from lanas_jax.data.splits import SearchData
from lanas_jax.evaluators.base import Outcome
from lanas_jax.spaces.base import Cost
from lanas_jax.training.population import CompiledPopulation, Population, Results
from lanas_jax.training.step import Network, TrainConfig

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # XLA's status, the only thing that tells its runtime errors apart


@dataclasses.dataclass(frozen=True, eq=False)
class FromScratch:
    """Trains candidates on the devices of this process; compiles at the first batch, and never again.

    Args:
      network: one network for every code.
      data: train and search-validation splits.
      config: how each candidate is trained.
      devices: where; default: all devices of this process.
      per_device: candidates in one program on each device; a batch of ``devices * per_device`` fills it.
      abreast: `vmap` over a device's candidates instead of one after the other.
    """

    network: Network
    data: SearchData
    config: TrainConfig
    devices: Sequence[jax.Device] | None = None
    per_device: int = 4
    abreast: bool = False

    @functools.cached_property
    def compiled(self) -> CompiledPopulation:
        """The programs that train a batch."""
        population = Population(self.network, self.config, self.devices, self.per_device, self.abreast)
        return population.compile(self.data)

    @functools.cached_property
    def alone(self) -> CompiledPopulation:
        """The programs that train one candidate, with a device's memory to itself."""
        devices = list(self.devices) if self.devices is not None else jax.local_devices()
        return Population(self.network, self.config, devices[:1], per_device=1).compile(self.data)

    def evaluate(self, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"]) -> Sequence[Outcome]:
        """Trains the candidates of `codes` and gives each its search-validation accuracy.

        Args:
          codes: ``int32[n, dims]``, any number of them.
          keys: ``key[n]``, one per trial; consumed.

        Returns:
          One outcome per code, in order. Seconds are shared: the compilation falls on the batch that waited for it.

        Raises:
          ValueError: a code that is not of the space.
        """
        codes = self.network.space.check(codes)
        try:
            outcomes = self._train("compiled", codes, keys)
        except jax.errors.JaxRuntimeError as error:
            if OUT_OF_MEMORY not in str(error):
                raise
            outcomes = [self._train_alone(codes[i : i + 1], keys[i : i + 1]) for i in range(len(codes))]
        return self._with_costs(codes, outcomes)

    def _train(self, programs: str, codes: np.ndarray, keys: Key[Array, " n"]) -> list[Outcome]:
        """Outcomes without costs, by the programs of that name."""
        first = programs not in self.__dict__
        population: CompiledPopulation = getattr(self, programs)
        results = population.run(codes, keys)
        compile_seconds = population.compile_seconds / len(codes) if first else 0.0
        seconds = results.seconds / len(codes)
        return [
            Outcome(
                value=None if reason else float(accuracy),
                reason=reason,
                compile_seconds=compile_seconds,
                train_seconds=seconds,
            )
            for accuracy, reason in zip(results.accuracy, failures(results), strict=True)
        ]

    def _train_alone(self, code: np.ndarray, key: Key[Array, " 1"]) -> Outcome:
        """The outcome of one candidate that shares its device with no other."""
        try:
            return self._train("alone", code, key)[0]
        except jax.errors.JaxRuntimeError as error:
            if OUT_OF_MEMORY not in str(error):
                raise
            return Outcome(None, f"out of memory: {str(error).splitlines()[0]}")

    def _with_costs(self, codes: np.ndarray, outcomes: list[Outcome]) -> list[Outcome]:
        """Adds multiply-adds and parameters, where the space knows them."""
        try:
            cost: Cost = self.network.space.cost(codes)
        except NotImplementedError:
            return outcomes
        return [
            dataclasses.replace(outcome, multiply_adds=int(multiply_adds), parameters=int(parameters))
            for outcome, multiply_adds, parameters in zip(outcomes, *cost, strict=True)
        ]


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
