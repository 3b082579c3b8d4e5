"""Rebuilding of trainings and networks from a folder's record: the experiment's file, its settings and a code."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Int

from lanas_jax.runtime.files import inside_folder
from lanas_jax.spaces.definition import choices_of, definition_difference
from lanas_jax.storage import config_json
from lanas_jax.storage.folder import RunError
from lanas_jax.study import discovery, run_folder
from lanas_jax.study.discovery import ExperimentError
from lanas_jax.study.experiment import WinnerTraining
from lanas_jax.supernet.base import Extracting
from lanas_jax.trainer.language import LanguageTraining
from lanas_jax.trainer.task import FinalNetwork, FinalTraining, InSpace

EXTRACTED = "extracted"  # value of "weights" in architecture.json for weights from a supernet


def final_training(
    module: ModuleType, config: Any, settings: Any, code: Int[np.ndarray, " dims"]
) -> FinalTraining | LanguageTraining:
    """Calls an experiment's `final` and returns its training.

    Raises:
      ExperimentError: `final` raised an error, or did not return a training.
    """
    try:
        return WinnerTraining(module.final, config, settings).of_any(code)
    except ExperimentError as error:
        raise ExperimentError(f"{discovery.file_of(module)}: {error}") from error


def recorded_training(source: Path, record: Mapping[str, Any]) -> FinalTraining | LanguageTraining:
    """Rebuilds a training as it was when it started, without its teacher, which only a training reads.

    If `final` needs the setting `teacher`, the training is built with it, and the teacher must be where it was.

    Args:
      source: path of the saved copy of the experiment's file.
      record: content of training.json or architecture.json, with code, settings and the paths of the experiment.

    Raises:
      RunError: there is no file, since the training was started from Python; or the recorded code now means another
        network.
      ExperimentError, ConfigError: the file no longer builds the training.
    """
    module = recorded_module(source, record)
    config, settings = recorded_settings(module, record)
    code = np.array(record["code"], np.int32)
    with inside_folder(record.get("working_folder")):
        try:
            training = final_training(module, config, _without_teacher(settings), code)
        except ExperimentError:
            training = final_training(module, config, settings, code)
    _check_choices(source, record, training.network)
    return training


def _without_teacher(settings: Any) -> Any:
    """Returns the settings of a winner training with None as their `teacher`, if they have such a field."""
    names = {field.name for field in dataclasses.fields(settings)} if dataclasses.is_dataclass(settings) else ()
    return dataclasses.replace(settings, teacher=None) if "teacher" in names else settings


def recorded_network(source: Path, record: Mapping[str, Any]) -> FinalNetwork:
    """Rebuilds the network of a folder that was exported from a training or extracted from a supernet.

    Args:
      source: path of the saved copy of the experiment's file.
      record: content of architecture.json.

    Raises:
      RunError, ExperimentError, ConfigError: the file no longer builds the network.
    """
    if record["weights"] != EXTRACTED:
        return of_images(source.parent, recorded_training(source, record)).network
    with inside_folder(record.get("working_folder")):
        module = discovery.load_experiment(source, original=recorded_original(record))
        config = config_json.read_config(module.Config, record["config"])
        evaluator = run_folder.build_experiment(module, config).evaluator
    if not isinstance(evaluator, Extracting):
        raise ExperimentError(f"{source}: the experiment's evaluator has no supernet to extract from")
    network = evaluator.supernet.standalone(np.array(record["code"], np.int32))
    _check_choices(source, record, network)
    return network


def of_images(directory: Path, training: FinalTraining | LanguageTraining) -> FinalTraining:
    """Returns a training if its network is one of images.

    Raises:
      RunError: it trains a language model.
    """
    if isinstance(training, LanguageTraining):
        raise RunError(f"{directory} holds a language model; expected a network of images")
    return training


def recorded_module(source: Path, record: Mapping[str, Any]) -> ModuleType:
    """Loads the saved copy of an experiment's file, which must define a winner training.

    Raises:
      RunError: there is no file.
      ExperimentError: the file cannot be loaded, or defines no winner training.
    """
    if not source.exists():
        raise RunError(f"{source.parent} was started from Python, so no experiment's file can build its network")
    with inside_folder(record.get("working_folder")):
        return offering_training(discovery.load_experiment(source, original=recorded_original(record)))


def recorded_settings(module: ModuleType, record: Mapping[str, Any]) -> tuple[Any, Any]:
    """Returns the settings of the experiment and of its winner training."""
    return config_json.read_config(module.Config, record["config"]), config_json.read_config(
        module.Final, record["settings"]
    )


def recorded_original(record: Mapping[str, Any]) -> Path:
    """Returns the path of the experiment's file when the training or the search started."""
    return Path(record["home"]) / Path(record.get("source") or "experiment.py").name


def _check_choices(source: Path, record: Mapping[str, Any], network: InSpace) -> None:
    """Raises `RunError` if the choices of a network's space differ from those of the recorded code."""
    if "choices" not in (recorded := record.get("space") or {}):
        return
    if changed := definition_difference(choices_of(recorded), choices_of(network.space.definition())):
        where = source.parent
        raise RunError(f"the code in {where} belongs to another space: {changed}. Restore what {source} imports")


def offering_training(module: ModuleType, code: tuple[int, ...] | None = None) -> ModuleType:
    """Returns the module if it defines a winner training; `code` is the winner of the run that saved the file.

    Raises:
      ExperimentError: the module defines no winner training.
    """
    if not (missing := discovery.missing(module, "Final", "final(config, settings, code)")):
        return module
    advice = "docs/training.md shows how to write one"
    if code is not None:
        advice += (
            ". A run uses the file that it was started with; to use a newer file, give the winner's code: "
            f"lanas train EXPERIMENT --code {','.join(map(str, code))}"
        )
    raise ExperimentError(
        f"{discovery.file_of(module)} defines no winner training: missing {' and '.join(missing)}; {advice}"
    )
