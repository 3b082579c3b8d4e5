"""The ways to train a search's candidates, made when they are needed, and the choice between them."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np
from jaxtyping import Int, Key

from lanas_jax.candidates import cost_model
from lanas_jax.candidates.population import CompiledPopulation, Placed, Population, place
from lanas_jax.candidates.specialised import Specialised
from lanas_jax.candidates.step import Buildable, Network
from lanas_jax.data.splits import SearchData
from lanas_jax.runtime.devices import cores
from lanas_jax.training.sgd import TrainConfig

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # XLA's status, the only thing that tells its runtime errors apart
NOT_BUILDABLE = "the network cannot be built for one candidate"


@dataclasses.dataclass(frozen=True, eq=False)
class Plans:
    """What can train the candidates of one search.

    Args:
      network: one network for every code; with `for_code`, a network for each too.
      config: how each candidate is trained.
      data: train and search-validation splits.
      devices: where; default: all devices of this process.
      per_device: candidates in one program on each device.
    """

    network: Network
    config: TrainConfig
    data: SearchData
    devices: Sequence[jax.Device] | None
    per_device: int

    @functools.cached_property
    def in_turn(self) -> CompiledPopulation:
        """One program for all candidates, those of a device one after the other."""
        return Population(self.network, self.config, self.devices, self.per_device).compile(self._placed)

    @functools.cached_property
    def abreast(self) -> CompiledPopulation:
        """One program for all candidates, those of a device at the same time."""
        return Population(self.network, self.config, self.devices, self.per_device, abreast=True).compile(self._placed)

    @functools.cached_property
    def alone(self) -> CompiledPopulation:
        """One program for all candidates that trains one of them, with a device's memory to itself."""
        return Population(self.network, self.config, self._devices[:1], per_device=1).compile(self.data)

    @functools.cached_property
    def specialised(self) -> Specialised:
        """A program for each candidate.

        Raises:
          ValueError: the network cannot be built for one code.
        """
        if not isinstance(self.network, Buildable):
            raise ValueError(f"{type(self.network).__name__} has no for_code: there is no program for each candidate")
        return Specialised(self.network, self.config, self.data, self.devices)

    @property
    def compile_seconds(self) -> float:
        """That programs for all candidates have taken so far."""
        made = (self.__dict__.get(name) for name in ("in_turn", "abreast", "alone"))
        return float(sum(programs.compile_seconds for programs in made if programs is not None))

    def choose(
        self,
        candidates: int,
        codes: Int[np.ndarray, "n dims"],
        keys: Key[jax.Array, " n"],
        abreast: bool | Literal["auto"] = "auto",
    ) -> cost_model.Choice:
        """Measures what each plan takes for some of the candidates, and tells which trains all of them sooner.

        Args:
          candidates: of the whole search.
          codes: some of them.
          keys: of their trainings.
          abreast: whether the shared program trains a device's candidates at the same time; ``auto``: what is faster.
        """
        work = cost_model.Workload(
            candidates=candidates,
            steps=self.config.steps(len(self.data.train)),
            devices=len(self._devices),
            threads=cores(),
            on_cores=self._devices[0].platform == "cpu",
        )
        buildable = isinstance(self.network, Buildable)
        if not buildable and (work.on_cores or abreast != "auto"):
            return cost_model.Choice(False, abreast is True, NOT_BUILDABLE)
        costs = self._shared_costs(work, codes, keys, abreast)
        if not buildable or cost_model.never_sooner(costs.shared, work):
            choice = cost_model.choose(costs, work)
            why = "a program for each could not be sooner" if buildable else NOT_BUILDABLE
            return dataclasses.replace(choice, reason=f"{choice.reason}; {why}")
        each = cost_model.measured(self.specialised.compile(codes[0]), codes[:1], keys[:1])
        return cost_model.choose(dataclasses.replace(costs, specialised=each), work)

    def _shared_costs(
        self,
        work: cost_model.Workload,
        codes: Int[np.ndarray, "n dims"],
        keys: Key[jax.Array, " n"],
        abreast: bool | Literal["auto"],
    ) -> cost_model.Costs:
        """Of the shared program in the layouts that come into question; one that does not fit into memory does not."""
        if abreast is True:
            return cost_model.Costs(abreast=cost_model.measured(self.abreast, codes, keys))
        costs = cost_model.Costs(cost_model.measured(self.in_turn, codes, keys))
        if not abreast or self.per_device == 1 or not cost_model.abreast_may_pay(costs.shared, work):
            return costs
        try:
            return dataclasses.replace(costs, abreast=cost_model.measured(self.abreast, codes, keys))
        except jax.errors.JaxRuntimeError as error:
            if OUT_OF_MEMORY not in str(error):
                raise
            return costs

    @functools.cached_property
    def _placed(self) -> Placed:
        """The data, which all shared programs of all devices read."""
        return place(self.data, self._devices)

    @property
    def _devices(self) -> Sequence[jax.Device]:
        return list(self.devices) if self.devices is not None else jax.local_devices()
