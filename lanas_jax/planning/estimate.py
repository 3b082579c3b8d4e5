"""Resource estimates of a compiled program: memory per chip, time of a step, chip-hours of a stage.

Memory is the allocation planned by the compiler: arguments, outputs and temporaries, minus outputs that alias
arguments. The minimum step time is the roofline: the larger of the operations divided by the chip's peak and the bytes
moved by the compiled program divided by the memory bandwidth. Operations are two per multiply-add of the networks if
these are known, otherwise the compiler's count. Bytes are summed over the instructions of the program
(`lanas_jax.planning.costs`), with loops as often as they run. On TPUs, a second figure is no bound: the sum of the
cycles that the compiler estimates for each instruction. Neither includes communication between chips or waiting for
images.
"""

import dataclasses
import functools
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from lanas_jax.planning.costs import Branches, CostAnalysis, ProgramCosts
from lanas_jax.planning.hlo import parse_module
from lanas_jax.planning.stage import Stage, TracedProgram
from lanas_jax.planning.topology import Chip, Topology
from lanas_jax.runtime.arithmetic import in_32_bits

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # status code in compiler errors
NEEDED = re.compile(r"\(([0-9.]+)([KMGT])\) exceeds|Used ([0-9.]+)([KMGT]) of")
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
BRANCHES: tuple[Branches, Branches] = ("mean", "costliest")
CLOSE = 8  # precision of the largest batch, an eighth of itself, since each try compiles


@dataclasses.dataclass(frozen=True)
class Memory:
    """Memory of a program on one chip, in bytes.

    Attributes:
      arguments: bytes of arguments, such as weights and images.
      outputs: bytes of outputs.
      temporaries: bytes of temporaries.
      aliased: bytes of outputs that reuse the memory of arguments.
    """

    arguments: int
    outputs: int
    temporaries: int
    aliased: int

    @classmethod
    def of(cls, analysis: Any) -> "Memory":
        """Creates a `Memory` from the `memory_analysis` of a compiled program."""
        names = ("argument", "output", "temp", "alias")
        return cls(*(getattr(analysis, f"{name}_size_in_bytes") for name in names))

    @property
    def total(self) -> int:
        """Peak memory in bytes."""
        return self.arguments + self.outputs + self.temporaries - self.aliased


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Resources of a stage on a machine. Operations and bytes are per step on one chip.

    Attributes:
      stage: name of the stage.
      chips: number of chips.
      batch_size: images per step.
      steps: number of sequential steps of the whole stage.
      memory: planned memory of a chip, or None if the compiler ran out of memory.
      needed: required bytes per chip, or None if the compiler does not report them.
      available: available bytes per chip.
      flops: operations of the networks' multiply-adds, or None if these are unknown.
      counted_flops: operations counted by the compiler; a conditional counts as its most expensive branch, the body of
        a loop once.
      moved: bytes moved to and from memory; a conditional counts as the mean of its branches.
      step_seconds: minimum seconds per step, by the roofline.
      bound: limiting resource, ``compute`` or ``memory``.
      estimated_seconds: the compiler's estimated cycles per step, in seconds; a conditional counts as the mean of its
        branches. None if the compiler makes no estimates.
      costliest_seconds: estimated seconds per step with the most expensive branch of each conditional.
      costs: all costs of the compiled program, with the mean of the branches; None if the compiler ran out of memory.
      rounds: number of iterations that loops count whose length depends on data, from the outermost loops inwards.
      compile_seconds: compilation time of this estimate in seconds.
      setting: name of the setting for the batch size.
      largest_batch: largest batch size found to fit, if `batch_size` does not fit; 0: none fits.
      programs: estimates of the programs that together take a step; empty if it is one program. All of these have the
        whole state as an argument, so the stage needs the memory of the program that needs most.
    """

    stage: str
    chips: int
    batch_size: int
    steps: int
    memory: Memory | None
    needed: float | None
    available: float
    flops: float | None
    counted_flops: float | None
    moved: float | None
    step_seconds: float | None
    bound: str | None
    estimated_seconds: float | None
    costliest_seconds: float | None
    costs: ProgramCosts | None
    rounds: tuple[float, ...]
    compile_seconds: float
    setting: str
    largest_batch: int | None = None
    programs: tuple["Estimate", ...] = ()

    @property
    def fits(self) -> bool:
        """True if the stage fits into the memory of a chip."""
        if self.programs:
            return all(one.fits for one in self.programs)
        return self.memory is not None and self.memory.total <= self.available

    @property
    def chip_hours(self) -> float | None:
        """Minimum chip-hours of the whole stage."""
        return None if self.step_seconds is None else self.step_seconds * self.steps * self.chips / 3600


def estimate(stage: Stage, topology: Topology, note: Callable[[str], None] = lambda text: None) -> Estimate:
    """Estimates a stage by compiling it; if it does not fit, searches for the largest batch that does.

    Args:
      stage: stage of an experiment.
      topology: machine to compile for.
      note: callback that receives progress messages.

    Raises:
      ValueError: the batch size is not divisible by the number of chips.
    """
    found = at_batch(stage, topology, stage.batch_size)
    if found.fits:
        return found
    unit = stage.unit(found.chips)

    def fits(per_unit: int) -> bool:
        note(f"{stage.name}: does not fit; trying batches of {per_unit * unit:,}")
        return at_batch(stage, topology, per_unit * unit).fits

    return dataclasses.replace(found, largest_batch=unit * largest(fits, stage.batch_size // unit))


def largest(fits: Callable[[int], bool], too_large: int) -> int:
    """Finds the largest number that fits by bisection, to within about an eighth; returns 0 if not even 1 fits."""
    low, high = 0, too_large
    while high - low > max(1, low // CLOSE):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


@in_32_bits
def at_batch(stage: Stage, topology: Topology, batch_size: int) -> Estimate:
    """Compiles a stage at a given batch size and returns its estimate.

    Raises:
      ValueError: the batch size is not divisible by the number of chips.
    """
    found = stage.program(topology.devices, batch_size)
    if isinstance(found, TracedProgram):
        return _of_program(stage, topology, batch_size, found)
    programs = [_of_program(stage, topology, batch_size, program) for program in found]
    return _of_step(stage, programs, [program.calls for program in found], topology.chip)


def _of_step(stage: Stage, programs: Sequence[Estimate], calls: Sequence[float], chip: Chip) -> Estimate:
    """Returns the estimate of a step from those of its programs and their mean numbers of calls."""

    def total(values: Sequence[float | None]) -> float | None:
        known = [value * times for value, times in zip(values, calls, strict=True) if value is not None]
        return sum(known) if len(known) == len(values) else None

    costs = [one.costs.times(times) for one, times in zip(programs, calls, strict=True) if one.costs is not None]
    largest_need = max(programs, key=lambda one: one.needed if one.needed is not None else float("inf"))
    flops, moved = (total([getattr(one, name) for one in programs]) for name in ("flops", "moved"))
    seconds = total([one.step_seconds for one in programs])
    counted = total([one.counted_flops for one in programs])
    _, bound = roofline(chip, counted if flops is None else flops, moved)
    return dataclasses.replace(
        largest_need,
        stage=stage.name,
        steps=programs[0].steps,
        flops=flops,
        counted_flops=counted,
        moved=moved,
        step_seconds=seconds,
        bound=bound,
        estimated_seconds=total([one.estimated_seconds for one in programs]),
        costliest_seconds=total([one.costliest_seconds for one in programs]),
        costs=functools.reduce(ProgramCosts.plus, costs) if len(costs) == len(programs) else None,
        compile_seconds=sum(one.compile_seconds for one in programs),
        programs=tuple(programs),
    )


def _of_program(stage: Stage, topology: Topology, batch_size: int, program: TracedProgram) -> Estimate:
    """Compiles a program of a stage."""
    began = time.perf_counter()
    try:
        compiled = program.lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if OUT_OF_MEMORY not in str(error):
            raise
        memory, needed, counted, mean, costliest = None, needed_bytes(str(error)), None, None, None
    else:
        memory = Memory.of(compiled.memory_analysis())
        needed = float(memory.total)
        counted = first_costs(compiled.cost_analysis()).get("flops", -1.0)
        counted = counted / program.counted if counted >= 0 else None
        module = parse_module(compiled.as_text() or "")
        mean, costliest = (
            CostAnalysis(module, branches, program.rounds).total().times(1 / program.steps_per_call)
            for branches in BRANCHES
        )
    seconds = time.perf_counter() - began
    flops = None if program.multiply_adds is None else 2 * program.multiply_adds
    moved, clock = None if mean is None else mean.moved, topology.chip.clock
    step_seconds, bound = roofline(topology.chip, counted if flops is None else flops, moved)
    estimated, estimated_costliest = (
        costs.cycles / clock if costs and costs.cycles and clock else None for costs in (mean, costliest)
    )
    return Estimate(
        f"{stage.name}: {program.name}" if program.name else stage.name,
        program.devices,
        batch_size,
        round(program.steps * program.calls),
        memory,
        needed,
        topology.chip.memory,
        flops,
        counted,
        moved,
        step_seconds,
        bound,
        estimated,
        estimated_costliest,
        mean,
        program.rounds,
        seconds,
        stage.setting,
    )


def roofline(chip: Chip, flops: float | None, moved: float | None) -> tuple[float | None, str | None]:
    """Returns the minimum seconds of `flops` operations and `moved` bytes, and ``compute`` or ``memory`` as bound."""
    seconds = {}
    if flops is not None:
        seconds["compute"] = flops / chip.flops
    if moved is not None:
        seconds["memory"] = moved / chip.bandwidth
    bound = max(seconds, key=lambda name: seconds[name], default=None)
    return (None, None) if bound is None else (seconds[bound], bound)


def needed_bytes(error: str) -> float | None:
    """Parses the required bytes of memory from a compiler error; None if the error does not state them."""
    found = NEEDED.search(error)
    if found is None:
        return None
    number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
    return float(number) * UNITS[unit]


def first_costs(costs: Any) -> dict[str, float]:
    """Returns the `cost_analysis` of the program of one chip; {} if the analysis is empty."""
    return dict(costs[0] if isinstance(costs, Sequence) and costs else costs or {})
