"""``lanas train``: parses its arguments, trains a network in full, and prints its accuracies."""

import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from lanas_jax.commands import hosts, training_target
from lanas_jax.commands.base import RefusedError, keep_programs, terminal, usage
from lanas_jax.commands.codes import CodeError
from lanas_jax.commands.training_target import Target
from lanas_jax.export.load import read_weights
from lanas_jax.export.recorded import final_training
from lanas_jax.runtime import distributed
from lanas_jax.runtime.distributed import DistributedError, Hosts, Preemption
from lanas_jax.study import run_folder
from lanas_jax.trainer.display import TrainingDisplay
from lanas_jax.trainer.train import train_network as carry_through

HELP = f"""\
usage: lanas train RUN [--code 0,1,...] [--weights DIR] [--out DIR] [settings of its final training]
       lanas train EXPERIMENT --code 0,1,... [--out DIR] [settings] [--config.NAME settings of the experiment]
       lanas train FOLDER

Trains the best network of a search, or one of your choice, in full, and measures its test accuracy once. Writes
everything to one folder: RUN/final, DIR, or a new folder under runs/.
Ctrl-C stops; SIGTERM finishes the current step, saves a checkpoint and stops. The same command continues; so does
lanas train FOLDER, with the folder that a training wrote.
{hosts.HELP}

For the settings: lanas train RUN --help
"""


def train(arguments: Sequence[str]) -> int:
    """Trains the best network of a run."""
    keep_programs()
    try:
        return _train(terminal(), arguments)
    except (ValueError, CodeError, DistributedError) as error:
        raise RefusedError(str(error)) from error


def _train(console: Console, arguments: Sequence[str]) -> int:
    """Trains, with live progress.

    Returns:
      The exit code: 0, 1 if the training failed, or the code of the signal that stopped it.

    Raises:
      ValueError, RunError, ExperimentError, ConfigError, CodeError, DistributedError: training is not possible; the
        message says what to change.
    """
    if (exit_code := usage(HELP, arguments)) is not None:
        return exit_code
    hosts.join_from_arguments("train", arguments[1:])
    if not distributed.is_first_process():
        console = Console(quiet=True)
    wanted = training_target.find_target(arguments[0])
    given = _parse(wanted, arguments)
    code = training_target.code_of(wanted, given.config, given.code)
    final = final_training(wanted.module, given.config, given.final, code)
    initial = wanted.initial if given.weights is None else read_weights(given.weights)
    final = dataclasses.replace(final, initial=initial)
    origin = dataclasses.replace(wanted.origin, config=given.config, settings=given.final)
    directory = given.out or wanted.directory or Path(distributed.broadcast(str(_new_directory(origin.name))))
    console.print(f"{origin.name}: {final.recipe.epochs:,} epochs, in {directory}", highlight=False, soft_wrap=True)
    display = TrainingDisplay(console)

    def run(preemption: Preemption) -> dict[str, Any]:
        with display:
            return carry_through(final, code, directory, origin, display, preemption=preemption)

    found = hosts.run_preemptible("train", f"lanas train {directory}", display.note, run)
    if isinstance(found, int):
        return found
    _show(console, found)
    console.print(f"folder: {directory}", highlight=False, soft_wrap=True)
    return 0


def _parse(wanted: Target, arguments: Sequence[str]) -> Any:
    """Parses `final`, `config`, `code`, `weights`, `out` and `hosts` from the command line."""
    module, recorded = wanted.module, wanted.origin
    out = tyro.conf.arg(metavar="DIR", help="new or empty folder, or the folder of the training to continue")
    code = tyro.conf.arg(metavar="0,1,...", help="code of the network, integers with commas; default: the best trial's")
    weights = tyro.conf.arg(metavar="DIR", help="folder of initial weights from lanas extract or lanas export")
    settings = (lambda: recorded.settings) if recorded.settings is not None else module.Final
    fields: list[Any] = [
        ("final", Annotated[module.Final, tyro.conf.arg(name="")], dataclasses.field(default_factory=settings)),
        ("code", Annotated[str | None, code], dataclasses.field(default=None)),
        ("weights", Annotated[Path | None, weights], dataclasses.field(default=None)),
        ("out", Annotated[Path | None, out], dataclasses.field(default=None)),
        ("hosts", Hosts, dataclasses.field(default_factory=Hosts)),
    ]
    if recorded.config is None:
        fields.append(("config", module.Config, dataclasses.field(default_factory=module.Config)))
    both = dataclasses.make_dataclass("Settings", fields)
    about = f"{module.Final.__doc__ or ''}"
    parsed: Any = tyro.cli(both, prog=f"lanas train {arguments[0]}", args=list(arguments[1:]), description=about)
    parsed.config = getattr(parsed, "config", recorded.config)
    return parsed


def _new_directory(name: str) -> Path:
    return run_folder.default_directory(f"{name}-final", datetime.datetime.now())


def _show(console: Console, found: dict[str, Any]) -> None:
    """Prints the accuracies of the last weights and of their moving average."""
    for name, label in (("validation_accuracy", "search-validation accuracy"), ("test_accuracy", "test accuracy")):
        if (last := found[name]) is None:
            continue
        average = found[f"ema_{name}"]
        text = f"{label} {last:.4f}" + ("" if average is None else f", average of weights {average:.4f}")
        console.print(text, highlight=False, soft_wrap=True)
