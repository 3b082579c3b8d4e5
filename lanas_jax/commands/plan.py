"""``lanas plan``: its arguments, and the table that it prints."""

import dataclasses
import json
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from lanas_jax.commands.base import RefusedError, terminal, usage
from lanas_jax.planning import topology as topologies
from lanas_jax.planning.topology import MissingLibtpuError
from lanas_jax.study import discovery
from lanas_jax.study.discovery import ExperimentError

if TYPE_CHECKING:
    from lanas_jax.planning.estimate import Estimate
    from lanas_jax.planning.stage import Stage

HELP = """\
usage: lanas plan EXPERIMENT --topology v5e:4x4 [--only STAGE] [--json] [settings of the experiment]

Compiles each stage of an experiment for a TPU slice, on this machine's CPU, and says whether it fits into the chips'
memory, how long a step takes at least, and how many chip-hours the stage. Neither TPU nor dataset has to be there.
It needs libtpu: pip install 'lanas-jax[tpu-plan]'. --topology local compiles for the devices of this process.
Large networks take minutes to compile.

For the settings: lanas plan EXPERIMENT --help
"""
GIB = 2**30


def plan(arguments: Sequence[str]) -> int:
    """Says what an experiment's programs need on another machine."""
    try:
        return _plan(terminal(), arguments)
    except (ValueError, MissingLibtpuError) as error:
        raise RefusedError(str(error)) from error


def _plan(console: Console, arguments: Sequence[str]) -> int:
    """Plans.

    Returns:
      The exit code: 0; 1 where a stage does not fit.

    Raises:
      TopologyError, MissingLibtpuError, ExperimentError, ValueError: what has to be changed first.
    """
    if (exit_code := usage(HELP, arguments)) is not None:
        return exit_code
    source = discovery.find(arguments[0])
    name = _topology_in(arguments)
    topologies.prepare(name)  # before the experiment imports JAX
    given = _parse(module := discovery.load(source), arguments)
    stages = chosen(stages_of(module, given.config), given.only)
    from lanas_jax.planning.estimate import estimate

    note = Console(stderr=True).print
    found, machine = [], topologies.find(given.topology)
    for stage in stages:
        note(f"compiling {stage.name} for {given.topology}", highlight=False)
        found.append(estimate(stage, machine, note))
    if given.json:
        print(json.dumps([as_json(one) for one in found], indent=2))
    else:
        show(console, given.topology, machine, found)
    return 0 if all(one.fits for one in found) else 1


def stages_of(module: ModuleType, config: Any) -> "tuple[Stage, ...]":
    """Calls an experiment's `stages`.

    Raises:
      ExperimentError: it has none, it raised, or it returned something else.
    """
    from lanas_jax.planning.stage import Stage

    if not callable(getattr(module, "stages", None)):
        raise ExperimentError(
            f"{module.__file__} offers nothing to plan: it has no function stages(config); "
            "docs/planning.md shows how to write one"
        )
    try:
        found = tuple(module.stages(config))
    except Exception as error:
        raise ExperimentError(f"{module.__file__}: stages(config) raised {type(error).__name__}: {error}") from error
    if not found or not all(isinstance(stage, Stage) for stage in found):
        raise ExperimentError(f"{module.__file__}: stages(config) returned {found!r}, no Stages")
    return found


def chosen(stages: "Sequence[Stage]", only: str | None) -> "Sequence[Stage]":
    """All stages, or the one of that name.

    Raises:
      ExperimentError: there is none of that name.
    """
    found = [stage for stage in stages if only in (None, stage.name)]
    if not found:
        raise ExperimentError(f"there is no stage {only!r}. There are: {', '.join(stage.name for stage in stages)}")
    return found


def show(console: Console, name: str, machine: topologies.Topology, found: "Sequence[Estimate]") -> None:
    """Prints a row per stage, and below it what to change where one does not fit."""
    chip = machine.chip
    console.print(
        f"{name}: {len(machine.devices)} chips, each {chip.memory / GIB:.4g} GiB of memory for programs, "
        f"{chip.bandwidth / 1e9:,.0f} GB/s, {chip.flops / 1e12:,.4g} TFLOP/s",
        highlight=False,
    )
    console.print(table(found))
    for one in found:
        if not one.fits:
            console.print(advice(one), highlight=False, soft_wrap=True)


def table(found: "Sequence[Estimate]") -> Table:
    """A row per stage."""
    shown = Table(box=SIMPLE)
    shown.add_column("stage")
    columns = ("chips", "batch", "GiB of a chip", "fits", "GFLOP/step", "counted", "GB/step", "ms/step >=", "bound")
    for column in (*columns, "steps", "chip-hours >=", "compiled in s"):
        shown.add_column(column, justify="right")
    for one in found:
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
            f"{one.steps:,}",
            _scaled(one.chip_hours, 1),
            f"{one.compile_seconds:.0f}",
        )
    return shown


def advice(one: "Estimate") -> str:
    """What to change where a stage does not fit."""
    needed = "more" if one.needed is None else f"at least {one.needed / GIB:.4g} GiB"
    lacking = f"{one.stage} needs {needed} of a chip's {one.available / GIB:.4g} GiB: "
    if not one.largest_batch:
        return lacking + "no batch fits, give it more chips or a smaller network"
    return lacking + f"set {one.setting} to {one.largest_batch}, it is {one.batch_size}"


def as_json(one: "Estimate") -> dict[str, Any]:
    """An estimate with what follows from it."""
    return {**dataclasses.asdict(one), "fits": one.fits, "chip_hours": one.chip_hours}


def _scaled(number: float | int | None, unit: float | int) -> str:
    return "-" if number is None else f"{number / unit:,.3g}"


def _topology_in(arguments: Sequence[str]) -> str:
    """The topology among the arguments, which has to be known before JAX is imported and they can all be parsed."""
    for here, after in zip(arguments, [*arguments[1:], ""], strict=True):
        flag, _, value = here.partition("=")
        if flag == "--topology":
            return value or after
    return topologies.LOCAL


def _parse(module: ModuleType, arguments: Sequence[str]) -> Any:
    about = tyro.conf.arg(metavar="NAME", help="v5e:4x4 and such, or local, the devices of this process")
    both = dataclasses.make_dataclass(
        "Settings",
        [
            ("config", Annotated[module.Config, tyro.conf.arg(name="")]),
            ("topology", Annotated[str, about], dataclasses.field(default=topologies.LOCAL, kw_only=True)),
            ("only", Annotated[str | None, tyro.conf.arg(metavar="STAGE", help="default: all stages")], None),
            ("json", Annotated[bool, tyro.conf.arg(help="print JSON instead of a table")], False),
        ],
    )
    marks = (tyro.conf.FlagCreatePairsOff,)
    return tyro.cli(both, prog=f"lanas plan {arguments[0]}", args=list(arguments[1:]), config=marks)
