"""The targets of ``lanas train``: a run, an experiment, or the folder of a training."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Int

from lanas_jax.commands.codes import CodeError, read_code
from lanas_jax.export.recorded import offering_training, recorded_module, recorded_settings
from lanas_jax.storage import config_json
from lanas_jax.storage.folder import RunError
from lanas_jax.storage.trials import TrialStore, best
from lanas_jax.study import discovery, run_folder
from lanas_jax.study.run_folder import Run
from lanas_jax.trainer import folder as folders
from lanas_jax.trainer.folder import FinalFolder
from lanas_jax.trainer.train import Origin

FINAL = "final"  # subfolder of a run for the training of its best trial


@dataclasses.dataclass(frozen=True)
class Target:
    """A network to train in full and where it comes from.

    Attributes:
      origin: recorded origin of the experiment; settings that are None come from the command line.
      module: loaded file of the experiment; defines `Final` and `final`.
      code: code of the winner or of the training to continue; None if the command line must give it.
      directory: folder of the training; None for the command line's, or a new one.
      initial: initial weights, by name, of the training to continue; None if they were randomly initialized.
    """

    origin: Origin
    module: ModuleType
    code: tuple[int, ...] | None = None
    directory: Path | None = None
    initial: Mapping[str, np.ndarray] | None = None


def find_target(name: str) -> Target:
    """Returns the target of that name.

    Args:
      name: folder that a search or a training wrote, or an experiment as in `discovery.find_experiment`.

    Raises:
      RunError: the folder contains neither, or the run has no successful trial.
      ExperimentError: there is no such experiment, or it defines no final training.
    """
    path = Path(name)
    if folders.training_exists(path):
        return _of_folder(folders.open_folder(path))
    if path.is_dir():
        if not run_folder.run_exists(path):
            raise RunError(f"{path.absolute()} contains neither a run nor a training")
        return _of_run(run_folder.open_run(path))
    source = discovery.find_experiment(name)
    return Target(Origin(source.stem, source, source.parent), offering_training(discovery.load_experiment(source)))


def training_folder(name: str) -> FinalFolder:
    """Returns the training in a folder, or the training of a run's best trial.

    Raises:
      RunError: there is no training.
    """
    path = Path(name)
    return folders.open_folder(
        path / FINAL if run_folder.run_exists(path) and not folders.training_exists(path) else path
    )


def code_of(target: Target, config: Any, text: str | None) -> Int[np.ndarray, " dims"]:
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


def _of_folder(folder: FinalFolder) -> Target:
    record = folder.record
    module = recorded_module(folder.source, record)
    config, settings = recorded_settings(module, record)
    origin = Origin(record["name"], folder.source, Path(record["home"]), config, settings)
    return Target(origin, module, tuple(record["code"]), folder.directory, folders.initial(folder))


def _of_run(run: Run) -> Target:
    if not run.source.exists():
        raise RunError(
            f"{run.directory} was started from Python, so there is no experiment file to build its network from"
        )
    with TrialStore.open(run.trials, read_only=True) as store:
        winner = best(store.trials())
    if winner is None:
        raise RunError(f"no trial of {run.directory} has succeeded yet, so there is no winner to train")
    home = Path(run.record["source"]).parent
    module = offering_training(discovery.load_experiment(run.source, beside=home), winner.code)
    config = config_json.read_config(module.Config, run.record["config"])
    origin = Origin(run.record["experiment"], run.source, home, config)
    return Target(origin, module, winner.code, run.directory / FINAL)
