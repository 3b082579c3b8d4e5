"""Supernet training: each step trains one random subnetwork, several, a sandwich of them, or a fair set.

The loop, checkpoints, exact resume, moving average and data parallelism are those of `lanas_jax.trainer`, which sees a
supernet as a network that draws the subnetwork to run. `lanas_jax.supernet.sandwich` implements the sandwich rule, and
`lanas_jax.supernet.fair` fair sampling. The default recipe is that of the published one-shot search (arXiv 1906.06832):
300 epochs of SGD, a cosine learning rate from 0.025 to 0.001, momentum 0.9, weight decay 3e-4, gradient clipping at 5.
Weights that no code of a step uses have a zero gradient in that step, which the mean over codes requires. Momentum and
weight decay still apply to them.
"""

import dataclasses
import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from lanas_jax.data.splits import SearchData
from lanas_jax.data.streams import StreamedDataset
from lanas_jax.runtime import distributed
from lanas_jax.runtime.arithmetic import in_32_bits, nan_is_data
from lanas_jax.runtime.devices import sharing_devices
from lanas_jax.runtime.distributed import Preemption
from lanas_jax.runtime.durations import duration
from lanas_jax.runtime.paths import local_path
from lanas_jax.storage import config_json, software
from lanas_jax.storage.saving import digest
from lanas_jax.storage.weights import AnyArray, digest_by_name
from lanas_jax.supernet.base import Supernet
from lanas_jax.supernet.drawing import DrawingSupernet
from lanas_jax.supernet.fair import FairSupernet, check_fair
from lanas_jax.supernet.sandwich import Sandwich, SandwichSupernet
from lanas_jax.supernet.watching import Watch, watched_codes, watched_images
from lanas_jax.trainer import folder as folders
from lanas_jax.trainer import loop
from lanas_jax.trainer.compilation import check_recipe, compile_training
from lanas_jax.trainer.programs import Programs
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.step import FinalState, shapes
from lanas_jax.trainer.task import Weights, data_fingerprint
from lanas_jax.training.augmentation import Augmentation

ONE_SHOT = Recipe(
    epochs=300,
    batch_size=64,
    final_learning_rate=0.001,
    auxiliary_weight=0.0,
    drop_path=0.0,
    ema=None,
    train_on="train",
    validate_every=None,
)
NOTES = 10  # progress messages per training


@dataclasses.dataclass(frozen=True)
class SampledSupernet(DrawingSupernet):
    """A supernet in the form that `lanas_jax.trainer` trains: each pass draws a code from a pool.

    Instances with the same supernet are equal regardless of their pools, and share programs.

    Args:
      supernet: supernet to train.
      data: pool of codes, ``int32[m, dims]``.
    """

    data: Int[Array | np.ndarray, "m dims"] = dataclasses.field(compare=False)

    def with_data(self, data: Int[Array | np.ndarray, "m dims"]) -> "SampledSupernet":
        """Returns the same network with another pool."""
        return SampledSupernet(self.supernet, data)

    def code(self, key: PRNGKeyArray) -> Int[Array, " dims"]:
        """Returns a code that `key` draws from the pool. The key is consumed."""
        return jnp.asarray(self.data)[jax.random.randint(key, (), 0, len(self.data))]


@dataclasses.dataclass(frozen=True, eq=False)
class SupernetTraining:
    """The training of a supernet for a space or for a region of it.

    Args:
      supernet: supernet to train.
      codes: pool of training codes (`lanas_jax.supernet.code_pool`).
      recipe: training recipe.
      augmentation: augmentation of the training images in each step; default: scaling only.
      seed: random seed of the training; the pool has its own.
      initial: initial weights by name; None: random initial weights.
      sandwich: sandwich rule, which trains the largest and the smallest subnetwork in each step; None: only codes drawn
        from the pool.
      watched: number of search-validation images on which a few subnetworks are measured after each epoch
        (`lanas_jax.supernet.watching`); 0: none. The weights do not depend on it.
      fair: True for fair sampling, which trains every option of every choice in each step; ignores the pool.

    Raises:
      ValueError: the codes of the sandwich are not in the space, fair sampling does not fit the space, a recipe with
        either has several passes, both are given, the recipe has distillation, dropped paths or an auxiliary head, or
        `watched` is negative.
    """

    supernet: Supernet
    codes: Int[np.ndarray, "m dims"]
    recipe: Recipe = ONE_SHOT
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    seed: int = 0
    initial: Mapping[str, AnyArray] | None = None
    sandwich: Sandwich | None = None
    watched: int = 0
    fair: bool = False

    def __post_init__(self) -> None:
        if self.watched < 0:
            raise ValueError(f"watched must not be negative; got {self.watched}")
        for name, lacking in (
            ("distillation", "no teacher"),
            ("drop_path", "no dropped paths but those of a sandwich's largest subnetwork (Sandwich.drop_path)"),
            ("auxiliary_weight", "no auxiliary head"),
        ):
            if got := getattr(self.recipe, name):
                raise ValueError(f"{name} must be 0 for a supernet, which has {lacking}; got {got}")
        if self.sandwich is not None:
            self.sandwich.check(self.supernet, self.recipe)
        if self.fair:
            if self.sandwich is not None:
                raise ValueError("fair sampling and a sandwich exclude each other: omit one of them")
            check_fair(self.supernet, self.recipe)

    @property
    def network(self) -> SampledSupernet | SandwichSupernet | FairSupernet:
        """The supernet in the form that the trainer trains."""
        if self.fair:
            return FairSupernet(self.supernet)
        if self.sandwich is None:
            return SampledSupernet(self.supernet, self.codes)
        return self.sandwich.network(self.supernet, self.codes)

    @property
    def teacher(self) -> None:
        """None: a supernet has no teacher."""
        return


class Trained(NamedTuple):
    """The result of a supernet training."""

    weights: Weights  # final weights, or their moving average if the recipe has one
    programs: Programs | None  # reusable for other regions; None if the weights were read from a finished training


@in_32_bits
@nan_is_data
def train_supernet(
    training: SupernetTraining,
    data: SearchData | StreamedDataset,
    directory: Path,
    note: Callable[[str], None],
    *,
    devices: Sequence[jax.Device] | None = None,
    programs: Programs | None = None,
    preemption: Preemption | None = None,
) -> Trained:
    """Trains a supernet to the end, resumes its training, or reads the weights of a finished training.

    Args:
      training: supernet training to run.
      data: training images; validation images are read only to watch subnetworks.
      directory: new or empty folder, or the folder of the same training; identical in all processes.
      note: callback that receives progress messages, one line each.
      devices: devices that share each batch; default: with one process, as many of its devices as divide the batch
        equally; with several processes, all devices.
      programs: compiled programs of a training that differs only in codes, seed and initial weights; None: compile new
        programs.
      preemption: signal to stop early; None: no early stop.

    Raises:
      ValueError: the recipe does not fit the images or the devices, or the space does not fit the images; nothing is
        written.
      RunError: the folder holds other files or another training (the message names the difference), or is in use.
      DistributedError: the processes were started with different arguments or software.
      NotFiniteError, DamagedError, PreemptedError: as in `lanas_jax.trainer.loop.run_training`.
    """
    directory = local_path(directory)
    devices = sharing_devices(training.recipe.batch_size) if devices is None else devices
    training.supernet.space.check_images(data.image_shape, data.classes)
    check_recipe(training.recipe, data, devices)
    record = _record(training, data, devices)
    distributed.agree("supernet, images or software", folders.decisive(record))
    with folders.entered(directory, record, what="supernet") as folder:
        if folder.final is None:
            if programs is None or not programs.fits(training.network):
                programs = compile_training(training, data, devices)
            else:
                programs = programs.rebind(training)
            lines = Lines(note)
            watch = _watch(training, data, devices, lines) if training.watched else None
            saved = loop.run_training(programs, data, folder, lines, preemption, watch)
            report = {
                "steps": programs.total,
                "trained_parameters": sum(leaf.size for leaf in jax.tree.leaves(saved.state.weights.params)),
                "seconds": saved.seconds,
                **loop.measured_throughput(saved, programs),
                "compile_seconds": programs.compile_seconds,
                "devices": folder.record["devices"],
                "software": software.versions(),
            }
            distributed.by_first(lambda: folder.finish(report), OSError)
            return Trained(_weights(saved.state), programs)
        found = loop.restored(folder, shapes(training.network, training.recipe))
    if found is None:
        raise loop.DamagedError(f"no intact checkpoint in {folder.checkpoints}; remove {directory} to train again")
    return Trained(_weights(found.state), programs)


class Lines:
    """Reports a training in about `NOTES` plain lines; implements `lanas_jax.trainer.loop.TrainingProgress`.

    Args:
      note: callback that receives one line.
    """

    def __init__(self, note: Callable[[str], None]):
        self.note = note
        self._total, self._first, self._began, self._told = 1, 0, time.monotonic(), 0
        self._accuracies: Mapping[str, float] = {}

    def began(self, programs: Programs, step: int) -> None:
        """Reports that the training starts or resumes after `step` steps."""
        self._total, self._first, self._began = programs.total, step, time.monotonic()
        self._told = step * NOTES // programs.total
        compiling = f"compiled in {programs.compile_seconds:.0f} s"
        resuming = f", resuming after step {step:,}" if step else ""
        self.note(f"supernet: {programs.total:,} steps, {compiling}{resuming}")

    def advanced(self, step: int, loss: float, learning_rate: float) -> None:
        """Reports progress after `step` steps; loss and learning rate are those of the last step."""
        if step * NOTES // self._total == self._told:
            return
        self._told = step * NOTES // self._total
        left = (time.monotonic() - self._began) / (step - self._first) * (self._total - step)
        measured = [f"{name} {100 * accuracy:.1f} %" for name, accuracy in self._accuracies.items()]
        parts = [f"loss {loss:.3f}", *([", ".join(measured)] if measured else []), f"{duration(left)} left"]
        self.note(f"supernet: {step:,} of {self._total:,} steps · {' · '.join(parts)}")

    def watched(self, accuracies: Mapping[str, float]) -> None:
        """Receives the accuracies of the watched subnetworks, in [0, 1], for the next lines."""
        self._accuracies = accuracies

    def validated(self, accuracies: loop.Accuracies) -> None:
        """Reports the accuracy that the recipe's `validate_every` asks for."""
        self.note(f"supernet: search-validation accuracy {accuracies.last:.4f} with running statistics")


def _watch(
    training: SupernetTraining, data: SearchData | StreamedDataset, devices: Sequence[jax.Device], lines: Lines
) -> Watch:
    images = watched_images(data, training.watched, training.seed)
    codes = watched_codes(training.sandwich, training.codes)
    return Watch(training.supernet, codes, images, devices, lines.watched)


def _weights(state: FinalState) -> Weights:
    return state.weights if state.average is None else state.average


def _record(
    training: SupernetTraining, data: SearchData | StreamedDataset, devices: Sequence[jax.Device]
) -> dict[str, Any]:
    """Returns the contents of training.json."""
    return {
        "name": type(training.supernet).__name__,
        **dict.fromkeys(("experiment", "code", "config")),
        "space": training.supernet.space.definition(),
        "settings": {**_settings(training.supernet), "codes": digest([training.codes])}
        | ({} if training.sandwich is None else {"sandwich": config_json.encode_value(training.sandwich)})
        | ({"fair": True} if training.fair else {}),
        "recipe": config_json.encode_value(training.recipe),
        "augmentation": config_json.encode_value(training.augmentation),
        "seed": training.seed,
        "initial": None if training.initial is None else digest_by_name(training.initial),
        "data": {
            "classes": data.classes,
            "image_shape": list(data.image_shape),
            "train": data_fingerprint(data.train),
        },
        "software": software.versions(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _settings(supernet: Any) -> dict[str, Any]:
    """Returns the class of a supernet, with its settings as text, except its space."""
    fields = {field.name: getattr(supernet, field.name) for field in dataclasses.fields(supernet)}
    del fields["space"]
    others = {name: getattr(value, "__name__", str(value)) for name, value in fields.items()}
    return {"supernet": type(supernet).__name__, **others}
