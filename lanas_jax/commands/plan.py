"""``lanas plan``: parses its arguments and prints the table of estimates."""

import dataclasses
import datetime
import json
import math
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from lanas_jax.commands.base import RefusedError, parse_early, parse_settings, usage
from lanas_jax.planning import topology as topologies
from lanas_jax.planning.topology import MissingLibtpuError
from lanas_jax.runtime.console import print_table, terminal
from lanas_jax.storage.plain import shown
from lanas_jax.study import discovery
from lanas_jax.study.discovery import ExperimentError

if TYPE_CHECKING:
    from lanas_jax.planning.estimate import Estimate
    from lanas_jax.planning.input_speed import InputSpeed
    from lanas_jax.planning.stage import Stage

HELP = """\
usage: lanas plan EXPERIMENT --topology v5e:4x4 [--only STAGE[: PROGRAM]] [--json] [settings of the experiment]

Compiles each stage of an experiment for a TPU slice on this machine's CPU. Reports whether the stage fits into the
chips' memory, the minimum time of a step, the compiler's estimate of that time, what the chips exchange, the minimum
chip-hours of the stage, and how many cores must read images if these are streamed. Needs neither the TPU nor the
dataset, but libtpu: pip install 'lanas-jax[tpu-plan]'.
--topology local compiles for the devices of this process. Large networks take minutes to compile.

For the settings: lanas plan EXPERIMENT --help
"""
GIB = 2**30
JSON = Annotated[bool, tyro.conf.arg(help="JSON output instead of a table")]


def plan(arguments: Sequence[str]) -> int:
    """Estimates the memory and time that an experiment's programs need on another machine."""
    try:
        return _plan(terminal(), arguments)
    except (ValueError, MissingLibtpuError) as error:
        raise RefusedError(str(error)) from error


def _plan(console: Console, arguments: Sequence[str]) -> int:
    """Compiles the stages and prints the estimates.

    Returns:
      The exit code: 0, or 1 if a stage does not fit.

    Raises:
      TopologyError, MissingLibtpuError, ExperimentError, ValueError: planning is not possible; the message says what
        to change.
    """
    if (exit_code := usage(HELP, arguments)) is not None:
        return exit_code
    source = discovery.find_experiment(arguments[0])
    name = parse_early("topology", str, topologies.LOCAL, "plan", arguments[1:])
    topologies.prepare(name)  # before the experiment imports JAX
    given = _parse(module := discovery.load_experiment(source), arguments)
    stages = chosen(stages_of(module, given.config), given.only)
    from lanas_jax.planning.estimate import estimate

    note = terminal(stderr=True).print
    found, machine = [], topologies.find_topology(given.topology)
    for stage in stages:
        note(f"compiling {stage.name} for {given.topology}")
        found.append(estimate(stage, machine, note))
    speeds = input_speeds(stages, found, note)
    if given.json:
        print(json.dumps([as_json(one, speeds.get(one.stage)) for one in found], indent=2))
    else:
        show_estimates(console, given.topology, machine, found)
        show_input(console, list(speeds.values()))
    return 0 if all(one.fits for one in found) else 1


def stages_of(module: ModuleType, config: Any) -> "tuple[Stage, ...]":
    """Calls an experiment's function `stages`.

    Raises:
      ExperimentError: the experiment has no such function, or it raised, or it returned something else.
    """
    from lanas_jax.planning.stage import Stage

    if not callable(getattr(module, "stages", None)):
        raise ExperimentError(
            f"{discovery.file_of(module)} has no function stages(config), so there is nothing to plan: "
            "write one as docs/planning.md shows"
        )
    found = discovery.call_experiment(module, "stages(config)", config)
    found = tuple(found) if isinstance(found, Iterable) else (found,)
    if not found or not all(isinstance(stage, Stage) for stage in found):
        raise ExperimentError(
            f"{discovery.file_of(module)}: stages(config) returned {shown(found)}; expected one or more stages"
        )
    return found


def chosen(stages: "Sequence[Stage]", only: str | None) -> "Sequence[Stage]":
    """Returns all stages, or only the stage or the program of a given name, as in the first column of the table.

    Raises:
      ExperimentError: there is no stage of that name.
    """
    if only is None:
        return stages
    name, separator, program = only.partition(": ")
    found = [stage for stage in stages if stage.name == name]
    if not found:
        raise ExperimentError(f"there is no stage {name!r}; choose from {', '.join(stage.name for stage in stages)}")
    return [stage.only(program) for stage in found] if separator else found


def show_estimates(console: Console, name: str, machine: topologies.Topology, found: "Sequence[Estimate]") -> None:
    """Prints a row per stage. Below the table, prints what is in no column, and advice for stages that do not fit."""
    chip = machine.chip
    console.print(
        f"{name}: {len(machine.devices)} chips, each {chip.memory / GIB:.4g} GiB of memory for programs, "
        f"{chip.bandwidth / 1e9:,.0f} GB/s, {chip.flops / 1e12:,.4g} TFLOP/s",
    )
    print_table(console, table(found))
    for one in found:
        for text in remarks(one):
            console.print(f"{one.stage}: {text}", soft_wrap=True)
        if not one.fits:
            console.print(advice(one), soft_wrap=True)


def input_speeds(
    stages: "Sequence[Stage]", found: "Sequence[Estimate]", note: Callable[[str], None]
) -> "dict[str, InputSpeed]":
    """Measures the input of the stages that say how their images are read; returns it by the name of the stage."""
    from lanas_jax.planning.input_speed import measure_input

    speeds = {}
    for stage, one in zip(stages, found, strict=True):
        if stage.reading is not None:
            note(f"measuring how fast a core of this machine reads the images of {stage.name}")
            speeds[stage.name] = measure_input(one, stage.reading)
    return speeds


def show_input(console: Console, speeds: "Sequence[InputSpeed]") -> None:
    """Prints the images that stages need and those that a core reads, and a sentence that says what was measured."""
    if not speeds:
        return
    shown = Table(box=SIMPLE, collapse_padding=True, pad_edge=False)
    shown.add_column("input of stage")
    for column in ("images/s needed", "images/s per core", "cores needed"):
        shown.add_column(column, justify="right")
    for one in speeds:
        numbers = (one.needed, one.per_core, None if one.cores is None else math.ceil(one.cores))
        shown.add_row(one.stage, *("-" if number is None else f"{number:,.0f}" for number in numbers))
    console.print(shown)
    today = datetime.date.today()
    samples = " and ".join(dict.fromkeys(one.sample for one in speeds))
    console.print(
        f"images/s per core was measured on {today.day} {today:%B %Y}, in one thread of this machine, without waiting "
        f"for disks: {samples} were decoded, cropped and augmented for {speeds[0].seconds:.1f} s of processor time per "
        f"stage. images/s needed is the batch divided by est-ms/step, or by ms/step >= where there is no estimate.",
        soft_wrap=True,
    )


def table(found: "Sequence[Estimate]") -> Table:
    """Returns a table with one row per program and stage; the programs that take a step precede their sum."""
    shown = Table(box=SIMPLE, collapse_padding=True, pad_edge=False)
    shown.add_column("stage")
    columns = ("chips", "batch", "GiB/chip", "fits", "GFLOP/step", "counted", "GB/step", "ms/step >=", "bound")
    for column in (*columns, "est-ms/step", "steps", "chip-hours >=", "compile s"):
        shown.add_column(column, justify="right")
    for one in [row for stage in found for row in (*stage.programs, stage)]:
        shown.add_row(
            one.stage,
            str(one.chips),
            f"{one.batch_size:,}",
            _scaled(one.needed, GIB),
            "yes" if one.fits else "no",
            _scaled(one.flops, 1e9),
            _scaled(one.counted_flops, 1e9),
            _scaled(one.moved, 1e9),
            _scaled(one.step_seconds, 1e-3),
            one.bound or "-",
            _estimated(one),
            f"{one.steps:,}",
            _scaled(one.chip_hours, 1),
            f"{one.compile_seconds:.0f}",
        )
    return shown


def remarks(one: "Estimate") -> list[str]:
    """Returns what is in no column: collectives, gathers, what has no estimate, and loops whose length is unknown."""
    if one.costs is None:
        return []
    found = [
        f"{kind.count:,.4g} {name} of {kind.bytes / 1e6:,.3g} MB in all per step"
        for name, kind in sorted(one.costs.collectives.items())
    ]
    if one.costs.gathers:
        share = one.costs.uncounted_gathers / one.costs.gathers
        found.append(
            f"{one.costs.gathers:,.3g} gathers of {one.costs.rows:,.3g} rows in all per step; est-ms/step omits "
            f"{share:.0%} of them"
        )
    named = {*one.costs.collectives, "gather"}  # by the lines above
    omitted = {name: count for name, count in one.costs.uncounted.items() if name.removesuffix("-start") not in named}
    if omitted and one.estimated_seconds is not None:
        listed = ", ".join(f"{count:,.3g} {name}" for name, count in sorted(omitted.items()))
        found.append(f"est-ms/step omits other instructions that have no estimate, per step: {listed}")
    if one.costs.unknown_loops:
        found.append(
            f"{one.costs.unknown_loops:,.3g} loops per step have a length that depends on data; each counts "
            f"{', then '.join(f'{rounds:.3g}' for rounds in one.rounds)} iterations"
        )
    return found


def advice(one: "Estimate") -> str:
    """Returns a sentence that says what to change so that a stage fits."""
    needed = "more" if one.needed is None else f"at least {one.needed / GIB:.4g} GiB"
    lacking = f"{one.stage} needs {needed} per chip; a chip has {one.available / GIB:.4g} GiB: "
    if not one.largest_batch:
        return lacking + "no batch size fits; use more chips or a smaller network"
    return lacking + f"reduce {one.setting} from {one.batch_size} to {one.largest_batch}"


def as_json(one: "Estimate", speed: "InputSpeed | None" = None) -> dict[str, Any]:
    """Returns an estimate as a dictionary, with its derived quantities and the measured speed of its input."""
    measured = None if speed is None else {**dataclasses.asdict(speed), "cores": speed.cores}
    programs = [as_json(program) for program in one.programs]
    derived = {"fits": one.fits, "chip_hours": one.chip_hours, "programs": programs, "input": measured}
    return {**dataclasses.asdict(one), **derived}


def _estimated(one: "Estimate") -> str:
    """Returns the estimated milliseconds per step: for mean and most expensive branches, if they differ."""
    mean, costliest = (_scaled(seconds, 1e-3) for seconds in (one.estimated_seconds, one.costliest_seconds))
    return mean if mean == costliest else f"{mean}-{costliest}"


def _scaled(number: float | int | None, unit: float | int) -> str:
    return "-" if number is None else f"{number / unit:,.3g}"


def _parse(module: ModuleType, arguments: Sequence[str]) -> Any:
    about = tyro.conf.arg(metavar="NAME", help="topology such as v5e:4x4, or local for the devices of this process")
    only = tyro.conf.arg(
        metavar="STAGE",
        help="name of the stage, or of one of its programs, such as 'supernet: largest'",
        help_behavior_hint="(default: all)",
    )
    options = [
        ("topology", Annotated[str, about], dataclasses.field(default=topologies.LOCAL, kw_only=True)),
        ("only", Annotated[str | None, only], dataclasses.field(default=None, kw_only=True)),
        ("json", JSON, dataclasses.field(default=False, kw_only=True)),
    ]
    marks = (tyro.conf.FlagCreatePairsOff,)
    settings = {"config": (module.Config,)}
    docstring = HELP.split("\n\n")[1].replace(". ", ".\n\n", 1)
    return parse_settings(f"plan {arguments[0]}", arguments[1:], settings, options, docstring, config=marks)
