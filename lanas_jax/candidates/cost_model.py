"""Cost model that chooses the form in which the candidates of a search finish first.

There are three forms, which give the same results (`strategies.py`):

- *shared*: one program for all codes, which runs the selected operations only, by conditionals and loops; candidates of
  a device train sequentially.
- *branchless*: one program for all codes without control flow, which computes all operations and selects; K candidates
  of a device train vmapped.
- *specialised*: one program per candidate.

The duration of each follows from two measurements: the seconds to trace and compile its programs, and the seconds of
one training step. With `n` candidates of `s` steps in all their trainings on `d` devices, and `c` seconds per
compilation,

    one program:  c + n s step / d
    specialised:  c + max((n - 1) c / t, n s step / d)    if the devices train while `t` threads compile,
                  n c / t + n s step                      if the devices are the cores that compile: a program
                                                          that is measured alone uses all of them.

Tracing is part of `c`. It runs in Python, one program at a time. A measurement costs compilations, so it is skipped if
it cannot pay, by the kind of device:

- CPUs: the branchless form is not measured. It computes every operation on busy cores.
- GPUs: the branchless form is measured first, and the shared form only if that does not fit into memory. A GPU waits
  for its host at every conditional and in every round of a loop whose length is data.
- Other accelerators: both are measured, the branchless form only if the shared one would train for longer than its
  compilation took.

More candidates vmapped are measured as long as the last increase saved time and the next may save more than it takes to
compile. Specialised programs are not measured if one program would finish before any compilation.

A program found in a cache of compiled programs, on disk or in this process, took less time to make. Its strategy counts
the actual time. The programs of other candidates may be in no cache, so they count at the full compilation time.
"""

import dataclasses
import time
from collections.abc import Mapping
from typing import Literal

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from lanas_jax.candidates.population import CompiledPopulation
from lanas_jax.candidates.step import TrainState
from lanas_jax.runtime import distributed
from lanas_jax.runtime.global_arrays import fetch_global, put_global

ENDLESS = 2**30  # length of a training of which only the first steps are timed

LEAST_COMPILE_SECONDS = 1.0  # lower bound for compiling a candidate's program, for any network
LEAST_COMPILE_SHARE = 0.1  # lower bound as a share of the time to compile the program for all codes
TIMED_STEPS = 4  # steps per measurement
LEAST_GAIN = 0.9  # largest ratio of the step times of two widths at which a larger one is measured
REPORTED_SECONDS = 0.05  # smallest reported compilation time saved by a cache

Form = Literal["shared", "branchless", "specialised"]
TITLES: dict[Form, str] = {
    "shared": "one program with control flow",
    "branchless": "one program without control flow, {} at a time on a device",
    "specialised": "one program per candidate",
}


@dataclasses.dataclass(frozen=True)
class Workload:
    """The candidates to train and the hardware to train them on.

    Attributes:
      candidates: number of candidates in the whole search.
      steps: number of steps per training.
      devices: number of devices that train.
      threads: number of threads that compile.
      platform: platform of the devices: ``cpu``, ``gpu`` or ``tpu``.
      repeats: number of trainings per candidate.
    """

    candidates: int
    steps: int
    devices: int
    threads: int
    platform: str
    repeats: int = 1

    @property
    def on_cores(self) -> bool:
        """True if the devices are the CPU cores that also compile."""
        return self.platform == "cpu"


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
        return work.candidates * work.repeats * work.steps * self.step_seconds / work.devices

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


def one_program_seconds(cost: StrategyCost, work: Workload) -> float:
    """Seconds of a search with one program for all candidates."""
    return cost.compile_seconds + cost.training(work)


def specialised_seconds(cost: StrategyCost, work: Workload) -> float:
    """Seconds of a search with one program per candidate."""
    if work.on_cores:
        return cost.compiling(work.candidates, work.threads) + work.devices * cost.training(work)
    ahead = cost.compiling(work.candidates - 1, work.threads)
    return cost.compile_seconds + max(ahead, cost.training(work))


def never_sooner(one: StrategyCost, work: Workload) -> bool:
    """True if specialised programs cannot finish before one program, however fast their steps are."""
    seconds = LEAST_COMPILE_SHARE * (one.compile_seconds + one.saved_seconds)
    least = StrategyCost(0.0, max(LEAST_COMPILE_SECONDS, seconds), 0.0)
    return one.training(work) <= specialised_seconds(least, work)


def widths(per_device: int, least: int) -> tuple[int, ...]:
    """Returns numbers of vmapped candidates to measure: from `least`, all that divide a device's candidates."""
    return tuple(k for k in range(least, per_device + 1) if per_device % k == 0)


def another_may_pay(costs: "Costs", work: Workload) -> bool:
    """True if one more program without control flow may save more time than compiling it takes without a cache.

    The last program that was measured must have saved time itself.
    """
    if work.on_cores:
        return False
    measured = [cost for cost in (costs.shared, *costs.branchless.values()) if cost]
    if not measured:
        return True
    last = measured[-1]
    if len(measured) > 1 and last.step_seconds > LEAST_GAIN * measured[-2].step_seconds:
        return False
    return last.training(work) > last.compile_seconds + last.saved_seconds


@dataclasses.dataclass(frozen=True)
class Costs:
    """The measured costs of the forms.

    Attributes:
      shared: costs of the program with control flow; None if not measured.
      branchless: costs of the programs without control flow by the number of candidates vmapped on each device, in the
        order of measurement.
      specialised: costs of one program per candidate; None if not measured.
    """

    shared: StrategyCost | None = None
    branchless: Mapping[int, StrategyCost] = dataclasses.field(default_factory=dict)
    specialised: StrategyCost | None = None

    @property
    def vmapped(self) -> int | None:
        """Number of candidates vmapped in the fastest program for all codes; None if that is the shared form.

        All measured programs are compiled already, so the step time decides.
        """
        if not self.branchless:
            return None
        fastest = min(self.branchless, key=lambda k: self.branchless[k].step_seconds)
        if self.shared and self.shared.step_seconds <= self.branchless[fastest].step_seconds:
            return None
        return fastest

    @property
    def one_program(self) -> StrategyCost:
        """Costs of the fastest program for all codes.

        Raises:
          ValueError: no program for all codes was measured.
        """
        found = self.shared if self.vmapped is None else self.branchless[self.vmapped]
        if found is None:
            raise ValueError("no program for all codes was measured")
        return found


@dataclasses.dataclass(frozen=True)
class StrategyChoice:
    """The chosen form.

    Attributes:
      strategy: ``shared``, ``branchless`` or ``specialised``.
      vmapped: number of candidates vmapped on each device in the branchless form, otherwise 1.
      reason: explanation in words, with the measured figures.
    """

    strategy: Form
    vmapped: int
    reason: str

    @property
    def title(self) -> str:
        """The form in words."""
        return TITLES[self.strategy].format(self.vmapped)


def choose(costs: Costs, work: Workload) -> StrategyChoice:
    """Returns the form with the shortest estimated time.

    Raises:
      ValueError: no program for all codes was measured.
    """
    vmapped, one = costs.vmapped, one_program_seconds(costs.one_program, work)
    programs = {TITLES["branchless"].format(k): cost for k, cost in costs.branchless.items()}
    if costs.shared:
        programs = {TITLES["shared"]: costs.shared} | programs
    parts = [f"{title} {_words(cost)}: {one_program_seconds(cost, work):,.0f} s" for title, cost in programs.items()]
    strategy: Form = "shared" if vmapped is None else "branchless"
    if costs.specialised:
        each = specialised_seconds(costs.specialised, work)
        parts.append(f"{TITLES['specialised']} {_words(costs.specialised)}: {each:,.0f} s")
        strategy = "specialised" if each < one else strategy
    if not costs.branchless and work.on_cores:
        parts.append("without control flow, cores would compute every operation")
    if not costs.shared:
        parts.append("with control flow, the devices would wait for their host")
    several = f"{work.repeats} trainings of " if work.repeats > 1 else ""
    text = (
        f"{work.candidates} candidates of {several}{work.steps} steps on {work.devices} device(s): {'; '.join(parts)}"
    )
    return StrategyChoice(strategy, vmapped or 1 if strategy == "branchless" else 1, text)


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
