"""One training from beginning to end: the folder, the programs, the loop, and what is reported.

Called again with the same folder it goes on where it was, or reports what is recorded where it is at its end. Several
processes call it side by side, with the same folder; process 0 writes.
"""

import contextlib
import dataclasses
import datetime
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from lanas_jax.data.splits import Dataset
from lanas_jax.data.streams import StreamedDataset
from lanas_jax.runtime import distributed
from lanas_jax.runtime.distributed import DistributedError, Preemption
from lanas_jax.storage import config_json, software, weights
from lanas_jax.storage.folder import RunError, lock_file
from lanas_jax.storage.weights import digest_by_name
from lanas_jax.trainer import compilation, loop, throughput
from lanas_jax.trainer import folder as folders
from lanas_jax.trainer.loop import Progress
from lanas_jax.trainer.step import shapes
from lanas_jax.trainer.task import FinalTraining, costs, fingerprint, seen


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a training comes from, so that its folder says it.

    Attributes:
      name: of the experiment.
      source: the experiment's file; None where the training was started from Python.
      home: the folder from which that file may import.
      config: the experiment's settings.
      settings: those of its final training.
    """

    name: str
    source: Path | None = None
    home: Path | None = None
    config: Any = None
    settings: Any = None


def train(
    final: FinalTraining,
    code: Int[np.ndarray, " dims"],
    directory: Path,
    origin: Origin,
    progress: Progress,
    devices: Sequence[jax.Device] | None = None,
    preemption: Preemption | None = None,
) -> dict[str, Any]:
    """Trains a network to the end, or the rest of the way, and reads the test split, once.

    Args:
      final: what to train.
      code: of the network.
      directory: a new or empty folder, or that of the same training; the same for all processes.
      origin: where it comes from.
      progress: is told how it gets on.
      devices: what to train on; default: all of all processes. The batch is divided among them.
      preemption: says when to stop early, with a checkpoint; None: never.

    Returns:
      What final.json says.

    Raises:
      ValueError: a recipe that does not fit the images or the devices, a teacher that does not fit the images, or
        initial weights that do not fit the network; nothing is written.
      RunError: a folder that holds something else, or another training (names what differs), or is in use.
      ConfigError: settings that cannot be written down.
      DistributedError: processes that were not started alike.
      NotFiniteError, DamagedError, PreemptedError: as `loop.fit`.
    """
    devices = jax.devices() if devices is None else devices
    data = final.dataset()
    compilation.check(final.recipe, seen(data), devices)
    if final.teacher is not None:
        final.teacher.check(seen(data), final.recipe)
    weights.check(shapes(final.network, final.recipe).weights, final.initial or {}, partly=True)
    record = _record(final, code, data, origin, devices)
    distributed.agree("settings, images or software", folders.decisive(record))
    with _entered(directory, record, origin, final) as folder:
        if (recorded := folder.final) is not None:
            progress.note("this training is at its end already; this is what was recorded")
            return recorded
        if (before := folder.record["devices"]) != (now := _described(devices)):
            progress.note(f"begun on {before}, now on {now}: the result will differ in its last digits")
        made = compilation.compiled(final, seen(data), devices)
        made = dataclasses.replace(made, at_peak=throughput.at_peak(final, code, devices))
        fitted = loop.fit(made, seen(data), folder, progress, preemption)
        found = {
            "name": origin.name,
            "code": code.tolist(),
            "settings": folder.record["settings"],
            "recipe": folder.record["recipe"],
            "seed": final.seed,
            **costs(final.network, code),
            "trained_parameters": sum(leaf.size for leaf in jax.tree.leaves(fitted.state.weights.params)),
            "steps": made.total,
            **loop.measure(made, fitted.state, data),
            "seconds": fitted.seconds,
            **throughput.measured(fitted, made),
            "compile_seconds": made.compile_seconds,
            "devices": _described(devices),
            "software": software.versions(),
        }
        distributed.by_first(lambda: folder.finish(found), OSError)
        return found


@contextlib.contextmanager
def _entered(
    directory: Path, record: dict[str, Any], origin: Origin, final: FinalTraining
) -> Iterator[folders.FinalFolder]:
    """The folder of a training, kept from other trainings."""
    with contextlib.ExitStack() as stack:

        def enter() -> None:
            folder = folders.enter(directory, record, origin.source)
            folders.keep_initial(folder, final.initial)
            stack.enter_context(lock_file(folder.described))

        distributed.by_first(enter, RunError)
        if not folders.exists(directory):
            raise DistributedError(f"process {jax.process_index()} does not see what process 0 wrote into {directory}")
        yield folders.open_folder(directory)


def _record(
    final: FinalTraining,
    code: Int[np.ndarray, " dims"],
    data: Dataset | StreamedDataset,
    origin: Origin,
    devices: Sequence[jax.Device],
) -> dict[str, Any]:
    """What training.json says."""
    for settings in (origin.config, origin.settings, final.recipe):
        if settings is not None:
            config_json.check(settings)
    return {
        "name": origin.name,
        "source": None if origin.source is None else str(origin.source),
        "home": None if origin.home is None else str(origin.home),
        "experiment": None if origin.source is None else hashlib.sha256(origin.source.read_bytes()).hexdigest(),
        "code": code.tolist(),
        "config": None if origin.config is None else config_json.encode(origin.config),
        "settings": None if origin.settings is None else config_json.encode(origin.settings),
        "recipe": config_json.encode(final.recipe),
        "augmentation": config_json.encode(final.augmentation),
        "seed": final.seed,
        "initial": None if final.initial is None else digest_by_name(final.initial),
        **({} if final.teacher is None else {"teacher": final.teacher.identity()}),
        "data": _images(data),
        "software": software.versions(),
        "devices": _described(devices),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _images(data: Dataset | StreamedDataset) -> dict[str, Any]:
    """Which images, and how they are read."""
    search = seen(data)
    splits = {"train": search.train, "validation": search.validation, "test": data.test}
    return {
        **{name: fingerprint(split) for name, split in splits.items()},
        "image_shape": list(search.image_shape),
        "classes": search.classes,
        "scaling": None if search.scaling is None else config_json.encode(search.scaling),
    }


def _described(devices: Sequence[jax.Device]) -> str:
    return f"{len(devices)} x {devices[0].device_kind}"
