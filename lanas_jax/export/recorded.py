"""Trainings and networks rebuilt from what a folder records of them: the experiment's file, its settings, a code."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Int

from lanas_jax.storage import config_json
from lanas_jax.storage.folder import RunError
from lanas_jax.study import discovery, run_folder
from lanas_jax.study.discovery import ExperimentError
from lanas_jax.supernet.base import Extracting
from lanas_jax.trainer.task import FinalNetwork, FinalTraining

EXTRACTED = "extracted"  # what architecture.json says of weights from a supernet


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


def recorded_training(source: Path, record: Mapping[str, Any]) -> FinalTraining:
    """What is trained, as it was when the training began.

    Args:
      source: the kept copy of the experiment's file.
      record: the code, the settings and whence the file may import; of training.json or of architecture.json.

    Raises:
      RunError: there is no file, since the training was started from Python.
      ExperimentError, ConfigError: the file no longer builds it.
    """
    module = recorded_module(source, record)
    config, settings = recorded_settings(module, record)
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
    module = discovery.load_experiment(source, beside=Path(record["home"]))
    evaluator = run_folder.build_experiment(module, config_json.read_config(module.Config, record["config"])).evaluator
    if not isinstance(evaluator, Extracting):
        raise ExperimentError(f"{source}: its evaluator has no supernet to extract from")
    return evaluator.supernet.standalone(np.array(record["code"], np.int32))


def recorded_module(source: Path, record: Mapping[str, Any]) -> ModuleType:
    """Runs the kept copy of an experiment's file, which has to offer a final training.

    Raises:
      RunError: there is no file.
      ExperimentError: it cannot be run, or offers none.
    """
    if not source.exists():
        raise RunError(f"{source.parent} was started from Python: there is no file to build its network from")
    return offering_training(discovery.load_experiment(source, beside=Path(record["home"])))


def recorded_settings(module: ModuleType, record: Mapping[str, Any]) -> tuple[Any, Any]:
    """The experiment's, and those of its final training."""
    return config_json.read_config(module.Config, record["config"]), config_json.read_config(
        module.Final, record["settings"]
    )


def offering_training(module: ModuleType, code: tuple[int, ...] | None = None) -> ModuleType:
    """The module, if it offers a final training; `code` is the winner of the run whose file it is."""
    # A Final may be lanas_jax.storage.trials.Winner, imported for the search.
    if not (missing := discovery.missing(module, "Final", "final(config, settings, code)")):
        return module
    advice = "docs/training.md shows how to write one"
    if code is not None:
        advice += (
            ". A run keeps the file it was begun with; for a newer one, give the winner: "
            f"lanas train EXPERIMENT --code {','.join(map(str, code))}"
        )
    raise ExperimentError(f"{module.__file__} offers no final training: it has no {' and no '.join(missing)}; {advice}")
