"""Training a supernet by the sandwich rule with in-place distillation (arXiv 1903.05134; BigNAS, arXiv 2003.11142).

A step trains the largest subnetwork on the labels, then the smallest one and some random ones on the probabilities
predicted by the largest one, all on the same augmented images. The accuracies of all subnetworks lie between those of
the largest and the smallest, so training these two bounds all others. The predictions of the largest subnetwork are
constants to the others: no gradient flows back through them. The gradient is the mean over all passes, as for a
recipe's `passes`. The published code uses the sum, which is equivalent at a learning rate divided by the number of
passes.

Each pass normalises by the statistics of the batch in its own subnetwork. The running statistics mix all passes, as in
any supernet, and fit no subnetwork, not even the largest. `lanas_jax.supernet.valuation` measures them for each code.
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
    """The subnetworks trained in each step.

    Args:
      largest: code of the subnetwork that learns from the labels and teaches the others.
      smallest: code of the smallest subnetwork, trained in each step.
      random: number of additional subnetworks per step, drawn from the pool.

    Raises:
      ValueError: `random` is negative.
    """

    largest: tuple[int, ...]
    smallest: tuple[int, ...]
    random: int = 2

    def __post_init__(self) -> None:
        if self.random < 0:
            raise ValueError(f"random must not be negative; got {self.random}")

    def check(self, space: SearchSpace, recipe: Recipe) -> None:
        """Checks that the codes are in the space and that the recipe has one pass per step.

        Raises:
          ValueError: the sandwich does not fit the space or the recipe; the message states the cause.
        """
        if recipe.passes != 1:
            raise ValueError(f"passes must be 1 with a sandwich, which defines its own passes; got {recipe.passes}")
        for name, code in (("largest", self.largest), ("smallest", self.smallest)):
            try:
                checked = space.check([code])
            except ValueError as error:
                raise ValueError(f"the sandwich's {name} subnetwork: {error}") from error
            if not np.asarray(space.valid(checked))[0]:
                raise ValueError(f"the sandwich's {name} subnetwork: {code} is not valid in the space")

    def network(self, supernet: Supernet, pool: Int[np.ndarray, "m dims"]) -> "SandwichSupernet":
        """Returns the supernet in the form that the trainer trains."""
        ends = np.asarray(supernet.space.canonical(np.array([self.largest, self.smallest], np.int32)))
        return SandwichSupernet(supernet, {"pool": pool, "largest": ends[0], "smallest": ends[1]}, self.random)


class SandwichCodes(TypedDict):
    """The codes of a sandwich, as data to the program."""

    pool: Int[Array | np.ndarray, "m dims"]
    largest: Int[Array | np.ndarray, " dims"]
    smallest: Int[Array | np.ndarray, " dims"]


@dataclasses.dataclass(frozen=True)
class SandwichSupernet:
    """A supernet in the form that `lanas_jax.trainer` trains, with a gradient of its own.

    Two instances with the same supernet and the same `random` are equal, whatever their codes, and share programs.

    Args:
      supernet: supernet to train.
      data: codes of the sandwich.
      random: number of subnetworks drawn from the pool in each step.
    """

    supernet: Supernet
    data: SandwichCodes = dataclasses.field(compare=False)
    random: int

    @property
    def space(self) -> SearchSpace:
        """The space of the codes."""
        return self.supernet.space

    @property
    def draws_codes(self) -> bool:
        """True: all devices must have the same key."""
        return True

    def with_data(self, data: SandwichCodes) -> "SandwichSupernet":
        """Returns the same network with other codes."""
        return SandwichSupernet(self.supernet, data, self.random)

    def init(self, key: PRNGKeyArray) -> tuple[Params, BatchStats]:
        """Returns initial weights and batch statistics of all subnetworks. The key is consumed."""
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
        """Returns logits of the largest subnetwork; `key` and `drop_path` are ignored."""
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
        """Returns mean loss, batch statistics after the last pass, and mean gradient. The key is consumed.

        The targets of the first pass are the labels; those of the other passes are its predicted probabilities.
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
        """Draws the codes of a step, in the order of its passes. The key is consumed."""
        pool = jnp.asarray(self.data["pool"])
        rows = jax.random.randint(key, (self.random,), 0, len(pool))
        return jnp.concatenate([jnp.stack([self.data["largest"], self.data["smallest"]]), pool[rows]])
