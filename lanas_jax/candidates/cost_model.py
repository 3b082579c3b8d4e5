"""Which plan trains a search's candidates sooner: one program for all, in one of two layouts, or a program for each.

The time a plan takes follows from what is measured here: seconds to trace and compile its programs, and seconds of one
training step. With `n` candidates of `s` steps on `d` devices, and `c` seconds per compilation,

    shared:       c + n s step / d
    specialised:  c + max((n - 1) c / t, n s step / d)    where devices train while `t` threads compile,
                  n c / t + n s step                      where the devices are the cores that compile: a program
                                                          that is measured alone has all of them to itself,

in which tracing, a part of `c`, is Python's, one program at a time. The shared program trains a device's candidates
one after the other, or abreast where that takes less time a step. Measuring costs compilations of its own, so it is
left out where it cannot pay: a program for each where the shared one is done before anything could have been compiled;
candidates abreast on CPUs, where every branch of a code's choices would keep cores busy that none leaves idle, and
where those one after the other are done before a second program would be compiled.

A program that was found, in a cache of compiled programs or among those of this process, took less to make than it
would have otherwise. Its plan has it at that price; the programs of other candidates, which may be in no cache, are
reckoned at the full one.
"""

import dataclasses
import math
import time

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from lanas_jax.candidates.population import CompiledPopulation

ENDLESS = 2**30  # steps of a training that is timed at its beginning

LEAST_COMPILE_SECONDS = 1.0  # that a program of a candidate takes, whatever the network
TIMED_STEPS = 4  # by which a step is measured
TOLD_SECONDS = 0.05  # of compilation that a cache saved, from which on it is told


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
      saved_seconds: that making them would have taken beyond that, had they not been found (`CompiledPopulation`).
    """

    trace_seconds: float
    compile_seconds: float
    step_seconds: float
    saved_seconds: float = 0.0

    def training(self, work: Workload) -> float:
        """Seconds that devices train."""
        return work.candidates * work.steps * self.step_seconds / work.devices

    def compiling(self, candidates: int, threads: int) -> float:
        """Seconds that threads compile programs for so many other candidates."""
        return candidates * max(self.trace_seconds, (self.compile_seconds + self.saved_seconds) / threads)


def measured(
    programs: CompiledPopulation, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"], steps: int = TIMED_STEPS
) -> PlanCost:
    """Measures a step of compiled programs."""
    share, _ = time_steps(programs, codes, keys, min(steps, programs.population.steps_per_dispatch))
    step_seconds = share * programs.population.mesh.size
    return PlanCost(programs.trace_seconds, programs.compile_seconds, step_seconds, programs.saved_seconds)


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


def abreast_may_pay(in_turn: PlanCost, work: Workload) -> bool:
    """Whether candidates abreast may save more than it takes to compile a program for them, which is in no cache."""
    return not work.on_cores and in_turn.training(work) > in_turn.compile_seconds + in_turn.saved_seconds


@dataclasses.dataclass(frozen=True)
class Costs:
    """What was measured; None where it was not, at least one of the two shared programs apart.

    Attributes:
      in_turn: the shared program, a device's candidates one after the other.
      abreast: the shared program, a device's candidates at the same time.
      specialised: a program for each candidate.
    """

    in_turn: PlanCost | None = None
    abreast: PlanCost | None = None
    specialised: PlanCost | None = None

    @property
    def goes_abreast(self) -> bool:
        """Whether the shared program is the one with candidates abreast: both are compiled, so the step decides."""
        if self.in_turn is None or self.abreast is None:
            return self.abreast is not None
        return self.abreast.step_seconds < self.in_turn.step_seconds

    @property
    def shared(self) -> PlanCost:
        """That of the shared program in the better layout.

        Raises:
          ValueError: neither was measured.
        """
        found = self.abreast if self.goes_abreast else self.in_turn
        if found is None:
            raise ValueError("no shared program was measured")
        return found


@dataclasses.dataclass(frozen=True)
class Choice:
    """The plan that was chosen.

    Attributes:
      specialised: whether it is a program for each candidate.
      abreast: whether the shared program trains a device's candidates at the same time.
      reason: in words, with the figures.
    """

    specialised: bool
    abreast: bool
    reason: str


def choose(costs: Costs, work: Workload) -> Choice:
    """The plan that takes less time."""
    one = shared_seconds(costs.shared, work)
    layouts = {"": costs.in_turn, ", candidates abreast": costs.abreast}
    told = [
        f"one program for all{layout} {_words(cost)}: {shared_seconds(cost, work):,.0f} s"
        for layout, cost in layouts.items()
        if cost is not None
    ]
    each = math.inf if costs.specialised is None else specialised_seconds(costs.specialised, work)
    if costs.specialised is not None:
        told.append(f"a program for each {_words(costs.specialised)}: {each:,.0f} s")
    text = f"{work.candidates} candidates of {work.steps} steps on {work.devices} device(s): {'; '.join(told)}"
    return Choice(each < one, costs.goes_abreast, text)


def _words(cost: PlanCost) -> str:
    saved = f", {cost.saved_seconds:.1f} s saved by the cache" if cost.saved_seconds >= TOLD_SECONDS else ""
    return f"({cost.compile_seconds:.1f} s to compile{saved}, {1000 * cost.step_seconds:.3g} ms a step)"


def time_steps(
    programs: CompiledPopulation,
    codes: Int[np.ndarray, "n dims"],
    keys: Key[jax.Array, " n"],
    steps: int | None = None,
) -> tuple[float, Int[np.ndarray, "m dims"]]:
    """Seconds of one step of one candidate: those of a whole dispatch by its steps and candidates.

    Candidates fill the programs' `width`, some of them again where they are too few; each takes the steps of one
    dispatch. A step before all others is not timed. Initial weights and evaluation are not counted.

    Args:
      programs: what trains them.
      codes: candidates.
      keys: of their trainings.
      steps: to take, at most those of a dispatch; default: all of them.

    Returns:
      The mean over all that were timed, and their codes.

    Raises:
      FloatingPointError: a loss became NaN or infinite, so that fewer steps were taken than timed.
    """
    width, steps = programs.population.width, steps or programs.population.steps_per_dispatch
    rows = np.arange(-(-len(codes) // width) * width) % len(codes)
    totals, one, untils = (jax.device_put(np.full(width, n, np.int32), programs.sharding) for n in (ENDLESS, 1, steps))
    data, seconds = (programs.numbers, *programs.placed.train), 0.0
    for first in range(0, len(rows), width):
        here = rows[first : first + width]
        placed, placed_keys = (jax.device_put(x[here], programs.sharding) for x in (codes, keys))
        if not first:
            programs.advance(programs.start(placed, placed_keys), placed, totals, one, *data)
        state = jax.block_until_ready(programs.start(placed, placed_keys))
        began = time.perf_counter()
        state = jax.block_until_ready(programs.advance(state, placed, totals, untils, *data))
        seconds += time.perf_counter() - began
        if not np.all(np.asarray(state.step) == steps):
            raise FloatingPointError(f"a loss became NaN or infinite: of {steps} steps were taken {state.step}")
    return seconds / (steps * len(rows)), codes[rows]
