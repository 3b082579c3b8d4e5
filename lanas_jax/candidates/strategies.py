"""The forms in which the candidates of a search train, compiled on demand, and the choice between them.

All forms give the same results, to rounding:

- *shared*: one program for all codes, whose conditionals and loops run the selected operations only
- *branchless*: one program for all codes without control flow, which trains K candidates vmapped on each device. A
  network with `as_branchless` has a form of its own; `vmap` turns the conditionals of any other network into selections
- *specialised*: one program per candidate
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Int, Key

from lanas_jax.candidates import cost_model
from lanas_jax.candidates.population import CompiledPopulation, Placed, Population, place
from lanas_jax.candidates.specialised import Specialised
from lanas_jax.candidates.step import Buildable, Network, Selectable
from lanas_jax.data.splits import SearchData
from lanas_jax.runtime import distributed
from lanas_jax.runtime.devices import cores
from lanas_jax.runtime.distributed import DistributedError
from lanas_jax.training.sgd import TrainConfig

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # XLA's status code, the only way to distinguish its runtime errors
NOT_BUILDABLE = "the network cannot be built for a single code"


@dataclasses.dataclass(eq=False)
class Strategies:
    """The training strategies of one search, with the programs compiled so far.

    Args:
      network: network that takes any code as data; with a method `for_code`, also the builder of specialised networks.
      config: training configuration of each candidate.
      data: training and search-validation splits.
      devices: devices to train on; None: all devices of all processes.
      repeats: number of trainings of each candidate.
    """

    network: Network
    config: TrainConfig
    data: SearchData
    devices: Sequence[jax.Device] | None
    repeats: int = 1

    _compiled: dict[tuple[int, bool], CompiledPopulation] = dataclasses.field(
        default_factory=dict, init=False, repr=False
    )

    def shared(self, per_device: int) -> CompiledPopulation:
        """One program for all codes with control flow; the candidates of a device train sequentially."""
        return self._compile(per_device, vmapped=False)

    def branchless(self, vmapped: int) -> CompiledPopulation:
        """One program for all codes without control flow; trains `vmapped` candidates of a device at a time."""
        return self._compile(vmapped, vmapped=True)

    def _compile(self, per_device: int, vmapped: bool) -> CompiledPopulation:
        if (made := self._compiled.get((per_device, vmapped))) is None:
            network = self._flat_network if vmapped else self.network
            made = Population(network, self.config, self.devices, per_device, vmapped).compile(self._placed)
            self._compiled[per_device, vmapped] = made
        return made

    def unmeasured(self, per_device: int) -> CompiledPopulation:
        """The programs for all codes that are measured first, and train as long as nothing could be measured."""
        return self.branchless(1) if self._avoids_control_flow else self.shared(per_device)

    @functools.cached_property
    def alone(self) -> CompiledPopulation:
        """One program for all codes whose candidates have the memory of a device to themselves.

        It trains a single candidate. Of several processes each must take part, so it trains one on each device.
        """
        devices, placed = self._devices, self._placed
        if jax.process_count() == 1:
            devices, placed = devices[:1], placed.on(devices[0])
        flat = self._avoids_control_flow
        network = self._flat_network if flat else self.network
        return Population(network, self.config, devices, per_device=1, vmapped=flat).compile(placed)

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
        return Specialised(self.network, self.config, self._placed, self.devices, repeats=self.repeats)

    @property
    def compile_seconds(self) -> float:
        """Seconds of compiling shared programs so far."""
        made = [*self._compiled.values(), *([self.alone] if "alone" in self.__dict__ else [])]
        return float(sum(programs.compile_seconds for programs in made))

    def choose(
        self,
        candidates: int,
        per_device: int,
        codes: Int[np.ndarray, "n dims"],
        keys: Key[jax.Array, " n"],
        repeats: int = 1,
    ) -> cost_model.StrategyChoice:
        """Measures the forms that may pay on some candidates and returns the one that trains all in the least time.

        Args:
          candidates: number of candidates in the whole search.
          per_device: largest number of candidates per device in one program.
          codes: architectures of the measured candidates.
          keys: PRNG keys of their trainings.
          repeats: number of trainings per candidate.
        """
        work = cost_model.Workload(
            candidates=candidates,
            steps=self.config.steps(len(self.data.train)),
            devices=len(self._devices),
            threads=distributed.broadcast(cores()),
            platform=self._devices[0].platform,
            repeats=repeats,
        )
        buildable = isinstance(self.network, Buildable)
        if not buildable and work.on_cores:
            return cost_model.StrategyChoice("shared", 1, f"{NOT_BUILDABLE}, and the devices are CPU cores")
        costs = self._costs_of_one_program(work, per_device, codes, keys)
        if not buildable or cost_model.never_sooner(costs.one_program, work):
            choice = cost_model.choose(costs, work)
            why = "one program per candidate could not be faster" if buildable else NOT_BUILDABLE
            return dataclasses.replace(choice, reason=f"{choice.reason}; {why}")
        each = cost_model.measure_cost(self.specialised.compile(codes[0]), codes[:1], keys[:1])
        return cost_model.choose(dataclasses.replace(costs, specialised=each), work)

    def _costs_of_one_program(
        self, work: cost_model.Workload, per_device: int, codes: Int[np.ndarray, "n dims"], keys: Key[jax.Array, " n"]
    ) -> cost_model.Costs:
        """Measures the programs for all codes that may pay; a branchless one that does not fit into memory does not."""
        shared = None if self._avoids_control_flow else cost_model.measure_cost(self.shared(per_device), codes, keys)
        costs = cost_model.Costs(shared)
        least = 1 if shared is None or isinstance(self.network, Selectable) else 2  # others have one form, vmapped
        for vmapped in cost_model.widths(per_device, least):
            if not cost_model.another_may_pay(costs, work):
                break
            try:
                cost = cost_model.measure_cost(self.branchless(vmapped), codes, keys)
            except (jax.errors.JaxRuntimeError, DistributedError) as error:
                if OUT_OF_MEMORY not in str(error):
                    raise
                break
            costs = dataclasses.replace(costs, branchless={**costs.branchless, vmapped: cost})
        if costs.branchless or shared:
            return costs
        return cost_model.Costs(cost_model.measure_cost(self.shared(per_device), codes, keys))

    @property
    def _avoids_control_flow(self) -> bool:
        """True if the devices are GPUs, which wait for their host at conditionals."""
        return self._devices[0].platform == "gpu"

    @property
    def _flat_network(self) -> Network:
        return self.network.as_branchless() if isinstance(self.network, Selectable) else self.network

    @functools.cached_property
    def _placed(self) -> Placed:
        """The data, once on each device, read by the programs of all strategies."""
        return place(self.data, self._devices)

    @property
    def _devices(self) -> Sequence[jax.Device]:
        return list(self.devices) if self.devices is not None else jax.devices()
