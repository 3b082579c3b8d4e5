"""Training of language models: settings, the lines of a text that a step reads, and the loss of the next symbol."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from lanas_jax.data.text import SYMBOLS, side_by_side
from lanas_jax.runtime.numbers import set_whole_numbers

GUESSING = math.log2(SYMBOLS)  # bits per symbol of a model for which all symbols are alike
CLIP = 1.0  # largest norm of a gradient
COLUMNS = 64  # number of places of a text's part that bits are computed from side by side


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


def next_symbol_loss(logits: Float[Array, "length n symbols"], following: Int[Array, "length n"]) -> Float[Array, ""]:
    """Returns the mean loss of the symbols that follow, in nats."""
    # A product with one-hot symbols: its gradient is a product too, and no scattered sum.
    scores = jnp.sum(logits * jax.nn.one_hot(following, logits.shape[-1], dtype=logits.dtype), axis=-1)
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - scores)
