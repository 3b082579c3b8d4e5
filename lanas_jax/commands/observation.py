"""Shared options of the commands that run for long: a trace by JAX's profiler, and TensorBoard events."""

import contextlib
import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import tyro

from lanas_jax.commands.base import RefusedError
from lanas_jax.runtime import distributed, profiling
from lanas_jax.runtime.files import check_creatable
from lanas_jax.storage.metrics import tensorboard_events


@dataclasses.dataclass(frozen=True)
class Observation:
    """What a command records of itself.

    Args:
      profile: folder for a trace of a few steps of process 0 by JAX's profiler; the trace shows the time of each
        operation.
      tensorboard: TensorBoard events of the metrics, in the folder tensorboard next to each metrics.csv.
    """

    profile: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    tensorboard: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Context in which the command runs.

        Raises:
          RefusedError: tensorboardX is not installed.
          OSError: the folder of the trace cannot be created; names it.
        """
        if self.tensorboard and importlib.util.find_spec("tensorboardX") is None:
            raise RefusedError("--tensorboard needs tensorboardX: pip install 'lanas-jax[tensorboard]'")
        folder = None
        if self.profile is not None and (distributed.is_alone() or distributed.is_first_process()):
            check_creatable(folder := self.profile.absolute())
        traced: list[str] = []
        try:
            with tensorboard_events(self.tensorboard), profiling.recording(folder) as traced:
                yield
        finally:
            if traced:
                print(f"traces of {' and '.join(traced)}: {folder}")
        if folder is not None and not traced:
            print(f"no trace: this process dispatched fewer than {profiling.FIRST} programs of a kind")


OBSERVATION = Annotated[Observation, tyro.conf.arg(name="")]
