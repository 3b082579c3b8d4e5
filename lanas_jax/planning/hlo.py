"""The text of a compiled program (`compiled.as_text()`): HLO after all passes of the compiler.

`parse_module` reads its computations: each instruction with its shape and layout and, on TPUs, the cycles that the
compiler estimates for it. `array_bytes` and `trip_count` interpret types and loops. What a program costs is summed in
`lanas_jax.planning.costs`.
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

BYTES = {"pred": 1.0, "s4": 0.5, "u4": 0.5, "s2": 0.25, "u2": 0.25, "c64": 8.0, "c128": 16.0, "token": 0.0}
UNKNOWN_CYCLES = 2**63 - 1  # the compiler's figure for an instruction that it could not estimate

HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|[^ ]+) ([\w\-]+)\(")
ARRAY = re.compile(r"\b([a-z]+[0-9]*(?:e\d+m\d+\w*)?)\[([\d,<=]*)\](?:\{([^}]*)\})?")
NAME = re.compile(r"%([\w.\-]+)")
KNOWN_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
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
        raise ValueError("the text is not a compiled HLO program: it has no computation marked ENTRY")
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
    return sum(size for size, is_on_chip in array_sizes(shape) if on_chip or not is_on_chip)


def array_sizes(shape: str) -> Iterator[tuple[float, bool]]:
    """Yields the bytes of each array of a type, with the padding of its tiles, and whether it is in on-chip memory."""
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
