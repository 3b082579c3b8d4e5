"""Writing a trained network into a folder of its own; `load.py` reads it."""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from lanas_jax.export.load import ARCHITECTURE, SOURCE, write_weights
from lanas_jax.export.recorded import recorded_training
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.storage import config_json
from lanas_jax.storage.folder import RunError
from lanas_jax.trainer.folder import FinalFolder
from lanas_jax.trainer.loop import restored
from lanas_jax.trainer.step import shapes
from lanas_jax.trainer.task import FinalTraining, Weights

LOAD = '''\
"""Runs the network of this folder on images: python load.py IMAGES.npy LOGITS.npy

IMAGES.npy holds {dtype}[n, {shape}], LOGITS.npy will hold float32[n, {classes}]. Needs lanas_jax and what the
experiment needs; not the dataset.
"""

import sys
from pathlib import Path

import numpy as np

from lanas_jax.export.load import load

network = load(Path(__file__).parent)
np.save(sys.argv[2], np.asarray(network(np.load(sys.argv[1]))))
'''


def export_weights(folder: FinalFolder, directory: Path, which: str, kind: str) -> Path:
    """Writes weights, architecture and what is needed to load them.

    Args:
      folder: a training at its end.
      directory: a new or empty folder.
      which: ``last`` weights, or ``ema``, their moving average.
      kind: of file, ``safetensors`` or ``orbax``.

    Returns:
      The folder, absolute.

    Raises:
      RunError: a training that is not at its end, keeps no average, or has no intact checkpoint; a folder in use.
      ExperimentError, ConfigError: its experiment.py no longer builds the network.
      MissingPackageError: the package that writes this kind is not installed.
    """
    directory = directory.absolute()
    if folder.final is None:
        raise RunError(f"{folder.directory} is not trained to the end: lanas train {folder.directory}")
    refuse_used(directory)
    final = recorded_training(folder.source, folder.record)
    weights = _weights(folder, final, which)
    write_exported(directory, weights, folder.source, architecture(folder, final.network.space, which, kind))
    return directory


def refuse_used(directory: Path) -> None:
    """Raises RunError where there is something already."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise RunError(f"{directory} is in use: give a new or an empty folder with --out")


def write_exported(directory: Path, weights: Weights, source: Path, about: Mapping[str, Any]) -> None:
    """Writes a folder that `lanas_jax.export.load.load` reads.

    Args:
      directory: a new or empty folder.
      weights: of the network.
      source: the experiment's file.
      about: what architecture.json is to say.

    Raises:
      MissingPackageError: the package that writes this kind of file is not installed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_weights(directory, weights, about["format"])
    shutil.copyfile(source, directory / SOURCE)
    (directory / "load.py").write_text(
        LOAD.format(
            dtype="float32" if about["scaling"] is None else "uint8",
            shape=", ".join(map(str, about["image_shape"])),
            classes=about["classes"],
        ),
        encoding="utf-8",
    )
    (directory / ARCHITECTURE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def architecture(folder: FinalFolder, space: SearchSpace, which: str, kind: str) -> dict[str, Any]:
    """What architecture.json says."""
    record, final = folder.record, folder.final or {}
    prefix = "" if which == "last" else "ema_"
    return {
        "name": record["name"],
        "code": record["code"],
        **describe_network(space, np.array(record["code"], np.int32)),
        **{name: final[name] for name in ("multiply_adds", "parameters", "trained_parameters")},
        **{name: final[f"{prefix}{name}"] for name in ("validation_accuracy", "test_accuracy")},
        "weights": which,
        "format": kind,
        **{name: record["data"][name] for name in ("image_shape", "classes", "scaling")},
        **{name: record[name] for name in ("home", "config", "settings", "recipe", "software")},
    }


def describe_network(space: SearchSpace, code: Int[np.ndarray, " dims"]) -> dict[str, Any]:
    """A network in words, and its space with the settings that can be written down."""
    return {"description": space.describe(code), "space": {"name": type(space).__name__, **_settings(space)}}


def _settings(space: SearchSpace) -> dict[str, Any]:
    """Those of a space that can be written down."""
    settings = {
        field.name: getattr(space, field.name) for field in dataclasses.fields(space) if field.name != "choices"
    }
    try:
        return config_json.encode_value(settings)
    except config_json.ConfigError:
        return {}


def _weights(folder: FinalFolder, final: FinalTraining, which: str) -> Weights:
    saved = restored(folder, shapes(final.network, final.recipe))
    if saved is None:
        raise RunError(f"none of the checkpoints in {folder.checkpoints} is intact")
    weights = saved.state.weights if which == "last" else saved.state.average
    if weights is None:
        raise RunError(f"{folder.directory} keeps no average of its weights: its recipe has ema None")
    return weights
