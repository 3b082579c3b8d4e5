"""The folder of a training: all there is of it, and the refusal to go on with something else in it.

=================  ===========================================================================================
``training.json``  what decides the weights: code, settings, seed, digest of the data, software versions
``experiment.py``  a copy of the experiment's file; absent where the training was started from Python
``initial/``       the weights it began with; absent where they were drawn
``checkpoint/``    the last two states
``metrics.csv``    what each step came to
``final.json``     written at the end, once: accuracies, costs, seconds
=================  ===========================================================================================
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lanas_jax.runtime.files import replace_json
from lanas_jax.storage import software
from lanas_jax.storage import weights as by_name
from lanas_jax.storage.folder import RunError, read_json
from lanas_jax.storage.weights import AnyArray

FORMAT = 1
_RECORD = "training.json"
# What decides the weights, in the order in which differences are looked for.
DECISIVE = {
    "experiment": "the experiment's file",
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
PERHAPS = {"teacher"}  # what a training need not have, and then says nothing of


@dataclasses.dataclass(frozen=True)
class FinalFolder:
    """A folder that holds a training.

    Attributes:
      directory: where it is, absolute.
      record: what training.json says.
    """

    directory: Path
    record: dict[str, Any]

    @property
    def described(self) -> Path:
        """What decides the weights."""
        return self.directory / _RECORD

    @property
    def source(self) -> Path:
        """The copy of the experiment's file."""
        return self.directory / "experiment.py"

    @property
    def initial(self) -> Path:
        """The weights it began with."""
        return self.directory / "initial"

    @property
    def checkpoints(self) -> Path:
        """The last states."""
        return self.directory / "checkpoint"

    @property
    def metrics(self) -> Path:
        """What each step came to."""
        return self.directory / "metrics.csv"

    @property
    def digest(self) -> str:
        """Of all that decides the weights; stands in each checkpoint."""
        return hashlib.sha256(json.dumps(decisive(self.record), sort_keys=True).encode()).hexdigest()

    @property
    def final(self) -> dict[str, Any] | None:
        """What final.json says; None before the training is at its end.

        Raises:
          RunError: the file is damaged.
        """
        return read_json(path) if (path := self.directory / "final.json").exists() else None

    def finish(self, final: Mapping[str, Any]) -> None:
        """Writes final.json, at once."""
        replace_json(self.directory / "final.json", final)


def decisive(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a record that decides the weights."""
    return {name: record[name] for name in DECISIVE if name in record}


def exists(directory: Path) -> bool:
    """Whether a folder holds a training."""
    return (directory / _RECORD).exists()


def open_folder(directory: Path) -> FinalFolder:
    """The training in a folder.

    Raises:
      RunError: there is none, or its training.json is damaged or of another format.
    """
    directory = directory.absolute()
    if not exists(directory):
        raise RunError(f"{directory} holds no training: it has no {_RECORD}")
    record = read_json(directory / _RECORD)
    if record.get("format") != FORMAT:
        raise RunError(f"{directory / _RECORD} is not of format {FORMAT}, the one this lanas_jax reads")
    if missing := DECISIVE.keys() - PERHAPS - record.keys():
        raise RunError(f"{directory / _RECORD} is damaged: it says nothing of {', '.join(sorted(missing))}")
    return FinalFolder(directory, record)


def enter(directory: Path, record: Mapping[str, Any], source: Path | None) -> FinalFolder:
    """The training in a folder, or a new one there.

    Args:
      directory: a new or empty folder, or that of the same training.
      record: what decides the weights and what else is to be recorded.
      source: the experiment's file, where there is one.

    Raises:
      RunError: the folder holds another training (says what differs) or something else, or cannot be written.
    """
    directory = directory.absolute()
    if exists(directory):
        folder = open_folder(directory)
        if changed := difference(folder, record):
            raise RunError(
                f"{directory} was begun with something else, {changed}. To continue it as it was begun: "
                f"lanas train {directory}; else give another folder"
            )
        return folder
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if others := {path.name for path in directory.iterdir()} - {"experiment.py", f"{_RECORD}.partial"}:
            raise RunError(f"{directory} holds {sorted(others)[0]}, but no training: give a new or an empty folder")
        folder = FinalFolder(directory, {"format": FORMAT, **record})
        if source is not None:
            shutil.copyfile(source, folder.source)
        replace_json(folder.described, folder.record)
    except OSError as error:
        raise RunError(f"cannot write to {directory}: {error.strerror}") from error
    return folder


def keep_initial(folder: FinalFolder, weights: Mapping[str, AnyArray] | None) -> None:
    """Keeps the weights that a training begins with, so that it can be begun again."""
    if weights is None or folder.initial.exists():
        return
    by_name.save(folder.initial, weights)


def initial(folder: FinalFolder) -> dict[str, np.ndarray] | None:
    """The weights that a training began with, by name; None where they were drawn."""
    return by_name.load(folder.initial) if folder.initial.exists() else None


def difference(folder: FinalFolder, record: Mapping[str, Any], but: Collection[str] = ()) -> str:
    """What decides the weights of the training in a folder otherwise than a record has it, in words; "" if nothing.

    Args:
      folder: of a training.
      record: of another.
      but: kinds of difference (`DECISIVE`) to overlook.
    """
    for name, what in DECISIVE.items():
        before, now = folder.record.get(name), json.loads(json.dumps(record.get(name)))
        if before == now or name in but:
            continue
        changed = software.differences(before or {}) if name == "software" else _differences(before, now)
        return f"{what}: {changed}"
    return ""


def _differences(before: Any, now: Any) -> str:
    """In words, setting by setting."""
    old, new = _flat(before), _flat(now)
    changed = [
        f"{name + ' ' if name else ''}{old.get(name, 'absent')}, now {new.get(name, 'absent')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    return "; ".join(changed)


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Settings within settings by their dotted names."""
    if not isinstance(value, dict):
        return {name: value}
    parts = [_flat(item, f"{name}.{key}" if name else key) for key, item in value.items()]
    return {key: item for part in parts for key, item in part.items()}
