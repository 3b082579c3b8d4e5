"""The training of a search's winner, by the trainer, into the folder ``final`` of the run.

``lanas train RUN`` uses the same folder: it continues this training, or reports its result.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from lanas_jax.runtime.arithmetic import transfers_allowed
from lanas_jax.runtime.devices import one_core_per_process, sharing_devices
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.storage import config_json
from lanas_jax.study.experiment import Experiment, WinnerTraining
from lanas_jax.trainer.loop import TrainingProgress
from lanas_jax.trainer.task import FinalTraining
from lanas_jax.trainer.train import Origin, check_training, train_network


@transfers_allowed
def check_winner(experiment: Experiment) -> None:
    """Checks the winner training of an experiment before its search, with an arbitrary code of the space.

    Raises:
      ValueError: the training does not fit its images or the devices, or the experiment has none.
      ConfigError: its settings cannot be written as JSON.
    """
    winner = _winner(experiment)
    for settings in (winner.config, winner.settings):
        if settings is not None:
            config_json.check_config(settings)
    final = winner.of(np.asarray(experiment.space.random(jax.random.key(experiment.seed), 1), np.int32)[0])
    check_training(final, final.dataset(), _devices(final))


def origin_of(
    experiment: Experiment, source: Path | None, original: Path | None, working_folder: Path | None, run: Path | None
) -> Origin:
    """Returns the origin of an experiment's winner training; the paths are as in `Origin`."""
    winner = _winner(experiment)
    return Origin(experiment.name, source, original, working_folder, winner.config, winner.settings, run)


def train_winner(
    experiment: Experiment, code: Int[np.ndarray, " dims"], directory: Path, origin: Origin, progress: TrainingProgress
) -> dict[str, Any]:
    """Trains the winner in a folder. With several processes, all of them call it.

    Returns:
      The content of final.json.

    Raises:
      ValueError: the experiment has no winner training.
      Exception: as in `train_network`.
    """
    final = _winner(experiment).of(code)
    return train_network(final, code, directory, origin, progress, _devices(final))


@transfers_allowed
def same_network(space: SearchSpace, one: Sequence[int], other: Sequence[int]) -> bool:
    """Returns whether two codes of a space build the same network."""
    first, second = np.asarray(space.canonical(np.array([one, other], np.int32)))
    return bool((first == second).all())


def _devices(final: FinalTraining) -> Sequence[jax.Device]:
    """Returns the devices to train on, as `lanas train` would use them, except for CPU cores."""
    return one_core_per_process(sharing_devices(final.recipe.batch_size))


def _winner(experiment: Experiment) -> WinnerTraining:
    if experiment.winner is None:
        raise ValueError(f"{experiment.name} has no winner training: pass one to Experiment")
    return experiment.winner
