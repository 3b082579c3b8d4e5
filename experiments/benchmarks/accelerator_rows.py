"""The rows of `accelerators.py`: their figures, their file, and the table."""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lanas_jax.experiments.benchmarks.table import table
from lanas_jax.planning.costs import Share
from lanas_jax.runtime.console import print_table

PLATFORMS = ("cuda", "tpu")


@dataclasses.dataclass(frozen=True)
class Row:
    """Figures of one form; times and bytes are per candidate and step, None if not estimated or not measured.

    Attributes:
      part: part of a candidate.
      form: form of the candidate.
      vmapped: number of vmapped candidates.
      target: machine.
      compile_seconds: seconds to compile, without tracing.
      compile_cpu_seconds: processor seconds to compile, of all threads.
      trace_seconds: seconds to trace, including initialization and evaluation for a candidate.
      gib: planned memory of the device in GiB, for all vmapped candidates.
      gigabytes: GB between the device and its memory.
      estimated_ms: milliseconds by the compiler's estimates.
      conditionals: conditionals per step of all vmapped candidates, by platform.
      unknown_loops: loops per step whose length depends on data, by platform.
      step_ms: measured milliseconds.
      share_of_peak: measured share of the peak rate.
      costliest: operations with the most estimated time: name and milliseconds.
      uncounted: number of instructions that the estimate omits, by opcode, of 4 KiB or more.
      date: date of the row.
      software: versions of jax and of the compiler.
    """

    part: str
    form: str
    vmapped: int
    target: str
    compile_seconds: float | None = None
    compile_cpu_seconds: float | None = None
    trace_seconds: float | None = None
    gib: float | None = None
    gigabytes: float | None = None
    estimated_ms: float | None = None
    conditionals: dict[str, int] | None = None
    unknown_loops: dict[str, int] | None = None
    step_ms: float | None = None
    share_of_peak: float | None = None
    costliest: dict[str, float] = dataclasses.field(default_factory=dict)
    uncounted: dict[str, float] = dataclasses.field(default_factory=dict)
    date: str = ""
    software: str = ""

    @property
    def name(self) -> tuple[str, str, int, str]:
        """What the row is about; a file has one row of a name."""
        return self.part, self.form, self.vmapped, self.target


def cycles_by_operation(shares: Sequence[Share]) -> dict[str, float]:
    """Sums estimated cycles by operation, of the program as traced or as the compiler added it, most cycles first."""
    total: dict[str, float] = defaultdict(float)
    for one in shares:
        traced = one.op_name.rpartition("/")[2]
        total[traced if one.opcode == "fusion" and traced else one.opcode] += one.cycles
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def cells(row: Row) -> dict[str, str]:
    """Returns a row of the table by column title."""
    flow = [row.conditionals, row.unknown_loops]
    counts = ["-" if one is None else "/".join(f"{one[platform]}" for platform in PLATFORMS) for one in flow]
    return {
        "part": row.part,
        "form": row.form,
        "vmapped": str(row.vmapped),
        "est-ms": _number(row.estimated_ms),
        "ms": _number(row.step_ms),
        "of peak": "-" if row.share_of_peak is None else f"{row.share_of_peak:.2%}",
        "compile s": _number(row.compile_seconds),
        "CPU-s": _number(row.compile_cpu_seconds),
        "GiB": _number(row.gib),
        "GB": _number(row.gigabytes),
        "conditionals": counts[0],
        "loops": counts[1],
    }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def read_rows(path: Path | None, settings: dict[str, Any]) -> list[Row]:
    """Returns the rows of an earlier benchmark with the same settings; [] without a file.

    Raises:
      SystemExit: the file is of another benchmark.
    """
    if path is None or not path.exists():
        return []
    found = json.loads(path.read_text())
    if found["settings"] != settings:
        raise SystemExit(f"{path} has rows for other settings, {found['settings']}; choose another file")
    return [Row(**row) for row in found["rows"]]


def write_rows(path: Path, settings: dict[str, Any], rows: Sequence[Row]) -> None:
    """Writes rows and the settings that they have in common, as `read_rows` reads them."""
    report = {"settings": settings, "rows": [dataclasses.asdict(row) for row in rows]}
    path.write_text(json.dumps(report, indent=2) + "\n")


def print_row(console: Console, row: Row) -> None:
    """Prints the figures of a row, its most expensive operations, and what the estimate omits."""
    figures = ", ".join(f"{title} {text}" for title, text in cells(row).items() if text != "-")
    console.print(figures, soft_wrap=True)
    for name, milliseconds in row.costliest.items():
        console.print(f"  {milliseconds:.3g} est-ms: {name}")
    if row.costliest and row.uncounted:
        omitted = ", ".join(f"{count:.3g} {opcode}" for opcode, count in row.uncounted.items())
        console.print(f"  omitted from est-ms: {omitted}", soft_wrap=True)


def print_rows(console: Console, title: str, rows: Sequence[Row]) -> None:
    """Prints the table of all rows, without columns that are empty in each."""
    shown = [cells(row) for row in rows]
    filled = [name for name in shown[0] if any(row[name] != "-" for row in shown)]
    print_table(console, table(title, [{name: row[name] for name in filled} for row in shown]))
