"""Training a supernet by the sandwich rule with in-place distillation (arXiv 1903.05134; BigNAS, arXiv 2003.11142).

A step runs the largest part on the labels, then the smallest one and some at random on what the largest one said, all
on the same images as these are augmented for the step: accuracies of all parts lie between those of the two, so that
training these holds all of them. What the largest one said is a constant to the others: they learn from it, it does
not learn from them. The gradient is the mean over all passes, as it is over a recipe's `passes`; the published code
adds them up, which is the same at a learning rate that is smaller by the number of passes.

Each pass normalises by the statistics of the batch in its own part. The running ones are a mixture of all passes, as of
any supernet, and fit none of the parts, the largest included: `lanas_jax.supernet.valuation` measures them anew.
"""

import dataclasses
from typing import TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lanas_jax.spaces.base import SearchSpace
from lanas_jax.supernet.base import Supernet
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import BatchStats, Params, Weights
from lanas_jax.training.sgd import cross_entropy


@dataclasses.dataclass(frozen=True)
class Sandwich:
    """Which parts a step trains.

    Args:
      largest: code of the part that learns from the labels and teaches the others.
      smallest: code of the part that is trained at each step beside it.
      random: further parts, each drawn from the pool.

    Raises:
      ValueError: less than no further part.
    """

    largest: tuple[int, ...]
    smallest: tuple[int, ...]
    random: int = 2

    def __post_init__(self) -> None:
        if self.random < 0:
            raise ValueError(f"random must not be negative; got {self.random}")

    def check(self, space: SearchSpace, recipe: Recipe) -> None:
        """Checks the codes against the space, and that a step has no other passes.

        Raises:
          ValueError: says what does not fit.
        """
        if recipe.passes != 1:
            raise ValueError(f"passes must be 1 with a sandwich, which has its own; got {recipe.passes}")
        for name, code in (("largest", self.largest), ("smallest", self.smallest)):
            try:
                checked = space.check([code])
            except ValueError as error:
                raise ValueError(f"the sandwich's {name} part: {error}") from error
            if not np.asarray(space.valid(checked))[0]:
                raise ValueError(f"the sandwich's {name} part: {code} is not valid in the space")

    def network(self, supernet: Supernet, pool: Int[np.ndarray, "m dims"]) -> "SandwichSupernet":
        """A supernet as it is trained."""
        ends = np.asarray(supernet.space.canonical(np.array([self.largest, self.smallest], np.int32)))
        return SandwichSupernet(supernet, {"pool": pool, "largest": ends[0], "smallest": ends[1]}, self.random)


class SandwichCodes(TypedDict):
    """Codes that are data to the program."""

    pool: Int[Array | np.ndarray, "m dims"]
    largest: Int[Array | np.ndarray, " dims"]
    smallest: Int[Array | np.ndarray, " dims"]


@dataclasses.dataclass(frozen=True)
class SandwichSupernet:
    """A supernet as `lanas_jax.trainer` trains networks: it says itself what a step descends.

    Two of one supernet and as many random parts are equal, whatever their codes: they share programs.

    Args:
      supernet: what is trained.
      data: the codes.
      random: parts drawn from the pool at each step.
    """

    supernet: Supernet
    data: SandwichCodes = dataclasses.field(compare=False)
    random: int

    @property
    def space(self) -> SearchSpace:
        """The space of the codes."""
        return self.supernet.space

    def with_data(self, data: SandwichCodes) -> "SandwichSupernet":
        """The same with other codes."""
        return SandwichSupernet(self.supernet, data, self.random)

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
        """Logits of the largest part; nothing is drawn and no path is dropped."""
        del key, drop_path
        largest = jnp.asarray(self.data["largest"])
        logits, batch_stats = self.supernet.apply(params, batch_stats, largest, images, train=train)
        return logits, None, batch_stats

    def gradient(
        self,
        weights: Weights,
        images: Float[Array, "n height width channels"],
        targets: Float[Array, "n classes"],
        key: PRNGKeyArray,
    ) -> tuple[Float[Array, ""], BatchStats, Params]:
        """Means of loss and gradient over the passes, and the batch statistics after the last one. The key is consumed.

        The targets of the first pass are the labels, those of all others the probabilities that it gave.
        """
        codes = self.drawn(key)

        def objective(
            params: Params, batch_stats: BatchStats, code: Array, targets: Array
        ) -> tuple[Array, tuple[Array, BatchStats]]:
            logits, batch_stats = self.supernet.apply(params, batch_stats, code, images, train=True)
            logits = logits.astype(jnp.float32)
            return cross_entropy(logits, targets).mean(), (jax.nn.softmax(logits), batch_stats)

        def add(carry: tuple[Array, BatchStats, Params, Array], one: tuple[Array, Array]) -> tuple[tuple, None]:
            loss, batch_stats, total, targets = carry
            code, first = one
            found, gradient = jax.value_and_grad(objective, has_aux=True)(weights.params, batch_stats, code, targets)
            more, (said, batch_stats) = found
            total = jax.tree.map(jnp.add, total, gradient)
            return (loss + more, batch_stats, total, jnp.where(first, said, targets)), None

        nothing = (jnp.float32(0), weights.batch_stats, jax.tree.map(jnp.zeros_like, weights.params), targets)
        (loss, batch_stats, total, _), _ = lax.scan(add, nothing, (codes, jnp.arange(len(codes)) == 0))
        return loss / len(codes), batch_stats, jax.tree.map(lambda total: total / len(codes), total)

    def drawn(self, key: PRNGKeyArray) -> Int[Array, "passes dims"]:
        """The codes of a step, in the order of its passes. The key is consumed."""
        pool = jnp.asarray(self.data["pool"])
        rows = jax.random.randint(key, (self.random,), 0, len(pool))
        return jnp.concatenate([jnp.stack([self.data["largest"], self.data["smallest"]]), pool[rows]])
