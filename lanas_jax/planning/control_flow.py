"""Conditionals and loops of a traced program, counted in its StableHLO as lowered for a platform.

On a GPU the host waits at each conditional and at each iteration of a loop whose length depends on data; a TPU stays on
the chip but does not fuse across them. Conditionals with a single branch or whose index is a constant, such as those
that choose an implementation for a platform, are resolved by the compiler and do not count. In a loop, JAX computes the
index of such a single branch by a conditional of constants, which does not count either.
"""

import dataclasses
from typing import Any

import jax

CASES = ("stablehlo.case", "stablehlo.if")
CONSTANT = ["stablehlo.constant", "stablehlo.return"]  # operations of a branch that returns a constant


@dataclasses.dataclass(frozen=True)
class ControlFlow:
    """Control flow of one call of a program.

    Attributes:
      conditionals: number of conditionals that run; loops of known length are multiplied, other loops count one
        iteration, and a conditional counts all its branches.
      unknown_loops: number of loops that run whose length depends on data.
    """

    conditionals: int = 0
    unknown_loops: int = 0

    def plus(self, other: "ControlFlow", times: int = 1) -> "ControlFlow":
        """Returns the sum with `times` times the other."""
        return ControlFlow(
            self.conditionals + times * other.conditionals, self.unknown_loops + times * other.unknown_loops
        )


def count_control_flow(lowered: jax.stages.Lowered) -> ControlFlow:
    """Counts the control flow of one call of a program.

    Args:
      lowered: program lowered for one platform, as by ``jit(f).trace(x).lower(lowering_platforms=("cuda",))``.
    """
    module: Any = lowered.compiler_ir("stablehlo")
    functions = {_text(op, "sym_name"): op for op in module.body.operations}
    done: dict[str, ControlFlow] = {}

    def within(region: Any) -> ControlFlow:
        total = ControlFlow()
        for block in region.blocks:
            for operation in block.operations:
                total = total.plus(of(operation.operation))
        return total

    def of(op: Any) -> ControlFlow:
        if op.name == "func.call":
            name = str(op.attributes["callee"]).lstrip("@").strip('"')
            if name not in done:
                done[name] = within(functions[name].regions[0])
            return done[name]
        if op.name == "stablehlo.while":
            condition, body = op.regions
            length = _length(op)
            if length is None:
                return within(condition).plus(within(body)).plus(ControlFlow(unknown_loops=1))
            return ControlFlow().plus(within(body), length)
        total = ControlFlow()
        if op.name in CASES:
            index = 0 if len(op.regions) == 1 else _known_integer(op.operands[0])
            if index is not None:
                return within(op.regions[_branch(op, index)])
            total = ControlFlow(conditionals=int(not all(_is_constant(region) for region in op.regions)))
        for region in op.regions:
            total = total.plus(within(region))
        return total

    return within(functions["main"].regions[0])


def _is_constant(region: Any) -> bool:
    """Returns True if a branch returns a constant."""
    return [operation.operation.name for operation in region.blocks[0].operations] == CONSTANT


def _length(loop: Any) -> int | None:
    """Returns the length of a loop whose condition compares its counter with a constant, as JAX makes them."""
    *_, end = loop.regions[0].blocks[0].operations
    compared = _owner(end.operands[0])
    if compared is None or compared.name != "stablehlo.compare":
        return None
    limits = [_known_integer(value) for value in compared.operands]
    return next((limit for limit in limits if limit is not None), None)


def _known_integer(value: Any) -> int | None:
    """Returns the value of a constant, or of a chain of conditionals on constants; None if it depends on data."""
    op = _owner(value)
    if op is None:
        return None
    if op.name == "stablehlo.constant":
        numbers = op.attributes["value"]
        try:
            (number,) = numbers
        except (TypeError, ValueError):  # no integers, or several
            return None
        return int(number)
    if op.name in CASES:
        index = _known_integer(op.operands[0])
        if index is not None:
            *_, end = op.regions[_branch(op, index)].blocks[0].operations
            return _known_integer(end.operands[0])
    if op.name == "stablehlo.clamp":
        least, number, most = (_known_integer(operand) for operand in op.operands)
        return None if least is None or number is None or most is None else min(max(least, number), most)
    if op.name == "stablehlo.convert":
        return _known_integer(op.operands[0])
    return None


def _branch(op: Any, index: int) -> int:
    """Returns the branch that runs: that of true comes first; an index out of range runs the last."""
    if op.name == "stablehlo.if":
        return 0 if index else 1
    return index if 0 <= index < len(op.regions) else len(op.regions) - 1


def _owner(value: Any) -> Any | None:
    """Returns the operation that computes a value; None for an argument of a block."""
    owner = value.owner
    return owner if hasattr(owner, "name") else None


def _text(op: Any, attribute: str) -> str:
    return str(op.attributes[attribute]).strip('"')
