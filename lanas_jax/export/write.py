"""Writing of a trained network into a folder that `load.py` reads."""

import dataclasses
import json
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from lanas_jax.export.load import ARCHITECTURE, SOURCE, Exported, scaling_of, write_weights
from lanas_jax.export.recorded import of_images, recorded_training
from lanas_jax.runtime.paths import local_path
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.spaces.definition import choices_of
from lanas_jax.storage import config_json
from lanas_jax.storage.folder import RunError
from lanas_jax.trainer.folder import FinalFolder
from lanas_jax.trainer.loop import restored
from lanas_jax.trainer.step import shapes
from lanas_jax.trainer.task import FinalTraining, Weights

LOAD = '''\
"""Runs the network of this folder on images: python load.py IMAGES.npy LOGITS.npy

IMAGES.npy holds {dtype}[n, {shape}], LOGITS.npy will hold float32[n, {classes}]. With a name that ends in .npz in place
of LOGITS.npy, the script writes the last feature map of each resolution, from fine to coarse, as stage0, stage1, ...;
the images may then have any height and width. The script needs lanas_jax and the packages of the experiment, but not
the dataset.
"""

import sys
from pathlib import Path

import numpy as np

from lanas_jax.export.load import load

network = load(Path(__file__).parent)
images, output = np.load(sys.argv[1]), sys.argv[2]
if output.endswith(".npz"):
    np.savez(output, **{{f"stage{{i}}": stage for i, stage in enumerate(network.features(images))}})
else:
    np.save(output, np.asarray(network(images)))
'''


def trained_network(folder: FinalFolder, which: str) -> Exported:
    """Returns the network of a complete training.

    Args:
      folder: folder of a complete training.
      which: weights of the network: ``last``, or ``ema``, their moving average.

    Raises:
      RunError, ExperimentError, ConfigError: as in `export_weights`.
    """
    refuse_incomplete(folder)
    final = of_images(folder.directory, recorded_training(folder.source, folder.record))
    about, weights = architecture(folder, final.network.space, which), _weights(folder, final, which)
    return Exported(about, final.network, weights, scaling_of(about))


def export_weights(folder: FinalFolder, directory: Path, which: str, kind: str) -> Path:
    """Exports the weights and the architecture of a complete training, with a script that loads them.

    Args:
      folder: folder of a complete training.
      directory: new or empty folder to write to.
      which: weights to export: ``last``, or ``ema``, their moving average.
      kind: file format, ``safetensors`` or ``orbax``.

    Returns:
      The absolute path of the written folder.

    Raises:
      RunError: the training is not complete, has no moving average or no intact checkpoint, or `directory` is not
        empty.
      ExperimentError, ConfigError: the training's experiment.py no longer builds the network.
      MissingPackageError: the package that writes this format is not installed.
    """
    directory = local_path(directory).absolute()
    refuse_used(directory)
    network = trained_network(folder, which)
    write_exported(directory, network.weights, folder.source, {**network.architecture, "format": kind})
    return directory


def refuse_incomplete(folder: FinalFolder) -> None:
    """Raises RunError if a training is not complete."""
    if folder.final is None:
        again = f"lanas train {shlex.quote(str(folder.directory))}"
        raise RunError(f"{folder.directory} holds an incomplete training: run {again} first")


def refuse_used(directory: Path) -> None:
    """Raises RunError if `directory` is a file or a folder that is not empty."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise RunError(f"{directory} is not empty: give a new or an empty folder with --out")


def write_exported(directory: Path, weights: Weights, source: Path, about: Mapping[str, Any]) -> None:
    """Writes a folder that `lanas_jax.export.load.load` reads.

    Args:
      directory: new or empty folder to write to.
      weights: weights of the network.
      source: path of the experiment's file.
      about: content of architecture.json.

    Raises:
      MissingPackageError: the package that writes this file format is not installed.
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


def architecture(folder: FinalFolder, space: SearchSpace, which: str) -> dict[str, Any]:
    """Returns the content of architecture.json without the format of the weights."""
    record, final = folder.record, folder.final or {}
    prefix = "" if which == "last" else "ema_"
    return {
        "name": record["name"],
        "code": record["code"],
        **describe_network(space, np.array(record["code"], np.int32)),
        **{name: final[name] for name in ("multiply_adds", "parameters", "trained_parameters")},
        **{name: final[f"{prefix}{name}"] for name in ("validation_accuracy", "test_accuracy")},
        "weights": which,
        **{name: record["data"][name] for name in ("image_shape", "classes", "scaling")},
        **{name: record[name] for name in ("source", "home", "config", "settings", "recipe", "software")},
        "working_folder": record.get("working_folder"),
    }


def describe_network(space: SearchSpace, code: Int[np.ndarray, " dims"]) -> dict[str, Any]:
    """Returns a description of a network and of its space: choices, and settings if they are JSON-serializable."""
    about = {"name": type(space).__name__, **_settings(space), **choices_of(space.definition())}
    return {"description": space.describe(code), "space": about}


def _settings(space: SearchSpace) -> dict[str, Any]:
    """Returns the settings of a space, or an empty dictionary if they are not JSON-serializable."""
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
        raise RunError(f"none of the checkpoints in {folder.checkpoints} is intact, so there are no weights to export")
    weights = saved.state.weights if which == "last" else saved.state.average
    if weights is None:
        raise RunError(f"{folder.directory} has no average of its weights, since its ema is None: use the last weights")
    return weights
