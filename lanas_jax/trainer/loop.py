"""The loop of a training: dispatches, checkpoints, readings of the search-validation split; at the end the test, once.

What resumes exactly is what is a function of settings and step: weights, their average, the momentum, metrics.csv. A
checkpoint holds all of it but the last, and each step draws from its own number, so a training killed in the middle of
an epoch goes on from its last checkpoint to the bits it would have had, given the same software and devices.

Several processes (`lanas_jax.runtime.distributed`) run this loop side by side: process 0 writes, and says when a
checkpoint is due, since clocks differ.

Test images are read after the last step (section 4 of arXiv 1906.06832 reports the last weights, not the best ones) and
what they said is recorded before anything else, so that a training that is called again does not read them again.
"""

import math
import time
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from lanas_jax.data.splits import Dataset, SearchData
from lanas_jax.data.streams import StreamedDataset
from lanas_jax.runtime import distributed
from lanas_jax.runtime.distributed import Preemption
from lanas_jax.storage.checkpoints import Checkpoints, Restored
from lanas_jax.trainer import step as training
from lanas_jax.trainer.folder import FinalFolder
from lanas_jax.trainer.metrics import Metrics, Unwritten
from lanas_jax.trainer.programs import Programs
from lanas_jax.trainer.recipe import Recipe, drop_path
from lanas_jax.trainer.sharding import placed
from lanas_jax.trainer.step import FinalState
from lanas_jax.trainer.task import seen
from lanas_jax.training.sgd import learning_rate


class NotFiniteError(Exception):
    """A training whose loss or weights became NaN or infinite."""


class DamagedError(Exception):
    """A training none of whose checkpoints can be read."""


class PreemptedError(Exception):
    """A training that was told to end soon (SIGTERM), and saved its state before.

    Attributes:
      step: steps taken, all of them saved.
    """

    def __init__(self, step: int):
        super().__init__(f"stopped after step {step:,}, which is saved")
        self.step = step


class Fitted(NamedTuple):
    """What a process came to."""

    state: FinalState
    seconds: float  # of training, earlier processes included
    steps: int  # that this process took
    taken_seconds: float  # by those, with all that belongs to them; compilation left out
    waited: float  # seconds of them for which no batch was ready


class Saved(NamedTuple):
    """What a checkpoint holds."""

    state: FinalState
    seconds: Float[np.ndarray | Array, ""]  # of training, up to here


class Accuracies(NamedTuple):
    """Of the last weights, and of their moving average (None where there is none), in [0, 1]."""

    last: float
    average: float | None


@runtime_checkable
class Progress(Protocol):
    """Is told how a training gets on (`lanas_jax.trainer.display` shows it)."""

    def began(self, programs: Programs, step: int) -> None:
        """The loop begins, after so many steps."""

    def advanced(self, step: int, loss: float, learning_rate: float) -> None:
        """So many steps are taken; loss and learning rate are those of the last one."""

    def validated(self, accuracies: Accuracies) -> None:
        """The search-validation split was read."""

    def note(self, text: str) -> None:
        """Something worth a line."""


def fit(
    programs: Programs,
    data: SearchData | StreamedDataset,
    folder: FinalFolder,
    progress: Progress,
    preemption: Preemption | None = None,
) -> Fitted:
    """Trains from the newest intact checkpoint to the last step.

    Args:
      programs: compiled for this training.
      data: for its search-validation split.
      folder: checkpoints and metrics.csv go there.
      progress: is told how it gets on.
      preemption: says when to stop early; None: never.

    Returns:
      The state after the last step, which stands in the newest checkpoint, too, and what it took.

    Raises:
      NotFiniteError: names the step. The last good checkpoint is kept.
      DamagedError: there are checkpoints, but none of them is intact.
      PreemptedError: stopped early, with a checkpoint of the last step taken.
    """
    preemption = Preemption() if preemption is None else preemption
    with Checkpoints(folder.checkpoints, behind=True) as checkpoints:
        state, seconds = _begin(programs, checkpoints, folder, progress)
        began = saved_at = time.monotonic()
        step = first = int(state.step)
        progress.began(programs, step)
        with _metrics(folder, step) as metrics, programs.session(step) as advance:
            while step < programs.total:
                state, losses = advance(state, _stop(programs, step), preemption)
                rows = _rows(programs, step, np.asarray(losses)[: int(state.step) - step])
                step = int(state.step)
                if not state.sound:
                    metrics.write(rows)
                    raise NotFiniteError(_why(programs, state, checkpoints))
                progress.advanced(step, rows[-1]["loss"], rows[-1]["learning_rate"])
                if _validates(programs, step):
                    rows[-1] |= _validate(programs, state, data.validation, progress)
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


def measure(programs: Programs, state: FinalState, data: Dataset | StreamedDataset) -> dict[str, float | None]:
    """The accuracies that are reported. This is the one place where test images are read."""
    found: dict[str, float | None] = {"validation_accuracy": None, "ema_validation_accuracy": None}
    if programs.task.recipe.train_on == "train":
        found = _named("validation_accuracy", _accuracies(programs, state, seen(data).validation))
    return found | _named("test_accuracy", _accuracies(programs, state, data.test))


def restored(folder: FinalFolder, shapes: FinalState) -> Saved | None:
    """The state in the newest intact checkpoint, or None where there is none."""
    with Checkpoints(folder.checkpoints) as checkpoints:
        found = _newest(checkpoints, folder, shapes)
    return None if found is None else found.state


def _newest(checkpoints: Checkpoints, folder: FinalFolder, shapes: FinalState) -> Restored | None:
    like = Saved(shapes, np.zeros((), np.float32))
    return checkpoints.restore(like, dict.fromkeys(checkpoints.numbers, folder.digest))


def _begin(
    programs: Programs, checkpoints: Checkpoints, folder: FinalFolder, progress: Progress
) -> tuple[FinalState, float]:
    """Where to go on from, and the seconds that led there."""
    numbers = checkpoints.numbers
    if not numbers:
        return programs.start(), 0.0
    found = _newest(checkpoints, folder, training.shapes(programs.task.network, programs.task.recipe))
    if found is None:
        raise DamagedError(
            f"none of the checkpoints in {folder.checkpoints} is intact (steps {', '.join(map(str, numbers))}): "
            f"to train from the first step, remove that folder"
        )
    if found.number < numbers[-1]:
        progress.note(f"the checkpoint of step {numbers[-1]:,} is damaged: going on from step {found.number:,}")
        checkpoints.discard_after(found.number)
    return placed(found.state.state, programs.everywhere), float(found.state.seconds)


def _metrics(folder: FinalFolder, step: int) -> Metrics | Unwritten:
    return Metrics(folder.metrics, step) if distributed.first() else Unwritten()


def _stop(programs: Programs, step: int) -> int:
    """After which step a dispatch ends: `steps_per_dispatch`, a reading of validation, or the last one."""
    return min(step + programs.task.recipe.steps_per_dispatch, programs.total, _next_reading(programs, step))


def _is_due(programs: Programs, step: int, age: float, preemption: Preemption) -> bool:
    """Whether a checkpoint is, the last one being of this age in seconds."""
    if step == programs.total or preemption.here:
        return True
    return bool(distributed.told(age >= programs.task.recipe.checkpoint_seconds))


def _next_reading(programs: Programs, step: int) -> int:
    """The first step after `step` that ends a number of epochs after which validation is read."""
    recipe = programs.task.recipe
    period = recipe.reading_period
    if period is None:
        return programs.total
    epochs = step * recipe.batch_size // programs.count // period * period
    return recipe.sgd.steps(programs.count, epochs + period)


def _validates(programs: Programs, step: int) -> bool:
    if programs.task.recipe.reading_period is None:
        return False
    return step == programs.total or step == _next_reading(programs, step - 1)


def _validate(programs: Programs, state: FinalState, split: Any, progress: Progress) -> dict[str, float | None]:
    accuracies = _accuracies(programs, state, split)
    progress.validated(accuracies)
    return _named("validation_accuracy", accuracies)


def _accuracies(programs: Programs, state: FinalState, split: Any) -> Accuracies:
    last = programs.accuracy(state.weights, split)
    return Accuracies(last, None if state.average is None else programs.accuracy(state.average, split))


def _named(name: str, accuracies: Accuracies) -> dict[str, float | None]:
    return {name: accuracies.last, f"ema_{name}": accuracies.average}


def _rows(programs: Programs, first: int, losses: Float[np.ndarray, " steps"]) -> list[dict[str, Any]]:
    """Lines of metrics.csv for the steps after step `first`."""
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
    """Learning rate and dropped paths of a step, each step by itself: XLA's cosine of many depends on their number."""
    return learning_rate(recipe, step, total), drop_path(recipe, step, total)


def _why(programs: Programs, state: FinalState, checkpoints: Checkpoints) -> str:
    step, loss = int(state.step), float(state.loss)
    epoch = (step - 1) * programs.task.recipe.batch_size // programs.count + 1
    what = "the weights are not finite" if math.isfinite(loss) else f"the loss is {loss}"
    kept = f"the checkpoint of step {checkpoints.numbers[-1]:,} is kept" if checkpoints.numbers else "no checkpoint yet"
    return f"{what} at step {step:,} (epoch {epoch:,}); {kept}"
