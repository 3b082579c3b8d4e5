"""Costs of a compiled program, read from its text (`compiled.as_text()`): HLO after all passes of the compiler.

XLA's own `cost_analysis` counts the body of a loop once. The text has everything needed to count it as often as it
runs: each instruction with its shape and layout, the number of iterations of most loops, and, on TPUs, the cycles that
the compiler estimates for an instruction. Here the costs of a computation are summed over its instructions; a loop's
body counts as often as it runs, and a conditional as the mean over its branches or as its most expensive branch.

Bytes are those of arrays in the chip's main memory, with the padding of their tiles. An array in on-chip memory
(``S(1)`` in its layout) counts nothing. A slice or gather counts the part that it reads, not the array that it reads
from, also within a fusion.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

Branches = Literal["mean", "dearest"]

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all", "collective-broadcast")
# Instructions that move no bytes themselves. The second half of an asynchronous instruction is among them.
FREE = frozenset(
    {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "replica-id"}
    | {"opt-barrier", "add-dependency", "domain"}
)
PASSED_ON = frozenset({"bitcast", "reshape", "get-tuple-element"})  # instructions that read their operand in no loop
BYTES = {"pred": 1.0, "s4": 0.5, "u4": 0.5, "s2": 0.25, "u2": 0.25, "c64": 8.0, "c128": 16.0, "token": 0.0}
COPIES = frozenset({"copy-start", "slice-start", "dynamic-slice-start"})  # run beside other instructions
NAMED = frozenset({*COLLECTIVES, "gather", "scatter", "select-and-scatter", "sort"})  # that give a fusion its name
UNKNOWN_CYCLES = 2**63 - 1  # the compiler's figure for an instruction that it could not estimate
LEAST_BYTES = 4096  # arrays below this size need no estimate

HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|[^ ]+) ([\w\-]+)\(")
ARRAY = re.compile(r"\b([a-z]+[0-9]*(?:e\d+m\d+\w*)?)\[([\d,<=]*)\](?:\{([^}]*)\})?")
NAME = re.compile(r"%([\w.\-]+)")
KNOWN_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
SLICE_SIZES = re.compile(r"slice_sizes=\{([\d,]*)\}")
OP_NAME = re.compile(r'op_name="([^"]*)"')
INTEGER = re.compile(r"-?\d+")


class Instruction(NamedTuple):
    """One instruction of a computation.

    Attributes:
      name: name of the instruction, unique in its computation.
      shape: type of the result with its layout, such as ``bf16[8,128]{1,0:T(8,128)}``; a tuple in parentheses.
      opcode: operation, such as ``fusion``.
      operands: text between the parentheses, such as ``%x, %y``; the value of a constant.
      attributes: text behind the parentheses.
      root: True if it is the result of its computation.
    """

    name: str
    shape: str
    opcode: str
    operands: str
    attributes: str
    root: bool

    @property
    def reads(self) -> Sequence[str]:
        """Names of the operands."""
        return NAME.findall(self.operands)

    def called(self, attribute: str) -> str | None:
        """Returns the name of the computation in an attribute such as ``body``; None if there is no such attribute."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else None

    @property
    def branches(self) -> Sequence[str]:
        """Names of the branches of a conditional, in the order of its index."""
        found = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        if found:
            return [name.strip().lstrip("%") for name in found[1].split(",")]
        named = (self.called("false_computation"), self.called("true_computation"))
        return [name for name in named if name is not None]

    @property
    def cycles(self) -> int | None:
        """Cycles estimated by the compiler; None without an estimate."""
        found = CYCLES.search(self.attributes)
        return int(found[1]) if found and int(found[1]) < UNKNOWN_CYCLES else None


Computation = dict[str, Instruction]  # instructions by name, in the order of the schedule


class Module(NamedTuple):
    """A compiled program: its computations by name, and the name of the one that runs."""

    computations: dict[str, Computation]
    entry: str


def parse_module(text: str) -> Module:
    """Parses the text of a compiled program.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    current: Computation | None = None
    entry = None
    for line in text.splitlines():
        if header := HEADER.match(line):
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (found := INSTRUCTION.match(line)):
            end = _closing(line, found.end())
            current[found[2]] = Instruction(
                found[2], found[3], found[4], line[found.end() : end], line[end + 1 :], found[1] is not None
            )
    if entry is None:
        raise ValueError("the text is no compiled HLO program: it has no computation marked ENTRY")
    return Module(computations, entry)


def _closing(line: str, first: int) -> int:
    """Returns the index of the parenthesis that closes the one before `first`."""
    depth = 1
    for i in range(first, len(line)):
        depth += (line[i] == "(") - (line[i] == ")")
        if not depth:
            return i
    return len(line)


def array_bytes(shape: str, on_chip: bool = True) -> float:
    """Returns the bytes of all arrays of a type, with the padding of their tiles.

    Args:
      shape: type with layouts.
      on_chip: False to omit arrays in on-chip memory.
    """
    return sum(size for size, is_on_chip in _arrays(shape) if on_chip or not is_on_chip)


def _arrays(shape: str) -> Iterator[tuple[float, bool]]:
    """Yields the bytes of each array of a type, and whether it is in on-chip memory."""
    for dtype, dims, layout in ARRAY.findall(shape):
        sizes = [int(size.lstrip("<=")) for size in dims.split(",") if size]
        order, _, rest = layout.partition(":")
        tile = re.match(r"T\(([\d,]+)\)", rest)
        minor = [int(axis) for axis in order.split(",") if axis]
        if tile and len(minor) == len(sizes):
            for axis, side in zip(minor, reversed(tile[1].split(",")), strict=False):
                sizes[axis] = -(-sizes[axis] // int(side)) * int(side)
        yield math.prod(sizes) * _item_bytes(dtype), re.search(r"S\([1-9]", rest) is not None


def _item_bytes(dtype: str) -> float:
    if dtype in BYTES:
        return BYTES[dtype]
    bits = INTEGER.search(dtype)
    return int(bits[0]) / 8 if bits else 0.0


def trip_count(module: Module, caller: Computation, loop: Instruction) -> int | None:
    """Returns the number of iterations of a loop; None if it depends on data.

    The compiler states it for some loops. Otherwise it is the constant that the loop's condition compares the counter
    with, which starts at 0 and grows by 1 in every loop that JAX makes. The constant may come into the loop from
    outside, as an element of the tuple that the loop carries and does not change.
    """
    if known := KNOWN_TRIPS.search(loop.attributes):
        return int(known[1])
    name = loop.called("condition")
    condition = module.computations.get(name or "", {})
    carried = caller.get(next(iter(loop.reads), ""))
    elements = carried.reads if carried is not None and carried.opcode == "tuple" else ()

    def constant(name: str, within: Computation) -> int | None:
        found = within.get(name)
        if found is None:
            return None
        if found.opcode == "constant":
            return int(found.operands) if INTEGER.fullmatch(found.operands) else None
        if found.opcode in ("copy", "bitcast"):
            return constant(found.reads[0], within)
        if found.opcode == "get-tuple-element" and within is condition:
            index = _index(found)
            if index < len(elements) and _is_unchanged(module.computations.get(loop.called("body") or "", {}), index):
                return constant(elements[index], caller)
        return None

    result = next((one for one in condition.values() if one.root), None)
    if result is None or result.opcode != "compare" or "direction=LT" not in result.attributes:
        return None
    return constant(result.reads[1], condition)


def _index(element: Instruction) -> int:
    """Returns the position of an element in its tuple."""
    found = re.search(r"index=(\d+)", element.attributes)
    return int(found[1]) if found else 0


def _is_unchanged(body: Computation, index: int) -> bool:
    """Returns True if the body of a loop passes on an element of its tuple."""
    result = next((one for one in body.values() if one.root), None)
    if result is None or result.opcode != "tuple":
        return False
    element = body.get(result.reads[index])
    while element is not None and element.opcode == "copy":
        element = body.get(element.reads[0])
    return element is not None and element.opcode == "get-tuple-element" and _index(element) == index


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
      branches: cost of a conditional with three or more branches: ``mean`` of its branches, or the ``dearest`` by
        cycles, then by bytes. One with two branches always counts the dearer: the other is mostly a way to do nothing.
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

    def dearest_instructions(self) -> list[Share]:
        """Returns the instructions with estimated cycles, summed over one call of the program; the dearest first."""
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
        ends = list(_arrays(one.shape))[:2]  # a copy names its destination first, a slice its source
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
            sizes = [0.0 if on_chip else size for size, on_chip in _arrays(one.shape)]
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
