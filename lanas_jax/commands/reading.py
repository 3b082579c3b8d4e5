"""Options of commands that read the images of a run or a training: where they are now, and how they are decoded.

A run records its `Config`. Its fields `data_dir` and `workers` change no result, and another machine may need others.
So commands take both as options, which hold for the command alone and are not recorded.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

RECORDED = "(default: as recorded)"


@dataclasses.dataclass(frozen=True)
class Reading:
    """Where the images are now, and how they are decoded, if not as recorded. Results do not depend on either.

    Attributes:
      data_dir: folder of the dataset, for this command.
      workers: number of processes that decode images, for this command.
    """

    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint=RECORDED)] = None
    workers: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint=RECORDED)] = None

    @property
    def changes(self) -> dict[str, Any]:
        """The given values by the name of their field of `Config`, as JSON; the folder is absolute."""
        found = {"data_dir": self.data_dir and str(self.data_dir.absolute()), "workers": self.workers}
        return {name: value for name, value in found.items() if value is not None}


def words_of(changes: Mapping[str, Any]) -> list[str]:
    """Returns the words of a command line that make the given changes."""
    return [word for name, value in changes.items() for word in (f"--{name.replace('_', '-')}", str(value))]


READING = Annotated[Reading, tyro.conf.arg(name="")]


def reading_option(settings: type | None) -> list[Any]:
    """Returns the field ``reading`` for `parse_settings`, or none if the settings have a field of the same name."""
    taken = {field.name for field in dataclasses.fields(settings)} if settings is not None else set()
    if taken & {field.name for field in dataclasses.fields(Reading)}:
        return []
    return [("reading", READING, dataclasses.field(default_factory=Reading))]
