"""The loop of a training: dispatches, checkpoints, search-validation evaluations, and one test evaluation at the end.

Weights, their moving average, the optimizer state and metrics.csv are functions of the settings and the step, and
resume exactly. A checkpoint holds all of them except metrics.csv, and each step folds its number into the PRNG key. A
training that is killed in the middle of an epoch resumes from its last checkpoint to bit-identical results, given the
same software and devices.

In a multi-host training (`lanas_jax.runtime.distributed`) every process runs this loop. Process 0 writes, and decides
when a checkpoint is due, since clocks differ.

Test images are read after the last step: section 4 of arXiv 1906.06832 reports the last weights, not the best ones. The
result is recorded at once, so that a second call of the same training does not read them again.
"""

import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from lanas_jax.data.splits import Dataset, SearchData
from lanas_jax.data.streams import StreamedDataset
from lanas_jax.runtime import distributed
from lanas_jax.runtime.arithmetic import in_32_bits, nan_is_data
from lanas_jax.runtime.distributed import Preemption
from lanas_jax.runtime.profiling import marked_step
from lanas_jax.storage.checkpoints import Checkpoints, Restored
from lanas_jax.storage.metrics import Metrics, Unwritten
from lanas_jax.trainer import step as training
from lanas_jax.trainer.folder import COLUMNS, FinalFolder
from lanas_jax.trainer.programs import Programs, placed
from lanas_jax.trainer.recipe import Recipe, drop_path
from lanas_jax.trainer.step import FinalState
from lanas_jax.trainer.task import Weights, search_splits
from lanas_jax.training.sgd import learning_rate


class NotFiniteError(Exception):
    """The loss or the weights of a training became NaN or infinite."""


class DamagedError(Exception):
    """None of a training's checkpoints can be read."""


class PreemptedError(Exception):
    """A training was stopped by SIGTERM and saved its state first.

    Attributes:
      step: number of steps taken; all of them are saved.
    """

    def __init__(self, step: int):
        super().__init__(f"stopped after step {step:,}, which is saved")
        self.step = step


class Fitted(NamedTuple):
    """The result of `run_training`: the last state and the time spent."""

    state: FinalState
    seconds: float  # training time, earlier processes included
    steps: int  # number of steps taken by this process
    taken_seconds: float  # time spent on these steps, checkpoints and evaluations included, compilation excluded
    waited: float  # seconds of this time spent waiting for a batch


class Saved(NamedTuple):
    """The content of a checkpoint."""

    state: FinalState
    seconds: Float[np.ndarray | Array, ""]  # training time up to this step


class Accuracies(NamedTuple):
    """The accuracies of the last weights and of their moving average (None without one), in [0, 1]."""

    last: float
    average: float | None


@runtime_checkable
class TrainingProgress(Protocol):
    """A receiver of progress messages (`lanas_jax.trainer.display` prints them)."""

    def began(self, programs: Programs, step: int) -> None:
        """Called when the loop starts, with the number of steps already taken."""

    def advanced(self, step: int, loss: float, learning_rate: float) -> None:
        """Called after each dispatch, with the number of steps taken and the last step's loss and learning rate."""

    def validated(self, accuracies: Accuracies) -> None:
        """Called after each search-validation evaluation."""

    def note(self, text: str) -> None:
        """Called with a message to print on a separate line."""


@runtime_checkable
class EpochWatch(Protocol):
    """A measurement of the weights after each epoch, which changes no weight."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the measured numbers, which are columns of metrics.csv."""
        ...

    def __call__(self, weights: Weights) -> Mapping[str, float]:
        """Measures weights, or their moving average if there is one; returns the numbers by column."""
        ...


class SilentTraining:
    """Ignores all progress messages."""

    def began(self, programs: Programs, step: int) -> None: ...  # noqa: D102
    def advanced(self, step: int, loss: float, learning_rate: float) -> None: ...  # noqa: D102
    def validated(self, accuracies: Accuracies) -> None: ...  # noqa: D102
    def note(self, text: str) -> None: ...  # noqa: D102


@in_32_bits
@nan_is_data
def run_training(
    programs: Programs,
    data: SearchData | StreamedDataset,
    folder: FinalFolder,
    progress: TrainingProgress,
    preemption: Preemption | None = None,
    watch: EpochWatch | None = None,
) -> Fitted:
    """Trains from the newest intact checkpoint to the last step.

    Args:
      programs: programs compiled for this training.
      data: dataset with the search-validation split.
      folder: folder of the checkpoints and of metrics.csv.
      progress: receives progress messages.
      preemption: signal to stop early; None never stops early.
      watch: measurement after each epoch; None for none.

    Returns:
      The state after the last step, which the newest checkpoint also holds, and the training time.

    Raises:
      NotFiniteError: the loss or the weights are not finite; the message names the step. The last good checkpoint
        remains.
      DamagedError: there are checkpoints, but none of them is intact.
      PreemptedError: the training stopped early, with a checkpoint of the last step taken.
    """
    preemption = Preemption() if preemption is None else preemption
    with Checkpoints(folder.checkpoints, behind=True) as checkpoints:
        state, seconds = _begin(programs, checkpoints, folder, progress)
        began = saved_at = time.monotonic()
        step = first = int(state.step)
        progress.began(programs, step)
        period, columns = programs.task.recipe.reading_period, (*COLUMNS, *(watch.columns if watch else ()))
        metrics = Metrics(folder.metrics, columns, step) if distributed.is_first_process() else Unwritten()
        with metrics, programs.session(step) as advance:
            while step < programs.total:
                reading = _after_epochs(programs, step, period)
                epoch = _after_epochs(programs, step, 1 if watch else None)
                until = min(step + programs.task.recipe.steps_per_dispatch, reading, epoch)
                with marked_step("train"):
                    state, taken = advance(state, until, preemption)
                    losses = np.asarray(taken)
                rows = _rows(programs, step, losses[: int(state.step) - step])
                step = int(state.step)
                if not state.is_finite:
                    metrics.write(rows)
                    raise NotFiniteError(_why(programs, state, checkpoints))
                if watch and step == epoch:
                    rows[-1] |= watch(state.weights if state.average is None else state.average)
                progress.advanced(step, rows[-1]["loss"], rows[-1]["learning_rate"])
                if period and step == reading:
                    accuracies = _accuracies(programs, state, data.validation)
                    progress.validated(accuracies)
                    rows[-1] |= _named("validation_accuracy", accuracies)
                metrics.write(rows)
                now = time.monotonic()
                if _is_due(programs, step, now - saved_at, preemption):
                    checkpoints.save(step, Saved(state, np.array(seconds + now - began, np.float32)), folder.digest)
                    saved_at = time.monotonic()
                if preemption.here:
                    break
            waited = advance.waited
    if step < programs.total:
        raise PreemptedError(step)
    took = time.monotonic() - began
    return Fitted(state, seconds + took, step - first, took, waited)


def measure_accuracies(
    programs: Programs, state: FinalState, data: Dataset | StreamedDataset
) -> dict[str, float | None]:
    """Returns the accuracies to report. Networks are evaluated on the test images only here."""
    found: dict[str, float | None] = {"validation_accuracy": None, "ema_validation_accuracy": None}
    if programs.task.recipe.train_on == "train":
        found = _named("validation_accuracy", _accuracies(programs, state, search_splits(data).validation))
    return found | _named("test_accuracy", _accuracies(programs, state, data.test))


def measured_throughput(fitted: Fitted, programs: Programs) -> dict[str, float | None]:
    """Returns the throughput of the steps that this process took, for final.json. All values are None without steps.

    Returns:
      ``images_per_second``, checkpoints and search-validation evaluations included; ``input_wait``, the share of the
      time spent waiting for a batch; ``peak_share``, the share of the peak, None if unknown.
    """
    if not fitted.steps:
        return dict.fromkeys(("images_per_second", "input_wait", "peak_share"))
    images = fitted.steps * programs.task.recipe.batch_size / fitted.taken_seconds
    return {
        "images_per_second": images,
        "input_wait": fitted.waited / fitted.taken_seconds,
        "peak_share": None if programs.at_peak is None else images * programs.at_peak,
    }


def restored(folder: FinalFolder, shapes: FinalState) -> Saved | None:
    """Returns the state in the newest intact checkpoint, or None if there is none."""
    with Checkpoints(folder.checkpoints) as checkpoints:
        found = _newest(checkpoints, folder, shapes)
    return None if found is None else found.state


def _newest(checkpoints: Checkpoints, folder: FinalFolder, shapes: FinalState) -> Restored | None:
    like = Saved(shapes, np.zeros((), np.float32))
    return checkpoints.restore(like, dict.fromkeys(checkpoints.numbers, folder.digest))


def _begin(
    programs: Programs, checkpoints: Checkpoints, folder: FinalFolder, progress: TrainingProgress
) -> tuple[FinalState, float]:
    """Returns the state to start or resume from, and the training time spent so far, in seconds."""
    numbers = checkpoints.numbers
    if not numbers:
        return programs.start(), 0.0
    found = _newest(checkpoints, folder, training.shapes(programs.task.network, programs.task.recipe))
    if found is None:
        raise DamagedError(
            f"none of the checkpoints in {folder.checkpoints} is intact (steps {', '.join(map(str, numbers))}); "
            f"remove that folder to train from the first step"
        )
    if found.number < numbers[-1]:
        progress.note(f"the checkpoint of step {numbers[-1]:,} is damaged; resuming from step {found.number:,}")
        checkpoints.discard_after(found.number)
    return placed(found.state.state, programs.everywhere), float(found.state.seconds)


def _is_due(programs: Programs, step: int, age: float, preemption: Preemption) -> bool:
    """Returns whether a checkpoint is due, given the age of the last one in seconds."""
    if step == programs.total or preemption.here:
        return True
    return bool(distributed.broadcast(age >= programs.task.recipe.checkpoint_seconds))


def _after_epochs(programs: Programs, step: int, period: int | None) -> int:
    """Returns the first step after `step` at which a multiple of `period` epochs ends, or the last step."""
    recipe = programs.task.recipe
    if period is None:
        return programs.total
    epochs = step * recipe.batch_size // programs.count // period * period
    return min(programs.total, recipe.sgd.steps(programs.count, epochs + period))


def _accuracies(programs: Programs, state: FinalState, split: Any) -> Accuracies:
    last = programs.accuracy(state.weights, split)
    return Accuracies(last, None if state.average is None else programs.accuracy(state.average, split))


def _named(name: str, accuracies: Accuracies) -> dict[str, float | None]:
    return {name: accuracies.last, f"ema_{name}": accuracies.average}


def _rows(programs: Programs, first: int, losses: Float[np.ndarray, " steps"]) -> list[dict[str, Any]]:
    """Returns the rows of metrics.csv for the steps after step `first`."""
    recipe, total = programs.task.recipe, np.int32(programs.total)
    schedules = [
        _schedules(recipe.read_by_programs, np.int32(step), total) for step in range(first, first + len(losses))
    ]
    columns = [
        (loss, float(rate), float(dropped)) for loss, (rate, dropped) in zip(losses.tolist(), schedules, strict=True)
    ]
    return [
        {
            "step": step + 1,
            "epoch": step * recipe.batch_size // programs.count + 1,
            "loss": loss,
            "learning_rate": rate,
            "drop_path": share,
        }
        for step, (loss, rate, share) in enumerate(columns, start=first)
    ]


@jax.jit
def _schedules(recipe: Recipe, step: Int[Array, ""], total: Int[Array, ""]) -> tuple[Array, Array]:
    """Returns the learning rate and the drop-path probability of a step.

    Steps are computed one at a time, because XLA's cosine of a vector depends on the vector's length.
    """
    return learning_rate(recipe, step, total, recipe.constant_epochs), drop_path(recipe, step, total)


def _why(programs: Programs, state: FinalState, checkpoints: Checkpoints) -> str:
    step, loss = int(state.step), float(state.loss)
    epoch = (step - 1) * programs.task.recipe.batch_size // programs.count + 1
    what = "the weights are not finite" if math.isfinite(loss) else f"the loss is {loss}"
    saved = f"the last checkpoint is step {checkpoints.numbers[-1]:,}" if checkpoints.numbers else "no checkpoint yet"
    return f"{what} at step {step:,} (epoch {epoch:,}); {saved}"
