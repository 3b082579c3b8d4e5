"""Training of language models: settings, the lines of a text that a step reads, the step, and bits per symbol."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from lanas_jax.data.text import SYMBOLS, side_by_side
from lanas_jax.runtime.numbers import set_whole_numbers
from lanas_jax.spaces.base import SearchSpace

GUESSING = math.log2(SYMBOLS)  # bits per symbol of a model that predicts all symbols with equal probability
CLIP = 1.0  # largest norm of a gradient
COLUMNS = 64  # number of places of a part of the text from which bits are computed at the same time


@dataclasses.dataclass(frozen=True)
class TextTraining:
    """The training of a language model with Adam, a cosine schedule and clipped gradients.

    Attributes:
      steps: number of optimizer steps.
      streams: number of places of the text that a step reads.
      length: number of symbols per place and step, through which gradients flow.
      learning_rate: initial learning rate.

    Raises:
      ValueError: a number is below one, or the learning rate is not positive.
    """

    steps: int = 500
    streams: int = 16
    length: int = 16
    learning_rate: float = 0.02

    def __post_init__(self) -> None:
        set_whole_numbers(self, steps=1, streams=1, length=1)
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0; got {self.learning_rate}")

    @property
    def rate(self) -> optax.Schedule:
        """The learning rate of a step, counted from 0."""
        return optax.cosine_decay_schedule(self.learning_rate, self.steps)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer of one model."""
        return optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(self.rate))

    def lines(self, symbols: Int[np.ndarray, " n"]) -> Int[np.ndarray, "rows streams"]:
        """Returns a text in columns; `length` rows from its beginning follow the last one.

        Raises:
          ValueError: the text is too short for the streams.
        """
        lines = side_by_side(symbols, self.streams)
        if len(lines) <= self.length:
            raise ValueError(f"{self.streams} streams of {len(lines)} symbols are too short: choose fewer")
        return np.concatenate([lines, lines[: self.length]])


def check_symbols(space: SearchSpace, *parts: Int[np.ndarray, " _"]) -> None:
    """Checks that models of a space have an output for every symbol of the parts of a text.

    Raises:
      ValueError: the space has a field `symbols`, and the text has a symbol beyond them.
    """
    symbols = getattr(space, "symbols", None)
    most = max(int(part.max(initial=0)) for part in parts)
    if symbols is not None and most >= symbols:
        raise ValueError(
            f"{type(space).__name__} counts the costs of models of {symbols} symbols, but the text has the symbol "
            f"{most}: give it at least symbols={most + 1}"
        )


class LanguageState(NamedTuple):
    """A model in training."""

    params: PyTree[Array]
    optimizer: PyTree[Array]
    cell: Any  # the model's state before the next symbols
    place: Int[Array, ""]  # row of the text that is read next


Apply = Callable[[Any, Int[Array, "length n"], Any], tuple[Float[Array, "length n symbols"], Any]]


def take_step(
    training: TextTraining, apply: Apply, state: LanguageState, lines: Int[Array, "rows streams"]
) -> tuple[LanguageState, Float[Array, ""]]:
    """Takes one step of a training.

    Args:
      training: settings.
      apply: function of parameters, symbols and the model's state, which returns logits of the symbols that follow and
        the state after them.
      state: model before the step.
      lines: training text, as returned by `TextTraining.lines`.

    Returns:
      The model after the step, and the mean loss of the symbols read, in nats.
    """
    length = training.length
    window = lax.dynamic_slice_in_dim(lines, state.place, length + 1)

    def loss_of(params: PyTree[Array]) -> tuple[Float[Array, ""], Any]:
        logits, cell = apply(params, window[:-1], state.cell)
        return next_symbol_loss(logits, window[1:]), cell

    (loss, cell), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    with jax.numpy_dtype_promotion("standard"):  # Adam raises a number to an integer power
        updates, optimizer = training.optimizer.update(gradients, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    return LanguageState(params, optimizer, cell, (state.place + length) % (len(lines) - length)), loss


def bits_per_symbol(
    apply: Apply, params: PyTree[Array], cell: Any, lines: Int[Array, "rows columns"]
) -> Float[Array, ""]:
    """Returns the mean bits of all symbols but the first of each column; `cell` is the model's state before these."""
    return next_symbol_loss(apply(params, lines[:-1], cell)[0], lines[1:]) / math.log(2)


def next_symbol_loss(logits: Float[Array, "length n symbols"], following: Int[Array, "length n"]) -> Float[Array, ""]:
    """Returns the mean loss of the symbols that follow, in nats."""
    # A product with one-hot symbols: its gradient is a product too, not a scattered sum.
    scores = jnp.sum(logits * jax.nn.one_hot(following, logits.shape[-1], dtype=logits.dtype), axis=-1)
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - scores)
