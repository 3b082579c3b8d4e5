"""Costs of a compiled program, summed over the instructions of its text (`lanas_jax.planning.hlo`).

XLA's own `cost_analysis` counts the body of a loop once. Here a loop's body counts as often as it runs, and a
conditional as the mean over its branches or as its most expensive branch.

Bytes are those of arrays in the chip's main memory, with the padding of their tiles. An array in on-chip memory
(``S(1)`` in its layout) counts nothing. A slice or gather counts the part that it reads, not the array that it reads
from, also within a fusion.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from lanas_jax.planning.hlo import ARRAY, Computation, Instruction, Module, array_bytes, array_sizes, trip_count

Branches = Literal["mean", "costliest"]

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all", "collective-broadcast")
# Instructions that move no bytes themselves. The second half of an asynchronous instruction is among them.
FREE = frozenset(
    {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "replica-id"}
    | {"opt-barrier", "add-dependency", "domain"}
)
PASSED_ON = frozenset({"bitcast", "reshape", "get-tuple-element"})  # instructions that read their operand in no loop
COPIES = frozenset({"copy-start", "slice-start", "dynamic-slice-start"})  # run concurrently with other instructions
NAMED = frozenset(
    {*COLLECTIVES, "gather", "scatter", "select-and-scatter", "sort"}
)  # instructions that give a fusion its name
LEAST_BYTES = 4096  # arrays below this size need no estimate

SLICE_SIZES = re.compile(r"slice_sizes=\{([\d,]*)\}")
OP_NAME = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind.

    Attributes:
      count: number of collectives.
      bytes: bytes of the whole arrays that they combine or exchange.
    """

    count: float = 0.0
    bytes: float = 0.0

    def plus(self, count: float, size: float) -> "Collective":
        """Returns the sum of both."""
        return Collective(self.count + count, self.bytes + size)


@dataclasses.dataclass(frozen=True)
class ProgramCosts:
    """Costs of one call of a program on one chip; loops count as often as they run.

    Attributes:
      cycles: sum of the compiler's estimates; 0 if it makes none, as on CPUs and GPUs.
      moved: bytes between the chip and its main memory.
      collectives: number and bytes of the collectives of each kind.
      gathers: number of gathers.
      rows: number of rows that gathers read.
      uncounted_gathers: number of gathers without an estimate of cycles.
      uncounted: number of instructions without an estimate, by opcode, if they read or write 4 KiB or more;
        asynchronous copies and custom calls are omitted.
      conditionals: number of conditionals that run.
      unknown_loops: number of loops whose length depends on data.
    """

    cycles: float = 0.0
    moved: float = 0.0
    collectives: Mapping[str, Collective] = dataclasses.field(default_factory=dict)
    gathers: float = 0.0
    rows: float = 0.0
    uncounted_gathers: float = 0.0
    uncounted: Mapping[str, float] = dataclasses.field(default_factory=dict)
    conditionals: float = 0.0
    unknown_loops: float = 0.0

    def times(self, factor: float) -> "ProgramCosts":
        """Returns the costs of several calls."""
        scaled = {name: getattr(self, name) * factor for name in NUMBERS}
        kinds = {kind: Collective(factor * one.count, factor * one.bytes) for kind, one in self.collectives.items()}
        uncounted = {opcode: factor * count for opcode, count in self.uncounted.items()}
        return ProgramCosts(**scaled, collectives=kinds, uncounted=uncounted)

    def plus(self, other: "ProgramCosts") -> "ProgramCosts":
        """Returns the costs of both."""
        summed = {name: getattr(self, name) + getattr(other, name) for name in NUMBERS}
        kinds = dict(self.collectives)
        for kind, one in other.collectives.items():
            kinds[kind] = kinds.get(kind, Collective()).plus(one.count, one.bytes)
        uncounted = {
            opcode: self.uncounted.get(opcode, 0.0) + other.uncounted.get(opcode, 0.0)
            for opcode in {**self.uncounted, **other.uncounted}
        }
        return ProgramCosts(**summed, collectives=kinds, uncounted=uncounted)


NUMBERS = ("cycles", "moved", "gathers", "rows", "uncounted_gathers", "conditionals", "unknown_loops")
NOTHING = ProgramCosts()


class Share(NamedTuple):
    """An instruction's share of the estimated cycles of a program."""

    cycles: float  # of all its runs
    runs: float
    opcode: str
    shape: str
    op_name: str  # traced operation that it comes from


class CostAnalysis:
    """Costs of a compiled program.

    Args:
      module: compiled program.
      branches: cost of a conditional with three or more branches: ``mean`` of its branches, or the ``costliest`` by
        cycles, then by bytes. One with two branches always counts the costlier one, since the other mostly does
        nothing.
      rounds: number of iterations of loops whose length depends on data: of the outermost ones, of those within them,
        and so on; the last number stands for all deeper ones.
      weights: shares of the runs of each branch, which sum to 1, by number of branches; conditionals with other numbers
        of branches count as `branches` says.
    """

    def __init__(
        self,
        module: Module,
        branches: Branches = "mean",
        rounds: Sequence[float] = (1.0,),
        weights: Mapping[int, Sequence[float]] | None = None,
    ):
        self.module, self.branches, self.rounds, self.weights = module, branches, rounds, weights or {}
        self._totals: dict[tuple[str, int], ProgramCosts] = {}

    def total(self, name: str | None = None, depth: int = 0) -> ProgramCosts:
        """Returns the costs of one call of a computation.

        Args:
          name: name of the computation; default: the program.
          depth: number of loops around it whose length depends on data.
        """
        name = self.module.entry if name is None else name
        if (name, depth) not in self._totals:
            within, total = self.module.computations[name], NOTHING
            for one in within.values():
                calls = self._calls(within, one, depth)
                if calls is None:
                    total = total.plus(instruction_costs(self.module, within, one))
                    continue
                for callee, times, deep in calls:
                    total = total.plus(self.total(callee, deep).times(times))
                if one.opcode == "conditional":
                    total = total.plus(ProgramCosts(conditionals=1.0))
                elif one.opcode == "while" and trip_count(self.module, within, one) is None:
                    total = total.plus(ProgramCosts(unknown_loops=1.0))
            self._totals[name, depth] = total
        return self._totals[name, depth]

    def costliest_instructions(self) -> list[Share]:
        """Returns the instructions with estimated cycles, summed over one call of the program; the costliest first."""
        shares: list[Share] = []

        def visit(name: str, runs: float, depth: int) -> None:
            within = self.module.computations[name]
            for one in within.values():
                for callee, times, deep in self._calls(within, one, depth) or ():
                    visit(callee, runs * times, deep)
                if one.cycles and runs:
                    named = OP_NAME.search(one.attributes)
                    shares.append(Share(runs * one.cycles, runs, one.opcode, one.shape, named[1] if named else ""))

        visit(self.module.entry, 1.0, 0)
        return sorted(shares, reverse=True)

    def _calls(self, within: Computation, one: Instruction, depth: int) -> Sequence[tuple[str, float, int]] | None:
        """Returns the computations that an instruction runs, how often, and their depth; None if it runs none."""
        if one.opcode == "while":
            body, trips = one.called("body") or "", trip_count(self.module, within, one)
            if trips is None:
                return [(body, self.rounds[min(depth, len(self.rounds) - 1)], depth + 1)]
            return [(body, float(trips), depth)]
        if one.opcode == "conditional":
            names = one.branches
            if len(names) in self.weights:
                return [(name, share, depth) for name, share in zip(names, self.weights[len(names)], strict=True)]
            if self.branches == "mean" and len(names) > 2:
                return [(name, 1 / len(names), depth) for name in names]
            costs = {name: self.total(name, depth) for name in names}
            return [(max(names, key=lambda name: (costs[name].cycles, costs[name].moved)), 1.0, depth)]
        if one.opcode in ("call", "async-start"):
            called = one.called("to_apply") or one.called("calls")
            return [(called, 1.0, depth)] if called in self.module.computations else None
        return None


def instruction_costs(module: Module, within: Computation, one: Instruction) -> ProgramCosts:
    """Returns the costs of an instruction that calls no other computation, or of a fusion."""
    if one.opcode in FREE or one.opcode.endswith(("-done", "-update")):
        return NOTHING
    cycles = one.cycles
    kinds: dict[str, Collective] = {}
    gathers = rows = 0
    named = one.opcode
    for inner, place in [(one, within), *_fused(module, one)]:
        if (kind := inner.opcode.removesuffix("-start")) in COLLECTIVES:
            kinds[kind] = kinds.get(kind, Collective()).plus(1, _exchanged(inner, place))
        elif inner.opcode == "gather":
            gathers += 1
            rows += _rows(inner)
        named = inner.opcode if inner.opcode in NAMED else named
    touched = array_bytes(one.shape) + sum(array_bytes(within[name].shape) for name in one.reads if name in within)
    lacks = cycles is None and one.opcode not in (*COPIES, "custom-call") and touched >= LEAST_BYTES
    return ProgramCosts(
        cycles=float(cycles or 0),
        moved=_moved(module, within, one),
        collectives=kinds,
        gathers=float(gathers),
        rows=float(rows),
        uncounted_gathers=float(gathers) if cycles is None else 0.0,
        uncounted={named: 1.0} if lacks else {},
    )


def _fused(module: Module, one: Instruction) -> Iterator[tuple[Instruction, Computation]]:
    """Yields the instructions of a fusion, and of the fusions within it, each with its computation."""
    if one.opcode != "fusion":
        return
    within = module.computations.get(one.called("calls") or "", {})
    for inner in within.values():
        yield inner, within
        yield from _fused(module, inner)


def _exchanged(one: Instruction, within: Computation) -> float:
    """Returns the bytes of the whole array of a collective: the larger of what it reads and what it returns."""
    read = sum(array_bytes(within[name].shape) for name in one.reads if name in within)
    written = array_bytes(one.shape.replace("u32[]", ""))  # without the handles of an asynchronous instruction
    if one.opcode.endswith("-start") and one.shape.startswith("("):
        written -= read  # the result repeats the operands
    return max(read, written)


def _rows(gather: Instruction) -> int:
    """Returns the number of slices that a gather reads."""
    _, dims, _ = ARRAY.findall(gather.shape)[0]
    sizes = SLICE_SIZES.search(gather.attributes)
    result = math.prod(int(size) for size in dims.split(",") if size)
    slices = math.prod(int(size) for size in sizes[1].split(",") if size) if sizes else 1
    return result // max(slices, 1)


def _moved(module: Module, within: Computation, one: Instruction) -> float:
    """Returns the bytes that an instruction reads from and writes to main memory."""
    if one.opcode in COPIES:
        ends = list(array_sizes(one.shape))[:2]  # a copy names its destination first, a slice its source
        part = min(size for size, _ in ends)
        return sum(0.0 if on_chip else part for _, on_chip in ends)
    if one.opcode == "custom-call" and '"AllocateBuffer"' in one.attributes:
        return 0.0
    if one.opcode.endswith("-start"):
        return _exchanged(one, within)
    written = _part(module, one, within)
    return written + sum(
        _read(module, within[name].shape, one, i) for i, name in enumerate(one.reads) if name in within
    )


def _part(module: Module, one: Instruction, within: Computation) -> float:
    """Returns the bytes that an instruction writes: the part that changes, if it updates an array in place."""
    if one.opcode in ("dynamic-update-slice", "scatter"):
        update = one.reads[1 if one.opcode == "dynamic-update-slice" else -1]
        size = array_bytes(within[update].shape) if update in within else math.inf
        return min(array_bytes(one.shape, on_chip=False), size)
    if one.opcode == "fusion":
        fused = module.computations.get(one.called("calls") or "", {})
        root = next((inner for inner in fused.values() if inner.root), None)
        if root is not None:
            parts = [fused[name] for name in root.reads if name in fused] if root.opcode == "tuple" else [root]
            sizes = [0.0 if on_chip else size for size, on_chip in array_sizes(one.shape)]
            if len(parts) == len(sizes):
                pairs = zip(parts, sizes, strict=True)
                return sum(min(size, _part(module, _source(part, fused), fused)) for part, size in pairs)
    return array_bytes(one.shape, on_chip=False)


def _source(one: Instruction, within: Computation) -> Instruction:
    """Returns the instruction whose result `one` passes on."""
    while one.opcode in PASSED_ON and one.reads and one.reads[0] in within:
        one = within[one.reads[0]]
    return one


def _read(module: Module, shape: str, one: Instruction, operand: int) -> float:
    """Returns the bytes that an instruction reads of an operand of the given type."""
    whole = array_bytes(shape, on_chip=False)
    if not whole:
        return 0.0
    if one.opcode in ("dynamic-slice", "gather", "slice") and operand == 0:
        return min(whole, array_bytes(one.shape))
    if one.opcode in ("dynamic-update-slice", "scatter") and operand == 0:
        return 0.0
    if one.opcode == "fusion":
        fused = module.computations.get(one.called("calls") or "", {})
        parameter = next(
            (name for name, inner in fused.items() if inner.opcode == "parameter" and inner.operands == str(operand)),
            None,
        )
        if parameter is not None:
            return min(whole, _used(module, fused, parameter, shape))
    return whole


def _used(module: Module, fused: Computation, name: str, shape: str) -> float:
    """Returns the bytes that a fusion reads of one of its values, of the given type."""
    total = array_bytes(shape, on_chip=False) if fused[name].root else 0.0
    for user in fused.values():
        for operand, read in enumerate(user.reads):
            if read == name:
                passed = user.opcode in PASSED_ON
                total += _used(module, fused, user.name, shape) if passed else _read(module, shape, user, operand)
    return total
