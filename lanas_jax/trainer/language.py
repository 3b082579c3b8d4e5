"""The long training of a language model, on one device of one process, and the text that the model then writes.

`lanas_jax.trainer.train` runs it in the folder of a training. As in the training of image networks, a checkpoint holds
everything but metrics.csv, a training that is killed resumes to the same weights, the last weights count, and the test
part of the text is read once, at the end. Bits per symbol take the place of accuracies.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from lanas_jax.data.text import Text, side_by_side, symbols_of, text_of
from lanas_jax.runtime.arithmetic import in_32_bits, nan_is_data
from lanas_jax.runtime.distributed import Preemption
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.storage.checkpoints import Checkpoints, Restored
from lanas_jax.storage.metrics import Metrics
from lanas_jax.trainer.folder import FinalFolder
from lanas_jax.trainer.loop import DamagedError, NotFiniteError, PreemptedError
from lanas_jax.training.language import (
    COLUMNS,
    LanguageState,
    TextTraining,
    bits_per_symbol,
    check_symbols,
    take_step,
)

Cell = TypeVar("Cell")
METRICS = ("step", "bits", "learning_rate", "validation_bits")  # columns of metrics.csv
STEPS_PER_DISPATCH = 25
VALIDATE_EVERY = 500  # steps
CHECKPOINT_SECONDS = 60.0


@runtime_checkable
class LanguageNetwork(Protocol[Cell]):
    """The language model of a single code (`lanas_jax.models.recurrent` has one)."""

    @property
    def space(self) -> SearchSpace:
        """The search space of the network's code, at this network's size."""
        ...

    def init(self, key: PRNGKeyArray) -> PyTree[Array]:
        """Returns initial parameters, nested dictionaries of arrays. The key is consumed."""
        ...

    def state(self, n: int) -> Cell:
        """Returns the state before the first symbols of `n` sequences."""
        ...

    def apply(
        self, params: PyTree[Array], symbols: Int[Array, "length n"], state: Cell
    ) -> tuple[Float[Array, "length n symbols"], Cell]:
        """Returns logits of the symbols that follow, and the state after the last symbols."""
        ...


@runtime_checkable
class LanguageProgress(Protocol):
    """A receiver of progress messages (`lanas_jax.trainer.display` prints them)."""

    def began(self, total: int, step: int) -> None:
        """Called when the loop starts, with the number of all steps and of those already taken."""

    def advanced(self, step: int, bits: float, learning_rate: float) -> None:
        """Called after each dispatch, with the number of steps taken, and the last step's loss and learning rate."""

    def validated(self, bits: float) -> None:
        """Called with the bits per symbol of the validation part."""

    def note(self, text: str) -> None:
        """Called with a message to print on a separate line."""


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageTraining:
    """The training of one language model, which an experiment's ``final(config, settings, code)`` may return.

    Args:
      network: language model to train.
      dataset: function that loads the text; called when the text is needed.
      recipe: settings of the training.
      seed: seed of all random draws.
      initial: must be None: the training starts from random weights.

    Raises:
      ValueError: the seed is not an unsigned 32-bit integer.
    """

    network: LanguageNetwork[Any]
    dataset: Callable[[], Text]
    recipe: TextTraining
    seed: int = 0
    initial: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be 0 to 2**32 - 1; got {self.seed}")


class LanguageTrainingState(NamedTuple):
    """The state of a training."""

    params: PyTree[Array]
    optimizer: optax.OptState
    cell: Any  # the network's state before the next symbols
    place: Int[Array, ""]  # row of the text that is read next
    step: Int[Array, ""]  # number of steps taken
    is_finite: Bool[Array, ""]  # True while loss and weights are finite


class SavedLanguage(NamedTuple):
    """The content of a checkpoint."""

    state: LanguageTrainingState
    seconds: Float[np.ndarray | Array, ""]  # training time up to this step


def check_language(final: LanguageTraining, text: Text) -> None:
    """Checks a training, before anything is written.

    Raises:
      ValueError: there are several processes or initial weights, or the text is too short or has symbols beyond those
        of the space.
    """
    if jax.process_count() > 1:
        raise ValueError(f"a language model trains in one process; got {jax.process_count()}")
    if final.initial is not None:
        raise ValueError("a language model trains from random weights: leave out --weights")
    final.recipe.lines(text.train)
    check_symbols(final.network.space, text.train, text.validation, text.test)


@in_32_bits
def start_language(final: LanguageTraining, key: PRNGKeyArray) -> LanguageTrainingState:
    """Returns the state before the first step. The key is consumed."""
    params = final.network.init(key)
    cell = final.network.state(final.recipe.streams)
    return LanguageTrainingState(
        params, final.recipe.optimizer.init(params), cell, jnp.int32(0), jnp.int32(0), jnp.bool_(True)
    )


@in_32_bits
@nan_is_data
def train_language(
    final: LanguageTraining, text: Text, folder: FinalFolder, progress: LanguageProgress, preemption: Preemption
) -> dict[str, Any]:
    """Trains from the newest intact checkpoint to the last step, and measures the bits of the last weights.

    Returns:
      Results for final.json.

    Raises:
      NotFiniteError, DamagedError, PreemptedError: as in `lanas_jax.trainer.loop.run_training`.
    """
    began, recipe = time.perf_counter(), final.recipe
    lines = jnp.asarray(recipe.lines(text.train), jnp.int32)
    key = jax.random.key(final.seed)
    shapes = jax.eval_shape(functools.partial(start_language, final), key)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    advance = jax.jit(functools.partial(_advance, final), donate_argnums=0).lower(shapes, lines, number).compile()
    measure = jax.jit(functools.partial(_bits, final.network))
    compiled = time.perf_counter() - began
    with Checkpoints(folder.checkpoints, behind=True) as checkpoints:
        state, before = _begin(final, key, shapes, checkpoints, folder, progress)
        first = step = int(state.step)
        progress.began(recipe.steps, step)
        started = saved_at = time.monotonic()
        with Metrics(folder.metrics, METRICS, step) as metrics:
            while step < recipe.steps:
                validation = (step // VALIDATE_EVERY + 1) * VALIDATE_EVERY
                until = min(step + STEPS_PER_DISPATCH, validation, recipe.steps)
                state, losses = advance(state, lines, np.int32(until))
                rows = list(_rows(recipe, step, np.asarray(losses)[: int(state.step) - step]))
                step = int(state.step)
                if not state.is_finite:
                    metrics.write(rows)
                    numbers = checkpoints.numbers
                    saved = f"the last checkpoint is step {numbers[-1]:,}" if numbers else "no checkpoint yet"
                    raise NotFiniteError(f"the loss or a weight is not finite at step {step:,}; {saved}")
                progress.advanced(step, rows[-1]["bits"], rows[-1]["learning_rate"])
                if step in (validation, recipe.steps):
                    rows[-1]["validation_bits"] = bits = _measured(measure, state, text.validation)
                    progress.validated(bits)
                metrics.write(rows)
                now, stops = time.monotonic(), preemption.reached()
                if stops or step == recipe.steps or now - saved_at >= CHECKPOINT_SECONDS:
                    seconds = np.array(before + now - started, np.float32)
                    checkpoints.save(step, SavedLanguage(state, seconds), folder.digest)
                    saved_at = now
                if stops:
                    break
    if step < recipe.steps:
        raise PreemptedError(step)
    took = time.monotonic() - started
    return {
        "trained_parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "steps": recipe.steps,
        "validation_bits": _measured(measure, state, text.validation),
        "test_bits": _measured(measure, state, text.test),
        "seconds": before + took,
        "symbols_per_second": (step - first) * recipe.streams * recipe.length / took if step > first else None,
        "compile_seconds": compiled,
    }


def trained_params(final: LanguageTraining, folder: FinalFolder) -> PyTree[Array] | None:
    """Returns the parameters in the newest intact checkpoint of a training, or None if there is none."""
    shapes = jax.eval_shape(functools.partial(start_language, final), jax.random.key(0))
    with Checkpoints(folder.checkpoints) as checkpoints:
        found = _newest(checkpoints, folder, shapes)
    return None if found is None else found.state.state.params


@in_32_bits
def write_text(
    network: LanguageNetwork[Any], params: PyTree[Array], prompt: str, length: int, temperature: float, seed: int
) -> str:
    """Returns a prompt, as the network reads it, and the characters that the network continues it with.

    Args:
      network: language model.
      params: trained parameters.
      prompt: beginning of the text; characters outside the alphabet become ``#``.
      length: number of characters to write.
      temperature: divisor of the logits before a character is drawn; 0 takes the most likely character.
      seed: seed of the draws.

    Raises:
      ValueError: the prompt is empty, the length is below one, the temperature is negative or not finite, or the seed
        is not an unsigned 32-bit integer.
    """
    read = symbols_of(prompt) if prompt.strip() else np.zeros(0, np.int32)
    if not len(read):
        raise ValueError("prompt must have at least one character that is not white space")
    if length < 1:
        raise ValueError(f"length must be at least 1; got {length}")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be finite and not negative; got {temperature}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be 0 to 2**32 - 1; got {seed}")
    if prompt[-1:].isspace():
        read = np.append(read, symbols_of("a b")[1])

    @jax.jit
    def written(params: PyTree[Array], key: PRNGKeyArray, temperature: Float[Array, ""]) -> Int[Array, " length"]:
        logits, cell = network.apply(params, jnp.asarray(read, jnp.int32)[:, None], network.state(1))

        def draw(carry: tuple[Array, Any], key: PRNGKeyArray) -> tuple[tuple[Array, Any], Array]:
            logits, cell = carry
            drawn = jax.random.categorical(key, logits / jnp.where(temperature > 0, temperature, 1.0))
            symbol = jnp.where(temperature > 0, drawn, jnp.argmax(logits)).astype(jnp.int32)
            logits, cell = network.apply(params, symbol[None, None], cell)
            return (logits[-1, 0], cell), symbol

        return jax.lax.scan(draw, (logits[-1, 0], cell), jax.random.split(key, length))[1]

    found = written(params, jax.random.key(seed), jnp.float32(temperature))
    return text_of(read) + text_of(np.asarray(found))


def _begin(
    final: LanguageTraining,
    key: PRNGKeyArray,
    shapes: LanguageTrainingState,
    checkpoints: Checkpoints,
    folder: FinalFolder,
    progress: LanguageProgress,
) -> tuple[LanguageTrainingState, float]:
    """Returns the state to start or resume from, and the training time spent so far, in seconds."""
    numbers = checkpoints.numbers
    if not numbers:
        return start_language(final, key), 0.0
    found = _newest(checkpoints, folder, shapes)
    if found is None:
        raise DamagedError(
            f"none of the checkpoints in {folder.checkpoints} is intact (steps {', '.join(map(str, numbers))}); "
            f"remove that folder to train from the first step"
        )
    if found.number < numbers[-1]:
        progress.note(f"the checkpoint of step {numbers[-1]:,} is damaged; resuming from step {found.number:,}")
        checkpoints.discard_after(found.number)
    return found.state.state, float(found.state.seconds)


def _newest(checkpoints: Checkpoints, folder: FinalFolder, shapes: LanguageTrainingState) -> Restored | None:
    like = SavedLanguage(shapes, np.zeros((), np.float32))
    return checkpoints.restore(like, dict.fromkeys(checkpoints.numbers, folder.digest))


def _advance(
    final: LanguageTraining, state: LanguageTrainingState, lines: Int[Array, "rows streams"], until: Int[Array, ""]
) -> tuple[LanguageTrainingState, Float[Array, " steps"]]:
    """Takes up to `STEPS_PER_DISPATCH` steps, stopping at step `until` or when loss or weights are not finite."""

    def advance(state: LanguageTrainingState) -> tuple[LanguageTrainingState, Float[Array, ""]]:
        model, loss = take_step(final.recipe, final.network.apply, LanguageState(*state[:4]), lines)
        weights = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(model.params)])
        is_finite = jnp.isfinite(loss) & weights.all()
        return LanguageTrainingState(*model, state.step + 1, is_finite), loss / math.log(2)

    def body(state: LanguageTrainingState, _: None) -> tuple[LanguageTrainingState, Float[Array, ""]]:
        going = (state.step < until) & state.is_finite
        return jax.lax.cond(going, advance, lambda state: (state, jnp.float32(0)), state)

    return jax.lax.scan(body, state, None, STEPS_PER_DISPATCH)


def _bits(network: LanguageNetwork[Any], params: PyTree[Array], lines: Int[Array, "rows columns"]) -> Float[Array, ""]:
    return bits_per_symbol(network.apply, params, network.state(lines.shape[1]), lines)


def _measured(measure: Callable[..., Array], state: LanguageTrainingState, part: Int[np.ndarray, " symbols"]) -> float:
    """Returns the bits per symbol of a part of the text, read from `COLUMNS` places."""
    return float(measure(state.params, jnp.asarray(side_by_side(part, COLUMNS), jnp.int32)))


def _rows(recipe: TextTraining, first: int, bits: Float[np.ndarray, " steps"]) -> Iterator[dict[str, Any]]:
    """Returns the rows of metrics.csv for the steps after step `first`."""
    for step, one in enumerate(bits.tolist(), start=first):
        yield {"step": step + 1, "bits": one, "learning_rate": float(recipe.rate(step))}
