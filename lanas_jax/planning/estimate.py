"""From a compiled program to what it needs: memory of a chip, the least time of a step, chip-hours of a stage.

Memory is what the compiler planned: arguments, outputs and temporaries, less what outputs share with arguments. The
least time of a step is the larger of two (the roofline): its operations at the chip's peak, and the bytes that the
compiled program moves at the memory's bandwidth. Operations are those that the networks' multiply-adds need, two each,
where they are known, and those that the compiler counts else. Nothing is counted of what chips tell each other, of
waiting for images, or of a peak that is not reached.
"""

import dataclasses
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from lanas_jax.planning.stage import Stage, TracedProgram
from lanas_jax.planning.topology import Chip, Topology

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # of errors of the compiler
NEEDED = re.compile(r"\(([0-9.]+)([KMGT])\) exceeds|Used ([0-9.]+)([KMGT]) of")
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
CLOSE = 8  # the largest batch is looked for to an eighth of itself: each try compiles


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one chip that a program needs.

    Attributes:
      arguments: weights, images, whatever is there before it runs.
      outputs: what it leaves.
      temporaries: what it needs meanwhile.
      aliased: outputs in the place of arguments.
    """

    arguments: int
    outputs: int
    temporaries: int
    aliased: int

    @classmethod
    def of(cls, analysis: Any) -> "Memory":
        """From what a compiled program's `memory_analysis` says."""
        names = ("argument", "output", "temp", "alias")
        return cls(*(getattr(analysis, f"{name}_size_in_bytes") for name in names))

    @property
    def total(self) -> int:
        """All of it, at the worst moment."""
        return self.arguments + self.outputs + self.temporaries - self.aliased


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a stage needs on a machine. Operations and bytes are those of a step on one chip.

    Attributes:
      stage: its name.
      chips: that it runs on.
      batch_size: images in a step.
      steps: of the whole stage, one after the other.
      memory: bytes of a chip, None where the compiler gave up for want of it.
      needed: bytes of a chip, as far as they are known, None where the compiler does not say.
      available: bytes of a chip.
      flops: that the multiply-adds of the networks need, None where these are not known.
      counted_flops: that the compiler counts; of a conditional, those of its most expensive branch.
      moved: bytes to and from memory, as the compiler counts.
      step_seconds: at least, by the roofline.
      bound: ``compute`` or ``memory``, which of the two that is.
      compile_seconds: that this estimate took.
      setting: what sets the batch size.
      largest_batch: the largest batch size found to fit, where this one does not; 0: none was.
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
    compile_seconds: float
    setting: str
    largest_batch: int | None = None

    @property
    def fits(self) -> bool:
        """Whether the chip's memory is enough."""
        return self.memory is not None and self.memory.total <= self.available

    @property
    def chip_hours(self) -> float | None:
        """Of the whole stage, at least."""
        return None if self.step_seconds is None else self.step_seconds * self.steps * self.chips / 3600


def estimate(stage: Stage, topology: Topology, note: Callable[[str], None] = lambda text: None) -> Estimate:
    """Compiles a stage; where it does not fit, also for smaller batches until the largest that does is about known.

    Args:
      stage: of an experiment.
      topology: the machine.
      note: is told what is compiled.

    Raises:
      ValueError: a batch that the chips cannot share equally.
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
    """The largest number found that fits, by bisection, exact to about an eighth of it; 0: not even 1 does."""
    low, high = 0, too_large
    while high - low > max(1, low // CLOSE):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def at_batch(stage: Stage, topology: Topology, batch_size: int) -> Estimate:
    """Compiles a stage at a batch size.

    Raises:
      ValueError: a batch that the chips cannot share equally.
    """
    began = time.perf_counter()
    program = stage.program(topology.devices, batch_size)
    try:
        compiled = program.lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if OUT_OF_MEMORY not in str(error):
            raise
        memory, costs, needed = None, {}, needed_bytes(str(error))
    else:
        memory, costs = Memory.of(compiled.memory_analysis()), first_costs(compiled.cost_analysis())
        needed = float(memory.total)
    seconds = time.perf_counter() - began
    flops = None if program.multiply_adds is None else 2 * program.multiply_adds
    counted, moved = (_per_step(costs, name, program) for name in ("flops", "bytes accessed"))
    step_seconds, bound = roofline(topology.chip, counted if flops is None else flops, moved)
    return Estimate(
        stage.name,
        program.devices,
        batch_size,
        program.steps,
        memory,
        needed,
        topology.chip.memory,
        flops,
        counted,
        moved,
        step_seconds,
        bound,
        seconds,
        stage.setting,
    )


def roofline(chip: Chip, flops: float | None, moved: float | None) -> tuple[float | None, str | None]:
    """Seconds that so many operations and bytes take at least, and whether ``compute`` or ``memory`` bounds them."""
    seconds = {}
    if flops is not None:
        seconds["compute"] = flops / chip.flops
    if moved is not None:
        seconds["memory"] = moved / chip.bandwidth
    bound = max(seconds, key=lambda name: seconds[name], default=None)
    return (None, None) if bound is None else (seconds[bound], bound)


def needed_bytes(error: str) -> float | None:
    """The bytes of memory that a compiler's error says are needed."""
    found = NEEDED.search(error)
    if found is None:
        return None
    number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
    return float(number) * UNITS[unit]


def first_costs(costs: Any) -> dict[str, float]:
    """What `cost_analysis` says of the program of one chip; {} where it says nothing."""
    return dict(costs[0] if isinstance(costs, Sequence) and costs else costs or {})


def _per_step(costs: dict[str, float], name: str, program: TracedProgram) -> float | None:
    return costs[name] / program.counted if costs.get(name, -1) >= 0 else None
