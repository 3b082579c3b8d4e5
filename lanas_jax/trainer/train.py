"""One training from start to end: the folder, the programs, the loop, and the report.

A second call with the same folder resumes the training, or returns the recorded result if it is complete. If the
network belongs to a run, which records the results of its networks, a call with a new folder returns that result. In a
multi-host training every process calls it with the same folder, and process 0 writes.
"""

import dataclasses
import datetime
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from lanas_jax.data.splits import Dataset
from lanas_jax.data.streams import StreamedDataset
from lanas_jax.runtime import distributed
from lanas_jax.runtime.arithmetic import in_32_bits, nan_is_data
from lanas_jax.runtime.distributed import Preemption
from lanas_jax.runtime.paths import local_path
from lanas_jax.spaces.definition import choices_of
from lanas_jax.storage import config_json, software, weights
from lanas_jax.storage.folder import RunError
from lanas_jax.storage.results import NetworkResult, add_network_result, network_results
from lanas_jax.storage.weights import digest_by_name
from lanas_jax.trainer import compilation, loop
from lanas_jax.trainer import folder as folders
from lanas_jax.trainer.folder import FinalFolder
from lanas_jax.trainer.language import LanguageProgress, LanguageTraining, check_language, train_language
from lanas_jax.trainer.loop import TrainingProgress
from lanas_jax.trainer.step import shapes
from lanas_jax.trainer.task import FinalTraining, costs, data_fingerprint, search_splits
from lanas_jax.training.peak import measure_peak, step_flops


@dataclasses.dataclass(frozen=True)
class Origin:
    """The experiment of a training, as recorded in the training's folder.

    Attributes:
      name: name of the experiment.
      source: path of the experiment's file, or of a run's copy of it; None if the training was started from Python.
      original: path of the experiment's file when the search or the training started; it may use files next to it.
      working_folder: folder in which the search or the training started, where relative paths start.
      config: settings of the experiment.
      settings: settings of the experiment's winner training.
      run: folder of the run that the network belongs to; None if there is none.
    """

    name: str
    source: Path | None = None
    original: Path | None = None
    working_folder: Path | None = None
    config: Any = None
    settings: Any = None
    run: Path | None = None


def check_training(final: FinalTraining, data: Dataset | StreamedDataset, devices: Sequence[jax.Device]) -> None:
    """Checks a training against its images and devices, before anything is written or compiled.

    Raises:
      ValueError: the recipe does not fit the images or the devices, the space or the teacher does not fit the images,
        or the initial weights do not fit the network.
    """
    searched = search_splits(data)
    final.network.space.check_images(searched.image_shape, searched.classes)
    compilation.check_recipe(final.recipe, searched, devices)
    if final.teacher is not None:
        final.teacher.check(searched, final.recipe)
    weights.check_weights(shapes(final.network, final.recipe).weights, final.initial or {}, partly=True)


@in_32_bits
@nan_is_data
def train_network(
    final: FinalTraining,
    code: Int[np.ndarray, " dims"],
    directory: Path,
    origin: Origin,
    progress: TrainingProgress,
    devices: Sequence[jax.Device] | None = None,
    preemption: Preemption | None = None,
) -> dict[str, Any]:
    """Trains a network to the last step, resuming if possible, and evaluates it once on the test split.

    If the network belongs to a run, the run records the result. Another call for the same network, with any
    folder, then returns the recorded result without training.

    Args:
      final: training to run.
      code: code of the network.
      directory: new or empty folder, or the folder of the same training; the same path in all processes.
      origin: experiment that the training belongs to.
      progress: receives progress messages.
      devices: devices to train on; by default all devices of all processes. Each batch is divided among them.
      preemption: signal to stop early with a checkpoint; None never stops early.

    Returns:
      The content of final.json.

    Raises:
      ValueError: as in `check_training`; nothing is written.
      PathError: the folder is remote, or its name cannot be used.
      RunError: the folder holds other files or another training (the message names the difference), or is in use.
      ConfigError: the settings cannot be written as JSON.
      DistributedError: the processes were not started with the same settings, images and software.
      NotFiniteError, DamagedError, PreemptedError: as in `loop.run_training`.
    """
    devices = jax.devices() if devices is None else devices
    data = final.dataset()
    check_training(final, data, devices)
    record = _record(final, code, _images(data), origin, devices)

    def fit(folder: FinalFolder) -> dict[str, Any]:
        made = compilation.compile_training(final, search_splits(data), devices)
        made = dataclasses.replace(made, at_peak=_seconds_at_peak(final, code, devices))
        fitted = loop.run_training(made, search_splits(data), folder, progress, preemption)
        return {
            "trained_parameters": sum(leaf.size for leaf in jax.tree.leaves(fitted.state.weights.params)),
            "steps": made.total,
            **loop.measure_accuracies(made, fitted.state, data),
            "seconds": fitted.seconds,
            **loop.measured_throughput(fitted, made),
            "compile_seconds": made.compile_seconds,
        }

    return _fit_once(final, code, local_path(directory), origin, record, progress.note, fit)


def train_language_model(
    final: LanguageTraining,
    code: Int[np.ndarray, " dims"],
    directory: Path,
    origin: Origin,
    progress: LanguageProgress,
    preemption: Preemption | None = None,
) -> dict[str, Any]:
    """Trains a language model to the last step, resuming if possible, and reads the test part of its text once.

    Arguments, result and errors are those of `train_network`, but for one device.
    """
    text = final.dataset()
    check_language(final, text)
    parts = {"text": text.digest, "symbols": len(text.train) + len(text.validation) + len(text.test)}
    record = _record(final, code, parts, origin, jax.devices()[:1])
    preemption = Preemption() if preemption is None else preemption

    def fit(folder: FinalFolder) -> dict[str, Any]:
        return train_language(final, text, folder, progress, preemption)

    return _fit_once(final, code, local_path(directory), origin, record, progress.note, fit)


def _fit_once(
    final: FinalTraining | LanguageTraining,
    code: Int[np.ndarray, " dims"],
    directory: Path,
    origin: Origin,
    record: Mapping[str, Any],
    note: Callable[[str], object],
    fit: Callable[[FinalFolder], dict[str, Any]],
) -> dict[str, Any]:
    """Trains in a folder, unless the folder or the run has the result of this training; returns and records it.

    Args:
      final: training to run.
      code: code of the network.
      directory: folder of the training.
      origin: experiment that the training belongs to.
      record: content of training.json.
      note: receives messages.
      fit: function that trains and returns what it measured.
    """
    distributed.agree("settings, images or software", folders.decisive(record))
    results = [] if origin.run is None else network_results(origin.run)
    same = next((result.final for result in results if result.digest == folders.digest(record)), None)
    if same is not None and not folders.training_exists(directory):
        note("the run already has the result of this training; showing it")
        return dict(same)
    with folders.entered(directory, record, origin.source, final.initial) as folder:
        if (recorded := folder.final or same) is not None:
            note("this training is already complete; showing its recorded result")
            distributed.by_first(lambda: _finish(folder, origin.run, recorded), OSError, RunError)
            return dict(recorded)
        if results:
            networks = "another network" if len(results) == 1 else f"{len(results)} other networks"
            places = ", ".join(result.directory for result in results)
            read = "images have" if isinstance(final, FinalTraining) else "text has"
            note(f"the test {read} been read before, for {networks} of this run: {places}")
        if (before := folder.record["devices"]) != (now := record["devices"]):
            note(f"started on {before}, resumed on {now}: the result will differ in its last digits")
        found = {
            "name": origin.name,
            "code": code.tolist(),
            "settings": folder.record["settings"],
            "recipe": folder.record["recipe"],
            "seed": final.seed,
            **costs(final.network, code),
            **fit(folder),
            "networks_tested_before": len(results),
            "devices": now,
            "software": software.versions(),
        }
        distributed.by_first(lambda: _finish(folder, origin.run, found), OSError, RunError)
        return found


def _finish(folder: FinalFolder, run: Path | None, found: Mapping[str, Any]) -> None:
    """Records a result in the run and in the folder, in this order, where it is not yet recorded."""
    if run is not None and all(result.digest != folder.digest for result in network_results(run)):
        add_network_result(run, NetworkResult(folder.digest, str(folder.directory), found))
    if folder.final is None:
        folder.finish(found)


def _seconds_at_peak(
    final: FinalTraining, code: Int[np.ndarray, " dims"], devices: Sequence[jax.Device]
) -> float | None:
    """Returns the seconds per image at the peak of all devices, extrapolated from the devices of this process.

    The peak is that of a large matrix product in bfloat16 (`lanas_jax.training.peak`). Returns None if the space has no
    cost model, and on CPUs, where measuring the peak is not worth the time.
    """
    multiply_adds = costs(final.network, code)["multiply_adds"]
    if devices[0].platform == "cpu" or not multiply_adds:
        return None
    mine = [device for device in devices if device.process_index == jax.process_index()]
    peak = measure_peak(jnp.dtype(jnp.bfloat16), mine) / len(mine) * len(devices)
    return float(step_flops(np.array([multiply_adds]), final.recipe.passes)[0]) / peak


def _record(
    final: FinalTraining | LanguageTraining,
    code: Int[np.ndarray, " dims"],
    data: Mapping[str, Any],
    origin: Origin,
    devices: Sequence[jax.Device],
) -> dict[str, Any]:
    """Returns the content of training.json."""
    for settings in (origin.config, origin.settings, final.recipe):
        if settings is not None:
            config_json.check_config(settings)
    teacher = None if isinstance(final, LanguageTraining) else final.teacher
    return {
        "name": origin.name,
        "source": None if origin.original is None else str(origin.original),
        "home": None if origin.original is None else str(origin.original.parent),
        "working_folder": None if origin.working_folder is None else str(origin.working_folder),
        "experiment": None if origin.source is None else hashlib.sha256(origin.source.read_bytes()).hexdigest(),
        "code": code.tolist(),
        "run": None if origin.run is None else str(origin.run),
        "config": None if origin.config is None else config_json.encode_value(origin.config),
        "settings": None if origin.settings is None else config_json.encode_value(origin.settings),
        "recipe": config_json.encode_value(final.recipe),
        "augmentation": None if isinstance(final, LanguageTraining) else config_json.encode_value(final.augmentation),
        "space": choices_of(final.network.space.definition()),
        "seed": final.seed,
        "initial": None if final.initial is None else digest_by_name(final.initial),
        **({} if teacher is None else {"teacher": teacher.identity()}),
        "data": data,
        "software": software.versions(),
        "devices": _described(devices),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _images(data: Dataset | StreamedDataset) -> dict[str, Any]:
    """Returns digests of the splits, and the shape, classes and scaling of the images."""
    search = search_splits(data)
    splits = {"train": search.train, "validation": search.validation, "test": data.test}
    return {
        **{name: data_fingerprint(split) for name, split in splits.items()},
        "image_shape": list(search.image_shape),
        "classes": search.classes,
        "scaling": None if search.scaling is None else config_json.encode_value(search.scaling),
    }


def _described(devices: Sequence[jax.Device]) -> str:
    return f"{len(devices)} x {devices[0].device_kind}"
