"""Which plan trains a search's candidates sooner: one program for all, or a program for each.

The time a plan takes follows from what is measured here: seconds to trace and compile its programs, and seconds of one
training step. With `n` candidates of `s` steps on `d` devices, and `c` seconds per compilation,

    shared:       c + n s step / d
    specialised:  c + max((n - 1) c / t, n s step / d)    where devices train while `t` threads compile,
                  n c / t + n s step                      where the devices are the cores that compile: a program
                                                          that is measured alone has all of them to itself,

in which tracing, a part of `c`, is Python's, one program at a time. Measuring the second plan costs a compilation of
its own, so it is left out where the first one is done before the second could have compiled anything.
"""

import dataclasses

import numpy as np
from jaxtyping import Array, Int, Key

from lanas_jax.training.population import CompiledPopulation
from lanas_jax.training.timing import time_steps

LEAST_COMPILE_SECONDS = 1.0  # that a program of a candidate takes, whatever the network
TIMED_STEPS = 4  # by which a step is measured


@dataclasses.dataclass(frozen=True)
class Workload:
    """What is to be trained, on what.

    Attributes:
      candidates: of the whole search.
      steps: of each.
      devices: that train.
      threads: that compile.
      on_cores: whether the devices are the cores that compile.
    """

    candidates: int
    steps: int
    devices: int
    threads: int
    on_cores: bool


@dataclasses.dataclass(frozen=True)
class PlanCost:
    """What was measured of a plan.

    Attributes:
      trace_seconds: of making its programs, the part that Python takes.
      compile_seconds: of making them, all together.
      step_seconds: of one step of one candidate, on one device.
    """

    trace_seconds: float
    compile_seconds: float
    step_seconds: float

    def training(self, work: Workload) -> float:
        """Seconds that devices train."""
        return work.candidates * work.steps * self.step_seconds / work.devices

    def compiling(self, candidates: int, threads: int) -> float:
        """Seconds that threads compile programs for so many candidates."""
        return candidates * max(self.trace_seconds, self.compile_seconds / threads)


def measured(
    programs: CompiledPopulation, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"], steps: int = TIMED_STEPS
) -> PlanCost:
    """Measures a step of compiled programs."""
    share, _ = time_steps(programs, codes, keys, min(steps, programs.population.steps_per_dispatch))
    return PlanCost(programs.trace_seconds, programs.compile_seconds, share * programs.population.mesh.size)


def shared_seconds(cost: PlanCost, work: Workload) -> float:
    """Seconds of a search by one program for all candidates."""
    return cost.compile_seconds + cost.training(work)


def specialised_seconds(cost: PlanCost, work: Workload) -> float:
    """Seconds of a search by a program for each candidate."""
    if work.on_cores:
        return cost.compiling(work.candidates, work.threads) + work.devices * cost.training(work)
    ahead = cost.compiling(work.candidates - 1, work.threads)
    return cost.compile_seconds + max(ahead, cost.training(work))


def never_sooner(shared: PlanCost, work: Workload) -> bool:
    """Whether programs for each candidate cannot be sooner, however fast they are."""
    least = PlanCost(0.0, LEAST_COMPILE_SECONDS, 0.0)
    return shared.training(work) <= specialised_seconds(least, work)


@dataclasses.dataclass(frozen=True)
class Choice:
    """The plan that was chosen.

    Attributes:
      specialised: whether it is a program for each candidate.
      reason: in words, with the figures.
    """

    specialised: bool
    reason: str


def choose(shared: PlanCost, specialised: PlanCost | None, work: Workload) -> Choice:
    """The plan that takes less time; `specialised` is None where it was not worth measuring."""
    one = shared_seconds(shared, work)
    text = f"{work.candidates} candidates of {work.steps} steps on {work.devices} device(s): "
    text += f"one program for all {_words(shared)}: {one:,.0f} s"
    if specialised is None:
        return Choice(False, f"{text}; a program for each could not be sooner")
    each = specialised_seconds(specialised, work)
    text += f"; a program for each {_words(specialised)}: {each:,.0f} s"
    return Choice(each < one, text)


def _words(cost: PlanCost) -> str:
    return f"({cost.compile_seconds:.1f} s to compile, {1000 * cost.step_seconds:.3g} ms a step)"
