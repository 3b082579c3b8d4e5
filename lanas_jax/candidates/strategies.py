"""The strategies for training the candidates of a search, compiled on demand, and the choice between them."""

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
from lanas_jax.runtime import distributed
from lanas_jax.runtime.devices import cores
from lanas_jax.runtime.distributed import DistributedError
from lanas_jax.training.sgd import TrainConfig

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # XLA's status code, the only way to distinguish its runtime errors
NOT_BUILDABLE = "the network cannot be built for a single code"


@dataclasses.dataclass(frozen=True, eq=False)
class Strategies:
    """The training strategies of one search.

    Args:
      network: network that takes any code as data; with a method `for_code`, also the builder of specialised networks.
      config: training configuration of each candidate.
      data: training and search-validation splits.
      devices: devices to train on; None: all devices of all processes.
      per_device: candidates per device in one program.
    """

    network: Network
    config: TrainConfig
    data: SearchData
    devices: Sequence[jax.Device] | None
    per_device: int

    @functools.cached_property
    def sequential(self) -> CompiledPopulation:
        """One program for all candidates; the candidates of a device train sequentially."""
        return Population(self.network, self.config, self.devices, self.per_device).compile(self._placed)

    @functools.cached_property
    def vmapped(self) -> CompiledPopulation:
        """One program for all candidates; the candidates of a device train vmapped."""
        return Population(self.network, self.config, self.devices, self.per_device, vmapped=True).compile(self._placed)

    @functools.cached_property
    def alone(self) -> CompiledPopulation:
        """One program for all codes whose candidates have the memory of a device to themselves.

        It trains a single candidate. Of several processes each must take part, so it trains one on each device.
        """
        devices = self._devices if jax.process_count() > 1 else self._devices[:1]
        return Population(self.network, self.config, devices, per_device=1).compile(self.data)

    @functools.cached_property
    def specialised(self) -> Specialised:
        """One program per candidate.

        Raises:
          ValueError: the network cannot be built for a single code.
        """
        if not isinstance(self.network, Buildable):
            raise ValueError(
                f"{type(self.network).__name__} has no for_code, which "
                "strategy='specialised' needs; use strategy='shared'"
            )
        return Specialised(self.network, self.config, self.data, self.devices)

    @property
    def compile_seconds(self) -> float:
        """Seconds of compiling shared programs so far."""
        made = (self.__dict__.get(name) for name in ("sequential", "vmapped", "alone"))
        return float(sum(programs.compile_seconds for programs in made if programs is not None))

    def choose(
        self,
        candidates: int,
        codes: Int[np.ndarray, "n dims"],
        keys: Key[jax.Array, " n"],
        vmapped: bool | Literal["auto"] = "auto",
    ) -> cost_model.StrategyChoice:
        """Measures each strategy on some candidates and returns the one that trains all candidates in less time.

        Args:
          candidates: number of candidates in the whole search.
          codes: architectures of the measured candidates.
          keys: PRNG keys of their trainings.
          vmapped: layout of the shared program: True for vmapped, False for sequential; ``auto``: the faster one.
        """
        work = cost_model.Workload(
            candidates=candidates,
            steps=self.config.steps(len(self.data.train)),
            devices=len(self._devices),
            threads=distributed.broadcast(cores()),
            on_cores=self._devices[0].platform == "cpu",
        )
        buildable = isinstance(self.network, Buildable)
        if not buildable and (work.on_cores or vmapped != "auto"):
            return cost_model.StrategyChoice(False, vmapped is True, NOT_BUILDABLE)
        costs = self._shared_costs(work, codes, keys, vmapped)
        if not buildable or cost_model.never_sooner(costs.shared, work):
            choice = cost_model.choose(costs, work)
            why = "one program per candidate could not be faster" if buildable else NOT_BUILDABLE
            return dataclasses.replace(choice, reason=f"{choice.reason}; {why}")
        each = cost_model.measure_cost(self.specialised.compile(codes[0]), codes[:1], keys[:1])
        return cost_model.choose(dataclasses.replace(costs, specialised=each), work)

    def _shared_costs(
        self,
        work: cost_model.Workload,
        codes: Int[np.ndarray, "n dims"],
        keys: Key[jax.Array, " n"],
        vmapped: bool | Literal["auto"],
    ) -> cost_model.Costs:
        """Measures the shared program in the eligible layouts; one that does not fit into memory is not eligible."""
        if vmapped is True:
            return cost_model.Costs(vmapped=cost_model.measure_cost(self.vmapped, codes, keys))
        costs = cost_model.Costs(cost_model.measure_cost(self.sequential, codes, keys))
        if not vmapped or self.per_device == 1 or not cost_model.vmap_may_pay(costs.shared, work):
            return costs
        try:
            return dataclasses.replace(costs, vmapped=cost_model.measure_cost(self.vmapped, codes, keys))
        except (jax.errors.JaxRuntimeError, DistributedError) as error:
            if OUT_OF_MEMORY not in str(error):
                raise
            return costs

    @functools.cached_property
    def _placed(self) -> Placed:
        """The data on the devices, read by the shared programs."""
        return place(self.data, self._devices)

    @property
    def _devices(self) -> Sequence[jax.Device]:
        return list(self.devices) if self.devices is not None else jax.devices()
