"""``lanas supernet``: trains the supernet of an experiment before there is a search."""

import dataclasses
import datetime
import shlex
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import tyro
from rich.console import Console

from lanas_jax.commands import hosts
from lanas_jax.commands.base import RefusedError, keep_programs, terminal, usage
from lanas_jax.runtime import distributed
from lanas_jax.runtime.distributed import DistributedError, Hosts, Preemption
from lanas_jax.runtime.durations import duration
from lanas_jax.storage.folder import RunError
from lanas_jax.study import discovery, run_folder
from lanas_jax.supernet.base import TrainedAhead
from lanas_jax.trainer import folder as folders

HELP = f"""\
usage: lanas supernet EXPERIMENT [--out DIR] [settings of the experiment]

Trains the supernet in which a one-shot search values networks, and nothing else: on more hosts than are to search, or
for several searches. Everything goes into one folder: DIR, or a new one under runs/. Searches read it from there:
lanas search EXPERIMENT --supernet DIR, with the same settings.
Ctrl-C stops; SIGTERM stops after the step under way and saves it. The same command again continues.
{hosts.HELP}

For the settings: lanas supernet EXPERIMENT --help
"""


def supernet(arguments: Sequence[str]) -> int:
    """Trains the supernet of a search beforehand."""
    keep_programs()
    try:
        return _supernet(terminal(), arguments)
    except (ValueError, DistributedError) as error:
        raise RefusedError(str(error)) from error


def _supernet(console: Console, arguments: Sequence[str]) -> int:
    """Trains the supernet.

    Returns:
      The exit code: 0; 1 where the training broke; that of a signal where it was stopped.

    Raises:
      ValueError, RunError, ExperimentError, DistributedError: what has to be changed first.
    """
    if (exit_code := usage(HELP, arguments)) is not None:
        return exit_code
    source = discovery.find(arguments[0])
    hosts.join("supernet", arguments[1:])
    given = _parse(module := discovery.load(source), arguments)
    experiment = run_folder.build(module, given.config)
    evaluator = experiment.evaluator
    if not isinstance(evaluator, TrainedAhead):
        raise RunError(f"{experiment.name} does not search by a supernet, so there is none to train")
    directory, again = given.out or evaluator.supernet_directory, f"lanas supernet {shlex.join(arguments)}"
    if directory is None:
        directory = Path(distributed.told(str(_new_directory(experiment.name))))
        again += f" --out {shlex.quote(str(directory))}"

    def note(text: str) -> None:
        if distributed.first():
            console.print(text, highlight=False, soft_wrap=True)

    def run(preemption: Preemption) -> int:
        evaluator.train(directory, note, preemption)
        return 0

    note(f"supernet of {experiment.name}, in {directory}")
    if exit_code := hosts.carried_out("supernet", again, note, run):
        return exit_code
    note(_report(directory))
    note(f"folder: {directory}")
    return 0


def _report(directory: Path) -> str:
    """What final.json says of the training."""
    found: dict[str, Any] = folders.open_folder(directory).final or {}
    speed = found.get("images_per_second")
    return f"trained in {duration(found['seconds'])}" + ("" if speed is None else f", {speed:,.0f} images/s")


def _parse(module: ModuleType, arguments: Sequence[str]) -> Any:
    """`config`, `out` and `hosts`."""
    about = tyro.conf.arg(metavar="DIR", help="the folder, new or empty, or the one to continue in")
    both = dataclasses.make_dataclass(
        "Settings",
        [
            ("config", Annotated[module.Config, tyro.conf.arg(name="")]),
            ("out", Annotated[Path | None, about], dataclasses.field(default=None, kw_only=True)),
            ("hosts", Hosts, dataclasses.field(default_factory=Hosts, kw_only=True)),
        ],
    )
    described = f"{module.__doc__ or ''}"
    return tyro.cli(both, prog=f"lanas supernet {arguments[0]}", args=list(arguments[1:]), description=described)


def _new_directory(name: str) -> Path:
    return run_folder.default_directory(f"{name}-supernet", datetime.datetime.now())
