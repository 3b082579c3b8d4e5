"""The folder of a training: its files, and the check that a resumed training is the same one.

=================  ===========================================================================================
``training.json``  everything that determines the weights: code, settings, seed, data digests, software versions
``experiment.py``  copy of the experiment's file; absent if the training was started from Python
``initial/``       initial weights; absent if they were initialized at random
``checkpoint/``    the last two checkpoints
``metrics.csv``    loss, schedules and accuracies of each step
``tensorboard/``   the same numbers as TensorBoard events, on request
``final.json``     accuracies, costs and seconds; written once, at the end
=================  ===========================================================================================
"""

import contextlib
import dataclasses
import hashlib
import json
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lanas_jax.runtime import distributed
from lanas_jax.runtime.distributed import DistributedError
from lanas_jax.runtime.files import replace_json
from lanas_jax.runtime.paths import local_path
from lanas_jax.spaces.definition import definition_difference
from lanas_jax.storage import software
from lanas_jax.storage import weights as by_name
from lanas_jax.storage.folder import FolderKind, RunError, read_json
from lanas_jax.storage.saving import CheckpointError
from lanas_jax.storage.weights import AnyArray

FORMAT = 1
_RECORD = "training.json"
# The parts of the record that determine the weights, in the order in which they are compared.
DECISIVE = {
    "experiment": "the experiment's file",
    "space": "the space",
    "code": "the code",
    "config": "the experiment's settings",
    "settings": "the settings",
    "recipe": "the recipe",
    "augmentation": "the augmentation",
    "seed": "the seed",
    "initial": "the initial weights",
    "teacher": "the teacher",
    "data": "the dataset",
    "software": "the software",
}
READING = ("data_dir", "workers")  # settings of how an experiment reads images, which change no result
OPTIONAL = {"space", "teacher"}  # optional keys; older records have no space
_TYPES = {
    "name": str,
    "home": str | None,
    "source": str | None,
    "working_folder": str | None,
    "run": str | None,
    "code": list | None,
    "config": dict | None,
    "settings": dict | None,
    "recipe": dict,
    "space": dict,
    "data": dict,
}
TRAINING = FolderKind("training", _RECORD, FORMAT, frozenset(DECISIVE.keys() - OPTIONAL), _TYPES)
COLUMNS = ("step", "epoch", "loss", "learning_rate", "drop_path", "validation_accuracy", "ema_validation_accuracy")


@dataclasses.dataclass(frozen=True)
class FinalFolder:
    """The folder of a training.

    Attributes:
      directory: absolute path of the folder.
      record: content of training.json.
    """

    directory: Path
    record: dict[str, Any]

    @property
    def source(self) -> Path:
        """The path of the copy of the experiment's file."""
        return self.directory / "experiment.py"

    @property
    def initial(self) -> Path:
        """The folder of the initial weights."""
        return self.directory / "initial"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.directory / "checkpoint"

    @property
    def metrics(self) -> Path:
        """The path of metrics.csv."""
        return self.directory / "metrics.csv"

    @property
    def digest(self) -> str:
        """The digest of everything that determines the weights; recorded in each checkpoint."""
        return digest(self.record)

    @property
    def final(self) -> dict[str, Any] | None:
        """The content of final.json, or None if the training is not complete.

        Raises:
          RunError: the file is damaged.
        """
        return read_json(path) if (path := self.directory / "final.json").exists() else None

    def finish(self, final: Mapping[str, Any]) -> None:
        """Writes final.json atomically."""
        replace_json(self.directory / "final.json", final)


def decisive(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of a record that determines the weights."""
    return {name: record[name] for name in DECISIVE if name in record}


def digest(record: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of everything in a record that determines the weights, in hexadecimal."""
    return hashlib.sha256(json.dumps(decisive(record), sort_keys=True).encode()).hexdigest()


def training_exists(directory: Path) -> bool:
    """Returns whether a folder holds a training."""
    return TRAINING.exists(local_path(directory))


def open_folder(directory: Path) -> FinalFolder:
    """Opens the folder of an existing training.

    Raises:
      RunError: the folder contains no training, or its training.json is damaged or has another format.
    """
    directory = local_path(directory).absolute()
    return FinalFolder(directory, TRAINING.read(directory))


@contextlib.contextmanager
def entered(
    directory: Path,
    record: Mapping[str, Any],
    source: Path | None = None,
    initial: Mapping[str, AnyArray] | None = None,
    what: str = "training",
) -> Iterator[FinalFolder]:
    """Opens the folder of a training or creates it, and locks it unless the training is complete.

    Process 0 writes; all processes of the training call it together.

    Args:
      directory: new or empty folder, or the folder of the same training; the same path in all processes.
      record: content of training.json: everything that determines the weights, and further information.
      source: path of the experiment's file, if there is one.
      initial: initial weights, saved so that the training can be resumed without their source.
      what: noun for error messages.

    Raises:
      RunError: the folder holds another training (the message names the difference) or other files, cannot be written,
        or is in use.
      DistributedError: another process does not see the folder.
    """
    with contextlib.ExitStack() as stack:

        def enter_first() -> None:
            folder = enter(directory, record, source, what)
            if folder.final is not None:
                return
            stack.enter_context(TRAINING.lock(folder.directory))
            if initial is not None and not folder.initial.exists():
                by_name.save_weights(folder.initial, initial)

        distributed.by_first(enter_first, RunError, CheckpointError)
        if not training_exists(directory):
            raise DistributedError(
                f"process {jax.process_index()} does not see the files that process 0 wrote into {directory}: "
                f"use a folder that all processes share"
            )
        yield open_folder(directory)


def enter(directory: Path, record: Mapping[str, Any], source: Path | None, what: str = "training") -> FinalFolder:
    """Opens the folder of a training, or creates it; arguments and errors as in `entered`."""
    directory = local_path(directory).absolute()
    if training_exists(directory):
        folder = open_folder(directory)
        if changed := difference(folder, record):
            repeat = f"run lanas train {shlex.quote(str(directory))}"
            continuing = repeat if what == "training" else "repeat its settings"
            raise RunError(
                f"{directory} holds a different {what}: {changed}. To continue the existing one, {continuing}; to "
                f"start a new one, give another folder"
            )
        return folder
    folder = FinalFolder(directory, {"format": FORMAT, **record})
    with TRAINING.created(directory, folder.record):
        if training_exists(directory):
            raise RunError(f"{directory} is in use by another process: wait until it ends")
        if others := {path.name for path in directory.iterdir()} - {"experiment.py"} - TRAINING.unfinished:
            raise RunError(f"{directory} holds {sorted(others)[0]}, but no {what}: give a new or an empty folder")
        if source is not None:
            shutil.copyfile(source, folder.source)
    return folder


def initial(folder: FinalFolder) -> dict[str, np.ndarray] | None:
    """Returns the initial weights by name, or None if they were initialized at random."""
    return by_name.load_weights(folder.initial) if folder.initial.exists() else None


def difference(folder: FinalFolder, record: Mapping[str, Any]) -> str:
    """Describes the first difference that affects the weights between a folder's training and a record.

    Software versions are not compared if the folder's training is complete, since it is only read.

    Args:
      folder: folder of a training.
      record: record of another training.

    Returns:
      The difference in words, or "" if there is none.
    """
    for name, what in DECISIVE.items():
        before, now = folder.record.get(name), json.loads(json.dumps(record.get(name)))
        if name == "config":
            before, now = _without_reading(before), _without_reading(now)
        if before == now or (name == "software" and folder.final is not None):
            continue
        if name == "space" and before is None:  # an older training
            continue
        if name == "software":
            changed = software.differences(before or {})
        elif name == "space":
            changed = definition_difference(before or {}, now or {})
        else:
            changed = _differences(before, now)
        return f"{what}: {changed}"
    return ""


def _without_reading(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    return {name: value for name, value in config.items() if name not in READING}


def _differences(before: Any, now: Any) -> str:
    """Describes the differences between two settings, one by one."""
    old, new = _flat(before), _flat(now)
    changed = [
        f"{name + ' ' if name else ''}{old.get(name, 'absent')}, now {new.get(name, 'absent')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    return "; ".join(changed)


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Flattens nested settings into a dictionary with dotted names."""
    if not isinstance(value, dict):
        return {name: value}
    parts = [_flat(item, f"{name}.{key}" if name else key) for key, item in value.items()]
    return {key: item for part in parts for key, item in part.items()}
