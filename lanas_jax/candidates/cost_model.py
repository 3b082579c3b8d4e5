"""Cost model that chooses the faster strategy for a search: one shared program, in two layouts, or one per candidate.

The duration of a strategy follows from two measurements: the seconds to trace and compile its programs, and the
seconds of one training step. With `n` candidates of `s` steps on `d` devices, and `c` seconds per compilation,

    shared:       c + n s step / d
    specialised:  c + max((n - 1) c / t, n s step / d)    if the devices train while `t` threads compile,
                  n c / t + n s step                      if the devices are the cores that compile: a program
                                                          that is measured alone uses all of them.

Tracing is part of `c`. It runs in Python, one program at a time. The shared program trains a device's candidates
sequentially, or vmapped if that takes less time per step. A measurement costs compilations, so it is skipped if it
cannot pay. Specialised programs are not measured if the shared program would finish before any compilation. The
vmapped layout is not measured on CPUs, where it would compute every branch of a code's choices on busy cores, or if the
sequential layout would finish before a second compilation.

A program found in a cache of compiled programs, on disk or in this process, took less time to make. Its strategy counts
the actual time. The programs of other candidates may be in no cache, so they count at the full compilation time.
"""

import dataclasses
import math
import time

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from lanas_jax.candidates.population import CompiledPopulation
from lanas_jax.candidates.step import TrainState
from lanas_jax.runtime import distributed
from lanas_jax.runtime.global_arrays import fetch_global, put_global

ENDLESS = 2**30  # length of a training of which only the first steps are timed

LEAST_COMPILE_SECONDS = 1.0  # lower bound for compiling a candidate's program, for any network
TIMED_STEPS = 4  # steps per measurement
REPORTED_SECONDS = 0.05  # smallest reported compilation time saved by a cache


@dataclasses.dataclass(frozen=True)
class Workload:
    """The candidates to train and the hardware to train them on.

    Attributes:
      candidates: number of candidates in the whole search.
      steps: number of training steps per candidate.
      devices: number of devices that train.
      threads: number of threads that compile.
      on_cores: True if the devices are the CPU cores that also compile.
    """

    candidates: int
    steps: int
    devices: int
    threads: int
    on_cores: bool


@dataclasses.dataclass(frozen=True)
class StrategyCost:
    """The measured costs of a strategy.

    Attributes:
      trace_seconds: seconds to trace its programs, in Python; part of `compile_seconds`.
      compile_seconds: seconds to trace and compile its programs.
      step_seconds: seconds of one training step of one candidate on one device.
      saved_seconds: additional compilation seconds that a cache saved (see `CompiledPopulation`).
    """

    trace_seconds: float
    compile_seconds: float
    step_seconds: float
    saved_seconds: float = 0.0

    def training(self, work: Workload) -> float:
        """Seconds of training on all devices."""
        return work.candidates * work.steps * self.step_seconds / work.devices

    def compiling(self, candidates: int, threads: int) -> float:
        """Seconds to compile the programs of `candidates` further candidates in `threads` threads."""
        return candidates * max(self.trace_seconds, (self.compile_seconds + self.saved_seconds) / threads)


def measure_cost(
    programs: CompiledPopulation, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"], steps: int = TIMED_STEPS
) -> StrategyCost:
    """Measures the costs of compiled programs; of several processes, all return the measurement of process 0."""
    share, _ = time_steps(programs, codes, keys, min(steps, programs.population.steps_per_dispatch))
    step_seconds = share * programs.population.mesh.size
    measured = (programs.trace_seconds, programs.compile_seconds, step_seconds, programs.saved_seconds)
    return StrategyCost(*distributed.broadcast(measured))


def shared_seconds(cost: StrategyCost, work: Workload) -> float:
    """Seconds of a search with one shared program for all candidates."""
    return cost.compile_seconds + cost.training(work)


def specialised_seconds(cost: StrategyCost, work: Workload) -> float:
    """Seconds of a search with one program per candidate."""
    if work.on_cores:
        return cost.compiling(work.candidates, work.threads) + work.devices * cost.training(work)
    ahead = cost.compiling(work.candidates - 1, work.threads)
    return cost.compile_seconds + max(ahead, cost.training(work))


def never_sooner(shared: StrategyCost, work: Workload) -> bool:
    """True if specialised programs cannot finish earlier, however fast their steps are."""
    least = StrategyCost(0.0, LEAST_COMPILE_SECONDS, 0.0)
    return shared.training(work) <= specialised_seconds(least, work)


def vmap_may_pay(sequential: StrategyCost, work: Workload) -> bool:
    """True if vmapped candidates may save more time than compiling their program takes without a cache."""
    return not work.on_cores and sequential.training(work) > sequential.compile_seconds + sequential.saved_seconds


@dataclasses.dataclass(frozen=True)
class Costs:
    """The measured costs of all strategies; None if not measured. At least one shared program is measured.

    Attributes:
      sequential: costs of the shared program with sequential candidates on each device.
      vmapped: costs of the shared program with vmapped candidates on each device.
      specialised: costs of one program per candidate.
    """

    sequential: StrategyCost | None = None
    vmapped: StrategyCost | None = None
    specialised: StrategyCost | None = None

    @property
    def uses_vmap(self) -> bool:
        """True if the vmapped layout is faster. Both programs are compiled already, so the step time decides."""
        if self.sequential is None or self.vmapped is None:
            return self.vmapped is not None
        return self.vmapped.step_seconds < self.sequential.step_seconds

    @property
    def shared(self) -> StrategyCost:
        """Costs of the shared program in the faster layout.

        Raises:
          ValueError: neither layout was measured.
        """
        found = self.vmapped if self.uses_vmap else self.sequential
        if found is None:
            raise ValueError("no shared program was measured")
        return found


@dataclasses.dataclass(frozen=True)
class StrategyChoice:
    """The chosen strategy.

    Attributes:
      specialised: True for one program per candidate, False for a shared program.
      vmapped: True if the shared program trains a device's candidates vmapped, False if sequentially.
      reason: explanation in words, with the measured figures.
    """

    specialised: bool
    vmapped: bool
    reason: str


def choose(costs: Costs, work: Workload) -> StrategyChoice:
    """Returns the strategy with the shorter estimated time."""
    one = shared_seconds(costs.shared, work)
    layouts = {"": costs.sequential, ", vmapped candidates": costs.vmapped}
    parts = [
        f"one program for all{layout} {_words(cost)}: {shared_seconds(cost, work):,.0f} s"
        for layout, cost in layouts.items()
        if cost is not None
    ]
    each = math.inf if costs.specialised is None else specialised_seconds(costs.specialised, work)
    if costs.specialised is not None:
        parts.append(f"one program per candidate {_words(costs.specialised)}: {each:,.0f} s")
    text = f"{work.candidates} candidates of {work.steps} steps on {work.devices} device(s): {'; '.join(parts)}"
    return StrategyChoice(each < one, costs.uses_vmap, text)


def _words(cost: StrategyCost) -> str:
    saved = f", {cost.saved_seconds:.1f} s saved by the cache" if cost.saved_seconds >= REPORTED_SECONDS else ""
    return f"({cost.compile_seconds:.1f} s to compile{saved}, {1000 * cost.step_seconds:.3g} ms a step)"


def time_steps(
    programs: CompiledPopulation,
    codes: Int[np.ndarray, "n dims"],
    keys: Key[jax.Array, " n"],
    steps: int | None = None,
) -> tuple[float, Int[np.ndarray, "m dims"]]:
    """Measures the seconds of one step of one candidate: the time of a dispatch divided by its steps and candidates.

    The candidates fill the `width` of the programs; if they are too few, some are repeated. Each takes the steps of one
    dispatch. One step is run before the timing. Initialization and evaluation are not counted.

    Args:
      programs: compiled programs to measure.
      codes: architectures of the candidates.
      keys: PRNG keys of their trainings.
      steps: number of timed steps, at most the steps of a dispatch; default: all of them.

    Returns:
      The mean seconds over all timed candidates, and their codes.

    Raises:
      FloatingPointError: a loss became NaN or infinite, so that training stopped before the last timed step.
    """
    width, steps = programs.population.width, steps or programs.population.steps_per_dispatch
    rows = np.arange(-(-len(codes) // width) * width) % len(codes)
    totals, one, untils = (put_global(np.full(width, n, np.int32), programs.sharding) for n in (ENDLESS, 1, steps))
    data, seconds = (programs.numbers, *programs.placed.train), 0.0
    for first in range(0, len(rows), width):
        here = rows[first : first + width]

        def batch(here: np.ndarray = here, first: int = first) -> tuple[TrainState, float]:
            placed, placed_keys = (put_global(x[here], programs.sharding) for x in (codes, keys))
            if not first:
                programs.advance(programs.start(placed, placed_keys), placed, totals, one, *data)
            state = jax.block_until_ready(programs.start(placed, placed_keys))
            began = time.perf_counter()
            state = jax.block_until_ready(programs.advance(state, placed, totals, untils, *data))
            return state, time.perf_counter() - began

        state, took = distributed.together(batch, jax.errors.JaxRuntimeError)
        seconds += took
        if not np.all((taken := fetch_global(state.step)) == steps):
            raise FloatingPointError(f"a loss became NaN or infinite: expected {steps} steps, got {taken}")
    return seconds / (steps * len(rows)), codes[rows]
