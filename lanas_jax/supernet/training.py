"""Training a supernet: at each step a code at random, or several, or a sandwich of them; the rest is as for winners.

The loop, its checkpoints and exact resume, the moving average and data parallelism are those of `lanas_jax.trainer`, to
which a supernet is a network that draws which part of itself to run; `lanas_jax.supernet.sandwich` has the rule of that
name. The recipe's defaults are those of the published one-shot search (arXiv 1906.06832): 300 epochs of SGD, a cosine
from 0.025 to 0.001, momentum 0.9, weight decay 3e-4, clipping at 5. Weights that no code of a step uses have gradient
zero there, as the mean over codes wants it; momentum and weight decay go on for them.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lanas_jax.data.splits import SearchData
from lanas_jax.data.streams import StreamedDataset
from lanas_jax.runtime import distributed
from lanas_jax.runtime.distributed import Preemption
from lanas_jax.runtime.durations import duration
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.storage import config_json, software
from lanas_jax.storage.checkpoints import digest
from lanas_jax.storage.folder import RunError, lock_file
from lanas_jax.storage.weights import AnyArray, digest_by_name
from lanas_jax.supernet.base import Supernet
from lanas_jax.supernet.sandwich import Sandwich, SandwichSupernet
from lanas_jax.trainer import folder as folders
from lanas_jax.trainer import loop, throughput
from lanas_jax.trainer.compilation import check_recipe, compile_training
from lanas_jax.trainer.folder import FinalFolder
from lanas_jax.trainer.programs import Programs
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.step import FinalState, shapes
from lanas_jax.trainer.task import BatchStats, Params, Weights, data_fingerprint
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
NOTES = 10  # lines that a training prints on its way


@dataclasses.dataclass(frozen=True)
class SampledSupernet:
    """A supernet as `lanas_jax.trainer` trains networks: each training pass draws a code from a pool.

    Two of one supernet are equal, whatever their pools: they share programs.

    Args:
      supernet: what is trained.
      data: the pool, ``int32[m, dims]``.
    """

    supernet: Supernet
    data: Int[Array | np.ndarray, "m dims"] = dataclasses.field(compare=False)

    @property
    def space(self) -> SearchSpace:
        """The space of the codes."""
        return self.supernet.space

    def with_data(self, data: Int[Array | np.ndarray, "m dims"]) -> "SampledSupernet":
        """The same with another pool."""
        return SampledSupernet(self.supernet, data)

    def init(self, key: PRNGKeyArray) -> tuple[Params, BatchStats]:
        """Weights and batch statistics of all parts. The key is consumed."""
        return self.supernet.init(key)

    def apply(
        self,
        params: Params,
        batch_stats: BatchStats,
        images: Float[Array, "n height width channels"],
        *,
        train: bool,
        key: PRNGKeyArray,
        drop_path: Float[Array, ""],
    ) -> tuple[Float[Array, "n classes"], None, BatchStats]:
        """Logits of the part that a code picks which `key` draws from the pool; no path is dropped."""
        del drop_path
        code = jnp.asarray(self.data)[jax.random.randint(key, (), 0, len(self.data))]
        logits, batch_stats = self.supernet.apply(params, batch_stats, code, images, train=train)
        return logits, None, batch_stats


@dataclasses.dataclass(frozen=True, eq=False)
class SupernetTraining:
    """A supernet, or one for a region of the space alone, to be trained.

    Args:
      supernet: what is trained.
      codes: the pool that steps draw from (`lanas_jax.supernet.code_pool`).
      recipe: how it is trained.
      augmentation: what is done to the training images of each step; default: they are only scaled.
      seed: of everything random, the pool apart.
      initial: weights to begin with, by name; None: all are drawn.
      sandwich: trains the largest and the smallest part at each step; None: a step trains codes of the pool alone.

    Raises:
      ValueError: a sandwich whose codes are not of the space or whose recipe has several passes; a recipe with
        distillation, since supernets have no teacher but themselves.
    """

    supernet: Supernet
    codes: Int[np.ndarray, "m dims"]
    recipe: Recipe = ONE_SHOT
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    seed: int = 0
    initial: Mapping[str, AnyArray] | None = None
    sandwich: Sandwich | None = None

    def __post_init__(self) -> None:
        if self.recipe.distillation:
            raise ValueError(
                f"distillation must be 0 for a supernet, it has no teacher; got {self.recipe.distillation}"
            )
        if self.sandwich is not None:
            self.sandwich.check(self.supernet.space, self.recipe)

    @property
    def network(self) -> SampledSupernet | SandwichSupernet:
        """The supernet as it is trained."""
        if self.sandwich is None:
            return SampledSupernet(self.supernet, self.codes)
        return self.sandwich.network(self.supernet, self.codes)

    @property
    def teacher(self) -> None:
        """There is none."""
        return


class Trained(NamedTuple):
    """What a training gave."""

    weights: Weights  # the last ones, or their moving average where the recipe keeps one
    programs: Programs | None  # for trainings of other regions; None where nothing had to be trained


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
    """Trains a supernet to the end, or the rest of the way, or reads the weights of one that is at its end.

    Args:
      training: what to train.
      data: training images; validation images are not read.
      directory: a new or empty folder, or that of the same training; the same for all processes.
      note: is told how it gets on, a line now and then.
      devices: what to train on, batches are divided among them; default: of one process, as many as share one equally;
        of several, all.
      programs: of another training that differs in codes, seed and initial weights alone; None: they are compiled.
      preemption: says when to stop early; None: never.

    Raises:
      ValueError: a recipe that does not fit the images or the devices; nothing is written.
      RunError: a folder that holds something else, or another training (names what differs), or is in use.
      DistributedError: processes that were not started alike.
      NotFiniteError, DamagedError, PreemptedError: as `lanas_jax.trainer.loop.run_training`.
    """
    devices = _sharing(training.recipe.batch_size) if devices is None else devices
    check_recipe(training.recipe, data, devices)
    with _entered(directory, _record(training, data, devices)) as folder:
        if folder.final is None:
            programs = compile_training(training, data, devices) if programs is None else programs.instead(training)
            saved = loop.run_training(programs, data, folder, Lines(note), preemption)
            report = {
                "steps": programs.total,
                "trained_parameters": sum(leaf.size for leaf in jax.tree.leaves(saved.state.weights.params)),
                "seconds": saved.seconds,
                **throughput.measured_throughput(saved, programs),
                "compile_seconds": programs.compile_seconds,
                "devices": folder.record["devices"],
                "software": software.versions(),
            }
            distributed.by_first(lambda: folder.finish(report), OSError)
            return Trained(_weights(saved.state), programs)
        found = loop.restored(folder, shapes(training.network, training.recipe))
    if found is None:
        raise loop.DamagedError(f"none of the checkpoints in {folder.checkpoints} is intact: remove {directory}")
    return Trained(_weights(found.state), programs)


class Lines:
    """Tells of a training in plain lines, some `NOTES` in all; a `lanas_jax.trainer.loop.TrainingProgress`.

    Args:
      note: takes a line.
    """

    def __init__(self, note: Callable[[str], None]):
        self.note = note
        self._total, self._first, self._began, self._told = 1, 0, time.monotonic(), 0

    def began(self, programs: Programs, step: int) -> None:
        """The loop begins, after so many steps."""
        self._total, self._first, self._began = programs.total, step, time.monotonic()
        self._told = step * NOTES // programs.total
        compiling = f"compiled in {programs.compile_seconds:.0f} s"
        self.note(f"supernet: {programs.total:,} steps, {compiling}" + (f", going on after {step:,}" if step else ""))

    def advanced(self, step: int, loss: float, learning_rate: float) -> None:
        """So many steps are taken; loss and learning rate are those of the last one."""
        if step * NOTES // self._total == self._told:
            return
        self._told = step * NOTES // self._total
        left = (time.monotonic() - self._began) / (step - self._first) * (self._total - step)
        self.note(f"supernet: {step:,} of {self._total:,} steps · loss {loss:.3f} · {duration(left)} left")

    def validated(self, accuracies: loop.Accuracies) -> None:
        """Is not called: supernets are not watched by the search-validation split."""


def _sharing(batch_size: int) -> Sequence[jax.Device]:
    """As many devices as can share a batch equally: a search takes those there are, a core each on CPUs."""
    if jax.process_count() > 1:
        return jax.devices()
    devices = jax.local_devices()
    return devices[: max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)]


def _weights(state: FinalState) -> Weights:
    return state.weights if state.average is None else state.average


@contextlib.contextmanager
def _entered(directory: Path, record: Mapping[str, Any]) -> Iterator[FinalFolder]:
    """The folder of a training, kept from other trainings; process 0 makes it.

    One that is at its end is only read, which others may do meanwhile.
    """
    distributed.agree("a supernet, images or software", folders.decisive(record))
    with contextlib.ExitStack() as stack:

        def enter() -> None:
            folder = _enter(directory, record)
            if folder.final is None:
                stack.enter_context(lock_file(folder.described))

        distributed.by_first(enter, RunError)
        yield folders.open_folder(directory)


def _enter(directory: Path, record: Mapping[str, Any]) -> FinalFolder:
    """The training in a folder, or a new one there; once at its end, it may come from other versions of software."""
    if not folders.training_exists(directory):
        return folders.enter(directory, record, None)
    folder = folders.open_folder(directory)
    if changed := folders.difference(folder, record, but=() if folder.final is None else ("software",)):
        raise RunError(f"the supernet in {directory} is another one, {changed}. Give another folder")
    return folder


def _record(
    training: SupernetTraining, data: SearchData | StreamedDataset, devices: Sequence[jax.Device]
) -> dict[str, Any]:
    """What training.json says."""
    return {
        "name": type(training.supernet).__name__,
        **dict.fromkeys(("experiment", "code", "config")),
        "settings": {**_settings(training.supernet), "codes": digest([training.codes])}
        | ({} if training.sandwich is None else {"sandwich": config_json.encode_value(training.sandwich)}),
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
    """The kind of a supernet and of its space, with their settings in words."""
    fields = {field.name: getattr(supernet, field.name) for field in dataclasses.fields(supernet)}
    space = fields.pop("space")
    described = {field.name: getattr(space, field.name) for field in dataclasses.fields(space)}
    described = {name: str(value) for name, value in described.items() if name != "choices"}
    choices = hashlib.sha256(str(space.choices).encode()).hexdigest()
    others = {name: getattr(value, "__name__", str(value)) for name, value in fields.items()}
    return {
        "supernet": type(supernet).__name__,
        "space": {"kind": type(space).__name__, **described, "choices": choices},
        **others,
    }
