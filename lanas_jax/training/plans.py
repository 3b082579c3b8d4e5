"""The ways to train a search's candidates, made when they are needed, and the choice between them."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Int, Key

from lanas_jax.data.splits import SearchData
from lanas_jax.hardware import cores
from lanas_jax.training import cost_model
from lanas_jax.training.population import CompiledPopulation, Population
from lanas_jax.training.specialised import Specialised
from lanas_jax.training.step import Buildable, Network, TrainConfig


@dataclasses.dataclass(frozen=True, eq=False)
class Plans:
    """What can train the candidates of one search.

    Args:
      network: one network for every code; with `for_code`, a network for each too.
      config: how each candidate is trained.
      data: train and search-validation splits.
      devices: where; default: all devices of this process.
      per_device: candidates in one program on each device.
      abreast: `vmap` over a device's candidates instead of one after the other.
    """

    network: Network
    config: TrainConfig
    data: SearchData
    devices: Sequence[jax.Device] | None
    per_device: int
    abreast: bool

    @functools.cached_property
    def shared(self) -> CompiledPopulation:
        """One program for all candidates."""
        population = Population(self.network, self.config, self.devices, self.per_device, self.abreast)
        return population.compile(self.data)

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
        made = (self.__dict__.get(name) for name in ("shared", "alone"))
        return float(sum(programs.compile_seconds for programs in made if programs is not None))

    def choose(
        self, candidates: int, codes: Int[np.ndarray, "n dims"], keys: Key[jax.Array, " n"]
    ) -> cost_model.Choice:
        """Measures what each plan takes for some of the candidates, and tells which trains all of them sooner."""
        if not isinstance(self.network, Buildable):
            return cost_model.Choice(False, "the network cannot be built for one candidate")
        work = cost_model.Workload(
            candidates=candidates,
            steps=self.config.steps(len(self.data.train)),
            devices=len(self._devices),
            threads=cores(),
            on_cores=self._devices[0].platform == "cpu",
        )
        shared = cost_model.measured(self.shared, codes, keys)
        if cost_model.never_sooner(shared, work):
            return cost_model.choose(shared, None, work)
        specialised = cost_model.measured(self.specialised.compile(codes[0]), codes[:1], keys[:1])
        return cost_model.choose(shared, specialised, work)

    @property
    def _devices(self) -> Sequence[jax.Device]:
        return list(self.devices) if self.devices is not None else jax.local_devices()
