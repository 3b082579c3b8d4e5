"""Values by masking a trained supernet, the one-shot mode of section 5.2 of arXiv 1906.06832.

The supernet is trained once, before the first trial, or read from a folder. A value then costs a few forward passes: it
is the accuracy of the subnetwork that a code selects on the search-validation split, with batch statistics measured for
that code (`lanas_jax.supernet.valuation`). `lanas rank` measures how well these values rank networks.
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
from lanas_jax.data.streams import StreamedDataset, hold_in_memory
from lanas_jax.evaluators.base import NotPreparedError, Outcome, with_costs
from lanas_jax.runtime.arithmetic import in_32_bits
from lanas_jax.runtime.devices import one_core_per_process
from lanas_jax.runtime.distributed import Preemption
from lanas_jax.runtime.global_arrays import addressable
from lanas_jax.storage.folder import RunError
from lanas_jax.storage.saving import CheckpointError
from lanas_jax.supernet import code_pool
from lanas_jax.supernet.base import Supernet
from lanas_jax.supernet.sandwich import Sandwich
from lanas_jax.supernet.training import ONE_SHOT, SupernetTraining, Trained, train_supernet
from lanas_jax.supernet.valuation import Valuation
from lanas_jax.trainer.loop import DamagedError, NotFiniteError
from lanas_jax.trainer.programs import Programs
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import BatchStats, Params, Weights
from lanas_jax.training.augmentation import Augmentation

POOL = 2**16  # codes in the training pool
PROBES = 16  # random codes whose mean accuracy shows whether a supernet has learned anything
CALIBRATING = 512  # images for the batch statistics of the probes if recalibration is off
DEVIATIONS = 3.0  # standard deviations above chance required of the probes' mean accuracy


@dataclasses.dataclass
class PreparedSupernet:
    """Products of `OneShot.prepare`.

    Attributes:
      trained: the trained supernet, its weights on the devices that value codes; None before `prepare`.
    """

    trained: Trained | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class OneShot:
    """Values codes as subnetworks of a trained supernet.

    Args:
      supernet: network that contains a subnetwork for each code.
      dataset: loader of the training and search-validation splits, called when needed. From a streamed dataset,
        training reads all training images; valuation reads only the images for batch statistics, held in memory.
      recipe: training recipe of the supernet.
      augmentation: augmentation of the training images; default: scaling only.
      directory: folder of the trained or untrained supernet, for sharing it among searches; None: ``supernet`` in the
        run's folder.
      recalibration: number of training images for measuring batch statistics of each code; 0: running statistics.
      batch_size: images per forward pass of a valuation.
      devices: devices to use; default: all devices of all processes. If they are CPU cores, one core of
        each process trains, since the exchange at each normalisation would take longer than the computation.
      per_device: codes valued per device in one call.
      seed: random seed of the training and of all draws, separate from the seed of the search, so that searches with
        different seeds share a supernet.
      sandwich: sandwich rule, which trains the largest and the smallest subnetwork at each step along with random
        ones; None: random subnetworks only.
      watched: number of search-validation images on which the largest, the smallest and three random subnetworks are
        measured after each epoch of the training; 0: none.
      fair: True for fair sampling, which trains every option of every choice at each step (`lanas_jax.supernet.fair`).
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
    watched: int = 0
    fair: bool = False
    prepared: PreparedSupernet = dataclasses.field(default_factory=PreparedSupernet, init=False, repr=False)

    @functools.cached_property
    def trained_on(self) -> SearchData | StreamedDataset:
        """The training data of the supernet."""
        return self.dataset()

    @functools.cached_property
    def data(self) -> SearchData:
        """The data of valuations: training images for batch statistics and the search-validation split."""
        if isinstance(self.trained_on, SearchData):
            return self.trained_on
        return hold_in_memory(
            self.trained_on, min(self.recalibration or CALIBRATING, len(self.trained_on.train)), self.seed
        )

    @functools.cached_property
    def valuation(self) -> Valuation:
        """The compiled valuation of subnetworks."""
        return Valuation(
            self.supernet, self.data, self.recalibration, self.batch_size, self.devices, self.per_device, self.seed
        )

    @property
    def trained(self) -> Trained:
        """The trained supernet, available after `prepare`.

        Raises:
          NotPreparedError: `prepare` has not been called.
        """
        if self.prepared.trained is None:
            raise NotPreparedError("the supernet is not trained: call prepare(directory, note) first")
        return self.prepared.trained

    @property
    def supernet_directory(self) -> Path | None:
        """The folder of the trained or untrained supernet; None: in the run's folder."""
        return self.directory

    @in_32_bits
    def prepare(self, directory: Path, note: Callable[[str], None]) -> None:
        """Trains the supernet or reads it, and checks that it is better than chance.

        Args:
          directory: folder of the run; the supernet is in its folder ``supernet`` unless the evaluator names another.
          note: callback that receives progress messages.

        Raises:
          NotPreparedError: the folder holds another supernet or something else, the training failed, or the
            subnetworks are no better than chance.
        """
        if self.prepared.trained is not None:
            return
        try:
            training = self._training
        except ValueError as error:
            raise NotPreparedError(str(error)) from error
        folder = self.directory or directory / "supernet"
        trained = train_or_refuse(training, self.trained_on, folder, note, self.devices)
        self._refuse_chance(trained.weights, training.codes[:PROBES])
        self.prepared.trained = trained._replace(weights=self.valuation.place(trained.weights))

    def train(self, directory: Path, note: Callable[[str], None], preemption: Preemption | None = None) -> None:
        """Trains the supernet in advance, as `TrainedAhead.train`; `prepare` then reads it."""
        devices = training_devices(self.devices)
        train_supernet(self._training, self.trained_on, directory, note, devices=devices, preemption=preemption)

    @in_32_bits
    def evaluate(self, codes: Int[np.ndarray, "n dims"], keys: Key[Array, " n"]) -> Sequence[Outcome]:
        """Values the subnetworks that `codes` select; keys are not used.

        Raises:
          ValueError: a code is not in the space.
          NotPreparedError: `prepare` has not been called.
        """
        del keys
        return outcomes_of(self.valuation, self.trained.weights, codes)

    @in_32_bits
    def extract(self, code: Int[np.ndarray, " dims"]) -> tuple[Params, BatchStats]:
        """Returns the weights of ``supernet.standalone(code)`` and the batch statistics used to value it.

        Raises:
          NotPreparedError: `prepare` has not been called.
        """
        weights = self.trained.weights
        return extract_weights(self.valuation, weights, code)

    @property
    def _training(self) -> SupernetTraining:
        """The training to run. Raises ValueError if the recipe, the sandwich or fair sampling does not fit."""
        pool = code_pool.draw_codes(self.supernet.space, POOL, self.seed)
        return SupernetTraining(
            self.supernet,
            pool,
            self.recipe,
            self.augmentation,
            self.seed,
            sandwich=self.sandwich,
            watched=self.watched,
            fair=self.fair,
        )

    def _refuse_chance(self, weights: Weights, codes: Int[np.ndarray, "n dims"]) -> None:
        valuation = self.valuation
        if not self.recalibration:  # running statistics may fit no subnetwork, even if the weights are good
            valuation = dataclasses.replace(valuation, recalibration=min(CALIBRATING, len(self.data.train)))
        accuracy = float(np.mean(valuation(weights, codes).accuracy))
        labels = self.data.validation.labels
        chance = float(np.bincount(labels).max() / len(labels))
        needed = chance + DEVIATIONS * math.sqrt(chance * (1 - chance) / len(labels))
        if not accuracy > needed:
            raise NotPreparedError(
                f"the supernet has learned nothing: {len(codes)} random subnetworks have a mean accuracy of "
                f"{accuracy:.3f} on the search-validation split; expected more than {needed:.3f} (chance: "
                f"{chance:.3f}). Train longer or with another learning rate, in a new folder"
            )


def training_devices(devices: Sequence[jax.Device] | None) -> Sequence[jax.Device] | None:
    """Returns the devices that train a supernet, given those of its valuation: of CPUs, one core of each process.

    None stands for all devices of several processes, or for as many devices of this process as can share a batch.
    """
    there = jax.devices() if devices is None or jax.process_count() > 1 else devices
    return one_core_per_process(there) if there[0].platform == "cpu" else devices


def train_or_refuse(
    training: SupernetTraining,
    data: SearchData | StreamedDataset,
    directory: Path,
    note: Callable[[str], None],
    devices: Sequence[jax.Device] | None,
    programs: Programs | None = None,
) -> Trained:
    """Calls `lanas_jax.supernet.training.train_supernet` on `training_devices` and converts its errors.

    Raises:
      NotPreparedError: the folder cannot be used or the training failed; the message states the cause.
    """
    try:
        return train_supernet(training, data, directory, note, devices=training_devices(devices), programs=programs)
    except (ValueError, RunError, NotFiniteError, DamagedError, CheckpointError) as error:
        raise NotPreparedError(str(error)) from error


def extract_weights(
    valuation: Valuation, weights: Weights, code: Int[np.ndarray, " dims"]
) -> tuple[Params, BatchStats]:
    """Returns the weights and batch statistics of the subnetwork of a code, in every process."""
    statistics = addressable(valuation.statistics(weights, code))
    return valuation.supernet.extract(addressable(weights.params), statistics, code)


def outcomes_of(valuation: Valuation, weights: Weights, codes: Int[np.ndarray, "n dims"]) -> list[Outcome]:
    """Values codes and returns their outcomes, with costs."""
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
