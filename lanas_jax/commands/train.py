"""``lanas train``: finds the network to train, trains it in full, and prints its accuracies.

The network is the winner of a run, a given code of an experiment, or the network of a training to continue.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import numpy as np
import tyro
from jaxtyping import Int
from rich.console import Console

from lanas_jax.commands import hosts, summary
from lanas_jax.commands.base import RefusedError, cache_programs, parse_settings, usage
from lanas_jax.commands.codes import CodeError, read_code
from lanas_jax.commands.hosts import Party
from lanas_jax.commands.observation import OBSERVATION, Observation
from lanas_jax.commands.reading import Reading, reading_option, words_of
from lanas_jax.export.load import read_weights
from lanas_jax.export.recorded import (
    final_training,
    offering_training,
    recorded_module,
    recorded_original,
    recorded_settings,
)
from lanas_jax.runtime import distributed
from lanas_jax.runtime.console import terminal
from lanas_jax.runtime.distributed import DistributedError, Preemption
from lanas_jax.runtime.files import inside_folder
from lanas_jax.runtime.joining import Hosts
from lanas_jax.runtime.live_display import LiveDisplay
from lanas_jax.runtime.paths import local_path
from lanas_jax.storage import config_json
from lanas_jax.storage.folder import RunError
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study import discovery, run_folder
from lanas_jax.study.objectives import pick_trial, winner_among
from lanas_jax.study.run_folder import Run
from lanas_jax.study.winner import same_network
from lanas_jax.trainer import folder as folders
from lanas_jax.trainer.display import LanguageDisplay, TrainingDisplay
from lanas_jax.trainer.folder import FinalFolder
from lanas_jax.trainer.language import LanguageTraining
from lanas_jax.trainer.task import FinalTraining
from lanas_jax.trainer.train import Origin, train_language_model, train_network

HELP = f"""\
usage: lanas train RUN [--code 0,1,...] [--weights DIR] [--out DIR] [--preset NAME] [settings of the training]
       lanas train EXPERIMENT --code 0,1,... [--out DIR] [settings] [--config.NAME settings of the experiment]
       lanas train FOLDER

Trains the best network of a search, or one of your choice, in full, and measures its test accuracy once. Writes
everything to one folder: RUN/final, DIR, or a new folder under runs/. If a search has trained its winner, in RUN/final,
this shows the result; to train again with other settings, give another folder.
Ctrl-C stops; SIGTERM finishes the current step, saves a checkpoint and stops. The same command continues; so does
lanas train FOLDER, with the folder that a training wrote.
{hosts.HELP}

For the settings: lanas train RUN --help
"""


def train(arguments: Sequence[str]) -> int:
    """Trains the best network of a run, or another network."""
    cache_programs()
    try:
        return _train(terminal(), arguments)
    except (ValueError, OSError, CodeError, DistributedError) as error:
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
    with hosts.joined("train", arguments) as party:
        return _train_found(console, party, arguments)


def _train_found(console: Console, party: Party, arguments: Sequence[str]) -> int:
    if not distributed.is_first_process():
        console = terminal(quiet=True)
    wanted = find_target(arguments[0])
    if (pick := _value_of("--pick", arguments)) is not None:
        wanted = _picked(wanted, pick, _value_of("--code", arguments))
    given = _parse(wanted, arguments)
    for name in ("weights", "out"):
        if (path := getattr(given, name)) is not None:
            setattr(given, name, path.absolute())
    with given.observation.active(), inside_folder(wanted.origin.working_folder):
        return _train_target(console, party, wanted, given)


def _train_target(console: Console, party: Party, wanted: "Target", given: Any) -> int:
    config = _present_config(wanted, given)
    code = _code_of(wanted, config, given.code)
    final = final_training(wanted.module, config, given.final, code)
    if wanted.run is not None:
        wanted.run.check_space(final.network.space.definition(), choices_only=True)
    initial = wanted.initial if given.weights is None else read_weights(given.weights)
    final = dataclasses.replace(final, initial=initial)
    origin = dataclasses.replace(wanted.origin, config=given.config, settings=given.final)
    with contextlib.ExitStack() as stack:
        directory = given.out or wanted.directory or stack.enter_context(hosts.new_directory(f"{origin.name}-final"))
        words = ["lanas", "train", str(directory), *words_of(getattr(given, "reading", Reading()).changes)]
        return _train_in(directory, console, party, final, code, origin, words)


def _train_in(
    directory: Path,
    console: Console,
    party: Party,
    final: FinalTraining | LanguageTraining,
    code: Int[np.ndarray, " dims"],
    origin: Origin,
    words: Sequence[str],
) -> int:
    """Trains in a folder, with live progress; returns the exit code. `words` are the command that continues."""
    length = summary.length(vars(final.recipe))
    console.print(f"{origin.name}: {length}, in {directory}", soft_wrap=True)
    if isinstance(final, LanguageTraining):
        writer = LanguageDisplay(console)
        display: LiveDisplay = writer
        train = functools.partial(train_language_model, final, code, directory, origin, writer)
    else:
        shown = TrainingDisplay(console)
        display, train = shown, functools.partial(train_network, final, code, directory, origin, shown)

    def run(preemption: Preemption) -> dict[str, Any]:
        with display:
            return train(preemption=preemption)

    found = hosts.run_preemptible(party, words, display.note, run)
    if isinstance(found, int):
        return found
    summary.show_accuracies(console, found)
    console.print(f"folder: {directory}", soft_wrap=True)
    return 0


@dataclasses.dataclass(frozen=True)
class Target:
    """A network to train in full and where it comes from.

    Attributes:
      origin: recorded origin of the experiment; settings that are None come from the command line.
      module: loaded file of the experiment; defines `Final` and `final`.
      code: code of the winner or of the training to continue; None if the command line must give it.
      directory: folder of the training; None for the one given on the command line, or a new one.
      initial: initial weights, by name, of the training to continue; None if they were randomly initialized.
      run: run whose winner is trained; None for an experiment or a training.
    """

    origin: Origin
    module: ModuleType
    code: tuple[int, ...] | None = None
    directory: Path | None = None
    initial: Mapping[str, np.ndarray] | None = None
    run: Run | None = None


def find_target(name: str) -> Target:
    """Returns the target of that name.

    Args:
      name: folder that a search or a training wrote, or an experiment as in `discovery.find_experiment`.

    Raises:
      RunError: the folder contains neither a run nor a training, or the run has no successful trial.
      ExperimentError: there is no such experiment, or it defines no winner training.
    """
    path = local_path(name)
    if folders.training_exists(path):
        return _of_folder(folders.open_folder(path))
    if path.is_dir():
        if not run_folder.run_exists(path):
            raise RunError(f"{path.absolute()} contains neither a run nor a training")
        return _of_run(run_folder.open_run(path))
    source = discovery.find_experiment(name)
    origin = Origin(source.stem, source, source, Path.cwd())
    return Target(origin, offering_training(discovery.load_experiment(source)))


def _present_config(target: Target, given: Any) -> Any:
    """Returns the settings of the experiment with those that the command line changes without recording them."""
    changes = getattr(given, "reading", Reading()).changes
    if not changes:
        return given.config
    return config_json.read_config(target.module.Config, config_json.encode_value(given.config) | changes)


def _code_of(target: Target, config: Any, text: str | None) -> Int[np.ndarray, " dims"]:
    """Returns the code to train; a code from the command line is checked against the experiment's space.

    Raises:
      CodeError: the code is invalid, or none was given.
    """
    if text is not None:
        return read_code(text, run_folder.build_experiment(target.module, config).space)
    if target.code is None:
        raise CodeError(
            f"{target.origin.name} is an experiment, which has no best network: choose one with --code 0,1,..."
        )
    return np.array(target.code, np.int32)


def _picked(target: Target, pick: str, code: str | None) -> Target:
    """Returns the target with the code of a trial of its run; another network than the winner has its own folder.

    If that folder has a training, its settings are those of the target. A new one starts from the experiment's.

    Raises:
      CodeError: a code was given too, the target is not a run, or the text means no trial.
    """
    if code is not None:
        raise CodeError("give --code or --pick, not both")
    if target.run is None:
        raise CodeError(f"--pick needs the folder of a search; got {target.origin.name}")
    with TrialStore.open(target.run.trials, read_only=True) as store:
        trials = store.trials()
    try:
        trial = pick_trial(trials, target.run.objectives, pick)
    except ValueError as error:
        raise CodeError(str(error)) from error
    if trial.code == target.code:
        return target
    directory = target.run.directory / f"trial-{trial.id}"
    if folders.training_exists(directory):
        return dataclasses.replace(_of_folder(folders.open_folder(directory)), run=target.run)
    origin = dataclasses.replace(target.origin, settings=None)
    return dataclasses.replace(target, origin=origin, code=trial.code, directory=directory, initial=None)


def _of_folder(folder: FinalFolder) -> Target:
    record = folder.record
    module = recorded_module(folder.source, record)
    config, settings = recorded_settings(module, record)
    started = None if (recorded := record.get("working_folder")) is None else Path(recorded)
    inside = run_folder.run_exists(folder.directory.parent)  # the run may have moved
    run = folder.directory.parent if inside else record.get("run") and Path(record["run"])
    run = run if run and run.is_dir() else None
    origin = Origin(record["name"], folder.source, recorded_original(record), started, config, settings, run)
    return Target(origin, module, tuple(record["code"]), folder.directory, folders.initial(folder))


def _of_run(run: Run) -> Target:
    if not run.source.exists():
        raise RunError(
            f"{run.directory} was started from Python, so there is no experiment file to build its network from"
        )
    with TrialStore.open(run.trials, read_only=True) as store:
        winner = winner_among(store.trials(), run.objectives)
    if winner is None:
        raise RunError(f"no trial of {run.directory} has succeeded yet, so there is no winner to train")
    module, config = run.load()
    offering_training(module, winner.code)
    if folders.training_exists(run.final):
        folder = folders.open_folder(run.final)
        space = run_folder.build_experiment(module, config).space
        if same_network(space, folder.record["code"], winner.code):
            return dataclasses.replace(_of_folder(folder), run=run)
    origin = Origin(run.record["experiment"], run.source, run.original, run.working_folder, config, run=run.directory)
    return Target(origin, module, winner.code, run.final, run=run)


def _parse(wanted: Target, arguments: Sequence[str]) -> Any:
    """Parses `final`, `config`, `reading` and the other options from the command line."""
    module, recorded = wanted.module, wanted.origin
    out = tyro.conf.arg(metavar="DIR", help="new or empty folder, or the folder of the training to continue")
    code = tyro.conf.arg(
        metavar="0,1,...",
        help="code of the network: integers separated by commas",
        help_behavior_hint="(default: the best trial's)",
    )
    pick = tyro.conf.arg(metavar="TRIAL", help="trial of a run: knee, 'trial 17' or 'multiply_adds<=3e8'")
    weights = tyro.conf.arg(metavar="DIR", help="folder of initial weights from lanas extract or lanas export")
    preset = tyro.conf.arg(
        metavar="NAME", help=f"named settings to start from: {', '.join(_presets(module)) or 'none'}"
    )
    settings = _default_settings(wanted, arguments)
    options: list[Any] = [
        ("preset", Annotated[str | None, preset], dataclasses.field(default=None)),
        ("code", Annotated[str | None, code], dataclasses.field(default=None)),
        ("pick", Annotated[str | None, pick], dataclasses.field(default=None)),
        ("weights", Annotated[Path | None, weights], dataclasses.field(default=None)),
        ("out", Annotated[Path | None, out], dataclasses.field(default=None)),
        ("hosts", Hosts, dataclasses.field(default_factory=Hosts)),
        ("observation", OBSERVATION, dataclasses.field(default_factory=Observation)),
    ]
    if recorded.config is None:
        options.append(("config", module.Config, dataclasses.field(default_factory=module.Config)))
    else:
        options += reading_option(module.Final)
    final = {"final": (module.Final, dataclasses.field(default_factory=settings))}
    parsed = parse_settings(f"train {arguments[0]}", arguments[1:], final, options, module.Final.__doc__ or "")
    parsed.config = getattr(parsed, "config", recorded.config)
    return parsed


def _presets(module: ModuleType) -> Mapping[str, Any]:
    """Returns the named settings of an experiment's winner training: its `PRESETS`, or none."""
    found: Mapping[str, Any] = getattr(module, "PRESETS", {})
    return found


def _default_settings(wanted: Target, arguments: Sequence[str]) -> Callable[[], Any]:
    """Returns a function that returns the settings of the training that no option changes.

    Raises:
      ValueError: the experiment has no preset of the given name.
    """
    named = _value_of("--preset", arguments)
    if named is None:
        return wanted.module.Final if wanted.origin.settings is None else lambda: wanted.origin.settings
    presets = _presets(wanted.module)
    if named not in presets:
        there = f"choose from {', '.join(presets)}" if presets else "it has none"
        raise ValueError(f"{wanted.origin.name} has no preset {named!r}: {there}")
    return lambda: presets[named]


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    """Returns the last value of an option that decides the defaults of others, before they are parsed."""
    found = None
    for word, following in zip(arguments, [*arguments[1:], None], strict=True):
        name, equals, value = word.partition("=")
        if name == option:
            found = value if equals else following
    return found
