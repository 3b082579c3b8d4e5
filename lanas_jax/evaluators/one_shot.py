"""Values by masking a trained supernet, the one-shot mode of section 5.2 of arXiv 1906.06832.

The supernet is trained once, before the first trial, or read from a folder; then a value costs a few forward passes:
the accuracy on the search-validation split of the part that a code picks, with batch statistics of its own
(`lanas_jax.supernet.valuation`). Which networks these values rank rightly is another matter: `lanas rank` measures it.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from lanas_jax.data.splits import SearchData
from lanas_jax.data.streams import StreamedDataset, kept
from lanas_jax.evaluators.base import NotPreparedError, Outcome, with_costs
from lanas_jax.runtime.distributed import Preemption
from lanas_jax.storage.folder import RunError
from lanas_jax.supernet import code_pool
from lanas_jax.supernet.base import Supernet
from lanas_jax.supernet.sandwich import Sandwich
from lanas_jax.supernet.training import ONE_SHOT, SupernetTraining, Trained, train
from lanas_jax.supernet.valuation import Valuation
from lanas_jax.trainer.loop import DamagedError, NotFiniteError
from lanas_jax.trainer.programs import Programs
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import BatchStats, Params, Weights
from lanas_jax.training.augmentation import Augmentation

POOL = 2**16  # codes that training draws from
PROBES = 16  # random codes by which it is told whether a supernet was trained
CALIBRATING = 512  # images by which the statistics of those are measured where running ones are used else
DEVIATIONS = 3.0  # above chance that their mean accuracy has to lie


@dataclasses.dataclass(frozen=True, eq=False)
class OneShot:
    """Values parts of a supernet.

    Args:
      supernet: one network with a part for each code.
      dataset: loads train and search-validation splits; called where they are needed. Of streams, weights see all
        training images, and what is valued sees those for its batch statistics alone, which are kept in memory.
      recipe: how the supernet is trained.
      augmentation: what is done to the training images; default: they are only scaled.
      directory: of the trained supernet, or where it is to be trained, so that searches share it; None: ``supernet``
        in the run's folder.
      recalibration: training images by which batch statistics are measured for each code; 0: running ones are used.
      batch_size: images in a forward pass of a valuation.
      devices: where; default: all devices of this process. Where they are cores of a CPU, one of them trains: what they
        exchange at each normalisation takes them longer than their work.
      per_device: codes valued in one call on each device.
      seed: of training and of all draws; not of the search, so that searches of other seeds share a supernet.
      sandwich: trains the largest and the smallest part at each step beside random ones; None: random ones alone.
    """

    supernet: Supernet
    dataset: Callable[[], SearchData | StreamedDataset]
    recipe: Recipe = ONE_SHOT
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    directory: Path | None = None
    recalibration: int = 512
    batch_size: int = 128
    devices: Sequence[jax.Device] | None = None
    per_device: int = 4
    seed: int = 0
    sandwich: Sandwich | None = None

    @functools.cached_property
    def trained_on(self) -> SearchData | StreamedDataset:
        """What supernets are trained on."""
        return self.dataset()

    @functools.cached_property
    def data(self) -> SearchData:
        """What parts are valued on: training images for their statistics, and the search-validation split."""
        if isinstance(self.trained_on, SearchData):
            return self.trained_on
        return kept(self.trained_on, min(self.recalibration or CALIBRATING, len(self.trained_on.train)), self.seed)

    @functools.cached_property
    def valuation(self) -> Valuation:
        """The programs that value parts."""
        return Valuation(
            self.supernet, self.data, self.recalibration, self.batch_size, self.devices, self.per_device, self.seed
        )

    @property
    def trained(self) -> Trained:
        """The supernet's training, after `prepare`.

        Raises:
          NotPreparedError: before it.
        """
        if "_trained" not in self.__dict__:
            raise NotPreparedError("the supernet is not trained: call prepare(directory, note) first")
        found: Trained = self.__dict__["_trained"]
        return found

    @property
    def supernet_directory(self) -> Path | None:
        """The folder of the trained supernet, or where it is to be trained; None: in the run's."""
        return self.directory

    def prepare(self, directory: Path, note: Callable[[str], None]) -> None:
        """Trains the supernet, or reads it, and makes sure that it has learned something.

        Args:
          directory: of the run; the supernet is in its folder ``supernet`` unless the evaluator names another one.
          note: is told how it gets on.

        Raises:
          NotPreparedError: a folder that holds another supernet or something else, a training that breaks, or a
            supernet whose parts are no better than chance.
        """
        if "_trained" in self.__dict__:
            return
        try:
            training = self._training
        except ValueError as error:
            raise NotPreparedError(str(error)) from error
        folder = self.directory or directory / "supernet"
        trained = train_or_refuse(training, self.trained_on, folder, note, self.devices)
        self._refuse_chance(trained.weights, training.codes[:PROBES])
        self.__dict__["_trained"] = trained._replace(weights=self.valuation.place(trained.weights))

    def train(self, directory: Path, note: Callable[[str], None], preemption: Preemption | None = None) -> None:
        """Trains the supernet beforehand, as `TrainedAhead.train`; `prepare` then reads it."""
        devices = training_devices(self.devices)
        train(self._training, self.trained_on, directory, note, devices=devices, preemption=preemption)

    def evaluate(self, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"]) -> Sequence[Outcome]:
        """Values the parts that `codes` pick; keys play no part.

        Raises:
          ValueError: a code that is not of the space.
          NotPreparedError: before `prepare`.
        """
        del keys
        return outcomes_of(self.valuation, self.trained.weights, codes)

    def extract(self, code: Int[np.ndarray, " dims"]) -> tuple[Params, BatchStats]:
        """The part that `code` picks as weights of ``supernet.standalone(code)``, with the statistics it is valued by.

        Raises:
          NotPreparedError: before `prepare`.
        """
        weights = self.trained.weights
        return self.supernet.extract(weights.params, self.valuation.statistics(weights, code), code)

    @property
    def _training(self) -> SupernetTraining:
        """Raises ValueError for a recipe or a sandwich that does not fit."""
        pool = code_pool.draw(self.supernet.space, POOL, self.seed)
        return SupernetTraining(self.supernet, pool, self.recipe, self.augmentation, self.seed, sandwich=self.sandwich)

    def _refuse_chance(self, weights: Weights, codes: Int[np.ndarray, "n dims"]) -> None:
        valuation = self.valuation
        if not self.recalibration:  # running statistics may fit no network well, however well weights are trained
            valuation = dataclasses.replace(valuation, recalibration=min(CALIBRATING, len(self.data.train)))
        accuracy = float(np.mean(valuation(weights, codes).accuracy))
        labels = self.data.validation.labels
        chance = float(np.bincount(labels).max() / len(labels))
        needed = chance + DEVIATIONS * math.sqrt(chance * (1 - chance) / len(labels))
        if not accuracy > needed:
            raise NotPreparedError(
                f"the supernet has learned nothing: {len(codes)} random networks in it have a mean accuracy of "
                f"{accuracy:.3f} on the search-validation split, where chance gives {chance:.3f} (more than "
                f"{needed:.3f} is needed). Train it longer, or with another learning rate, in another folder"
            )


def training_devices(devices: Sequence[jax.Device] | None) -> Sequence[jax.Device] | None:
    """Of those of a valuation, what a supernet is trained on: one core of a CPU; of several processes, all devices.

    None: as many as can share a batch.
    """
    if jax.process_count() > 1:
        return None
    there = jax.local_devices() if devices is None else devices
    return there[:1] if there[0].platform == "cpu" else devices


def train_or_refuse(
    training: SupernetTraining,
    data: SearchData | StreamedDataset,
    directory: Path,
    note: Callable[[str], None],
    devices: Sequence[jax.Device] | None,
    programs: Programs | None = None,
) -> Trained:
    """`lanas_jax.supernet.training.train`, on `training_devices`, with what goes wrong as an error of an evaluator.

    Raises:
      NotPreparedError: the folder or the training cannot be used; says why.
    """
    try:
        return train(training, data, directory, note, devices=training_devices(devices), programs=programs)
    except (ValueError, RunError, NotFiniteError, DamagedError) as error:
        raise NotPreparedError(str(error)) from error


def outcomes_of(valuation: Valuation, weights: Weights, codes: Int[np.ndarray, "n dims"]) -> list[Outcome]:
    """Outcomes of codes, costs included."""
    space = valuation.supernet.space
    codes = space.check(codes)
    began = time.perf_counter()
    values = valuation(weights, codes)
    seconds = (time.perf_counter() - began) / len(codes)
    outcomes = [
        Outcome(float(accuracy), train_seconds=seconds)
        if np.isfinite(loss)
        else Outcome(None, "logits are not finite on the validation images", train_seconds=seconds)
        for accuracy, loss in zip(values.accuracy, values.loss, strict=True)
    ]
    return with_costs(space, codes, outcomes)
