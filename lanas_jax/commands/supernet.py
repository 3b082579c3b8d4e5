"""``lanas supernet``: trains the supernet of an experiment before the search."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import tyro
from rich.console import Console

from lanas_jax.commands import hosts
from lanas_jax.commands.base import RefusedError, cache_programs, parse_settings, usage
from lanas_jax.commands.hosts import Party
from lanas_jax.commands.observation import OBSERVATION, Observation
from lanas_jax.runtime import distributed
from lanas_jax.runtime.console import terminal
from lanas_jax.runtime.distributed import DistributedError, Preemption
from lanas_jax.runtime.durations import duration
from lanas_jax.runtime.joining import Hosts
from lanas_jax.storage.folder import RunError
from lanas_jax.study import discovery, run_folder
from lanas_jax.supernet.base import TrainedAhead
from lanas_jax.trainer import folder as folders

HELP = f"""\
usage: lanas supernet EXPERIMENT [--out DIR] [settings of the experiment]

Trains only the supernet that a one-shot search uses to evaluate networks: on more hosts than the search needs, or once
for several searches. Writes everything to one folder: DIR, or a new folder under runs/. To search with it:
lanas search EXPERIMENT --supernet DIR, with the same settings.
Ctrl-C stops; SIGTERM finishes the current step, saves a checkpoint and stops. The same command continues.
{hosts.HELP}

For the settings: lanas supernet EXPERIMENT --help
"""


def supernet(arguments: Sequence[str]) -> int:
    """Trains the supernet of a search in advance."""
    cache_programs()
    try:
        return _supernet(terminal(), arguments)
    except (ValueError, OSError, DistributedError) as error:
        raise RefusedError(str(error)) from error


def _supernet(console: Console, arguments: Sequence[str]) -> int:
    """Trains the supernet.

    Returns:
      The exit code: 0, 1 if the training failed, or the code of the signal that stopped it.

    Raises:
      ValueError, RunError, ExperimentError, DistributedError: training is not possible; the message says what to
        change.
    """
    if (exit_code := usage(HELP, arguments)) is not None:
        return exit_code
    source = discovery.find_experiment(arguments[0])
    with hosts.joined("supernet", arguments) as party:
        return _train_found(console, party, source, arguments)


def _train_found(console: Console, party: Party, source: Path, arguments: Sequence[str]) -> int:
    given = _parse(module := discovery.load_experiment(source), arguments)
    experiment = run_folder.build_experiment(module, given.config)
    evaluator = experiment.evaluator
    if not isinstance(evaluator, TrainedAhead):
        raise RunError(f"{experiment.name} does not use a supernet, so there is none to train")
    directory, words = given.out or evaluator.supernet_directory, ["lanas", "supernet", *hosts.without_hosts(arguments)]
    with given.observation.active():
        if directory is not None:
            return _train(console, party, experiment, directory, words)
        with hosts.new_directory(f"{experiment.name}-supernet") as directory:
            return _train(console, party, experiment, directory, [*words, "--out", str(directory)])


def _train(console: Console, party: Party, experiment: Any, directory: Path, words: Sequence[str]) -> int:
    """Trains the supernet of an experiment in a folder; `words` are the command that continues."""

    def note(text: str) -> None:
        if distributed.is_first_process():
            console.print(text, soft_wrap=True)

    def run(preemption: Preemption) -> int:
        experiment.evaluator.train(directory, note, preemption)
        return 0

    note(f"supernet of {experiment.name}, in {directory}")
    if exit_code := hosts.run_preemptible(party, words, note, run):
        return exit_code
    note(_report(directory))
    note(f"folder: {directory}")
    return 0


def _report(directory: Path) -> str:
    """Returns the duration and speed of the training, as recorded in final.json."""
    found: dict[str, Any] = folders.open_folder(directory).final or {}
    speed = found.get("images_per_second")
    return f"trained in {duration(found['seconds'])}" + ("" if speed is None else f", {speed:,.0f} images/s")


def _parse(module: ModuleType, arguments: Sequence[str]) -> Any:
    """Parses `config`, `out`, `hosts` and `observation`."""
    about = tyro.conf.arg(metavar="DIR", help="new or empty folder, or the folder of the training to continue")
    options = [
        ("out", Annotated[Path | None, about], dataclasses.field(default=None, kw_only=True)),
        ("hosts", Hosts, dataclasses.field(default_factory=Hosts, kw_only=True)),
        ("observation", OBSERVATION, dataclasses.field(default_factory=Observation, kw_only=True)),
    ]
    settings = {"config": (module.Config,)}
    return parse_settings(f"supernet {arguments[0]}", arguments[1:], settings, options, module.__doc__ or "")
