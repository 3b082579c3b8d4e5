"""What ``lanas train`` may be given: a run, an experiment, or the folder of a training; and what each stands for."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Int

from lanas_jax import config_json, discovery, runs
from lanas_jax.description import CodeError, read_code
from lanas_jax.discovery import ExperimentError
from lanas_jax.final import folder as folders
from lanas_jax.final.folder import FinalFolder
from lanas_jax.final.task import FinalNetwork, FinalTraining
from lanas_jax.final.train import Origin
from lanas_jax.runs import Run, RunError
from lanas_jax.supernet.base import Extracting
from lanas_jax.trials import TrialStore, best

EXTRACTED = "extracted"  # what architecture.json says of weights from a supernet
FINAL = "final"  # where the training of a run's best trial is, within the run's folder


@dataclasses.dataclass(frozen=True)
class Target:
    """An experiment whose final training is wanted.

    Attributes:
      origin: the experiment, as far as it is recorded: settings that are None are to be given.
      module: its file, run; it has `Final` and `final`.
      code: the winner's, or that of a training already begun; None: to be given.
      directory: where the training goes; None: to be given, or a new folder.
      initial: weights that a training already begun began with, by name; None: they were drawn.
    """

    origin: Origin
    module: ModuleType
    code: tuple[int, ...] | None = None
    directory: Path | None = None
    initial: Mapping[str, np.ndarray] | None = None


def find(name: str) -> Target:
    """The target of that name.

    Args:
      name: a folder that a search or a training wrote, or an experiment as `discovery.find` has it.

    Raises:
      RunError: a folder that holds neither, or a run of which no trial succeeded.
      ExperimentError: no such experiment, or one that offers no final training.
    """
    path = Path(name)
    if folders.exists(path):
        return _of_folder(folders.open_folder(path))
    if path.is_dir():
        if not runs.exists(path):
            raise RunError(f"{path.absolute()} holds neither a run nor a training")
        return _of_run(runs.open_run(path))
    source = discovery.find(name)
    return Target(Origin(source.stem, source, source.parent), _offering(discovery.load(source)))


def training_folder(name: str) -> FinalFolder:
    """The training in a folder, or that of a run's best trial.

    Raises:
      RunError: there is none.
    """
    path = Path(name)
    return folders.open_folder(path / FINAL if runs.exists(path) and not folders.exists(path) else path)


def final_training(module: ModuleType, config: Any, settings: Any, code: Int[np.ndarray, " dims"]) -> FinalTraining:
    """Calls an experiment's `final`.

    Raises:
      ExperimentError: it raised, or returned something else than a `FinalTraining`.
    """
    try:
        found = module.final(config, settings, code)
    except Exception as error:
        raise ExperimentError(f"{module.__file__}: final(...) raised {type(error).__name__}: {error}") from error
    if not isinstance(found, FinalTraining):
        raise ExperimentError(f"{module.__file__}: final(...) returned {found!r}, no FinalTraining")
    return found


def code_of(target: Target, config: Any, text: str | None) -> Int[np.ndarray, " dims"]:
    """The code to train, checked against the experiment's space where it comes from outside.

    Raises:
      CodeError: names what is wrong with it, or says that none was given.
    """
    if text is not None:
        return read_code(text, runs.build(target.module, config).space)
    if target.code is None:
        raise CodeError(f"{target.origin.name} is an experiment, which has no best network: give one, --code 0,1,...")
    return np.array(target.code, np.int32)


def recorded_training(source: Path, record: Mapping[str, Any]) -> FinalTraining:
    """What is trained, as it was when the training began.

    Args:
      source: the kept copy of the experiment's file.
      record: the code, the settings and whence the file may import; of training.json or of architecture.json.

    Raises:
      RunError: there is no file, since the training was started from Python.
      ExperimentError, ConfigError: the file no longer builds it.
    """
    module = _recorded_module(source, record)
    config, settings = _recorded_settings(module, record)
    return final_training(module, config, settings, np.array(record["code"], np.int32))


def recorded_network(source: Path, record: Mapping[str, Any]) -> FinalNetwork:
    """The network of a folder that was exported from a training or extracted from a supernet.

    Args:
      source: the kept copy of the experiment's file.
      record: what architecture.json says.

    Raises:
      RunError, ExperimentError, ConfigError: the file no longer builds it.
    """
    if record["weights"] != EXTRACTED:
        return recorded_training(source, record).network
    module = discovery.load(source, beside=Path(record["home"]))
    evaluator = runs.build(module, config_json.read(module.Config, record["config"])).evaluator
    if not isinstance(evaluator, Extracting):
        raise ExperimentError(f"{source}: its evaluator has no supernet to extract from")
    return evaluator.supernet.standalone(np.array(record["code"], np.int32))


def _recorded_module(source: Path, record: Mapping[str, Any]) -> ModuleType:
    if not source.exists():
        raise RunError(f"{source.parent} was started from Python: there is no file to build its network from")
    return _offering(discovery.load(source, beside=Path(record["home"])))


def _recorded_settings(module: ModuleType, record: Mapping[str, Any]) -> tuple[Any, Any]:
    """The experiment's, and those of its final training."""
    return config_json.read(module.Config, record["config"]), config_json.read(module.Final, record["settings"])


def _of_folder(folder: FinalFolder) -> Target:
    record = folder.record
    module = _recorded_module(folder.source, record)
    config, settings = _recorded_settings(module, record)
    origin = Origin(record["name"], folder.source, Path(record["home"]), config, settings)
    return Target(origin, module, tuple(record["code"]), folder.directory, folders.initial(folder))


def _of_run(run: Run) -> Target:
    if not run.source.exists():
        raise RunError(f"{run.directory} was started from Python: there is no file to build its network from")
    with TrialStore.open(run.trials, read_only=True) as store:
        winner = best(store.trials())
    if winner is None:
        raise RunError(f"no trial of {run.directory} has succeeded yet, so there is no winner to train")
    home = Path(run.record["source"]).parent
    module = _offering(discovery.load(run.source, beside=home), winner.code)
    config = config_json.read(module.Config, run.record["config"])
    origin = Origin(run.record["experiment"], run.source, home, config)
    return Target(origin, module, winner.code, run.directory / FINAL)


def _offering(module: ModuleType, code: tuple[int, ...] | None = None) -> ModuleType:
    """The module, if it offers a final training; `code` is the winner of the run whose file it is."""
    # A Final may be lanas_jax.trials.Final, imported for the search.
    if not (missing := discovery.missing(module, "Final", "final(config, settings, code)")):
        return module
    advice = "docs/training.md shows how to write one"
    if code is not None:
        advice += (
            ". A run keeps the file it was begun with; for a newer one, give the winner: "
            f"lanas train EXPERIMENT --code {','.join(map(str, code))}"
        )
    raise ExperimentError(f"{module.__file__} offers no final training: it has no {' and no '.join(missing)}; {advice}")
