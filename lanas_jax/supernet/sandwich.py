"""Training a supernet by the sandwich rule with in-place distillation (arXiv 1903.05134; BigNAS, arXiv 2003.11142).

A step trains the largest subnetwork on the labels, then the smallest one and some random ones on the probabilities
predicted by the largest one, all on the same augmented images. The accuracies of all subnetworks lie between those of
the largest and the smallest, so training these two bounds all others. The predictions of the largest subnetwork are
constants to the others: no gradient flows back through them. The gradient is the sum over all passes, as published, or
their mean, as for a recipe's `passes`: a sum is a mean at a learning rate multiplied by the number of passes, but for
clipping and weight decay. Only the largest subnetwork, which learns from the labels, has dropout and drop-path
(BigNAS, section 3; AttentiveNAS, arXiv 2011.09011).

Each pass normalises by the statistics of the batch in its own subnetwork. The running statistics mix all passes, as in
any supernet, and fit no subnetwork, not even the largest. `lanas_jax.supernet.valuation` measures them for each code.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from lanas_jax.supernet.base import HasVariants, Supernet
from lanas_jax.supernet.drawing import DrawingSupernet
from lanas_jax.trainer.recipe import Recipe
from lanas_jax.trainer.task import BatchStats, FinalNetwork, Params, StepPass, Weights
from lanas_jax.training.sgd import cross_entropy


@dataclasses.dataclass(frozen=True)
class Sandwich:
    """The subnetworks trained in each step.

    Args:
      largest: code of the subnetwork that learns from the labels and teaches the others.
      smallest: code of the smallest subnetwork, trained in each step.
      random: number of additional subnetworks per step, drawn from the pool.
      gradient: combination of the gradients of a step's passes, their sum or their mean.
      dropout: probability with which the largest subnetwork drops inputs of its classifier.
      drop_path: probability with which it drops its last residual block, lower for earlier blocks.

    Raises:
      ValueError: `random` is negative, or a probability is out of range.
    """

    largest: tuple[int, ...]
    smallest: tuple[int, ...]
    random: int = 2
    gradient: Literal["mean", "sum"] = "mean"
    dropout: float = 0.0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        if self.random < 0:
            raise ValueError(f"random must not be negative; got {self.random}")
        if self.gradient not in ("mean", "sum"):
            raise ValueError(f"gradient must be 'mean' or 'sum'; got {self.gradient!r}")
        for name in ("dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1); got {getattr(self, name)}")

    def check(self, supernet: Supernet, recipe: Recipe) -> None:
        """Checks that the codes are in the space and that the recipe has one pass per step.

        Raises:
          ValueError: the sandwich does not fit the supernet or the recipe; the message states the cause.
        """
        space = supernet.space
        if recipe.passes != 1:
            raise ValueError(f"passes must be 1 with a sandwich, which defines its own passes; got {recipe.passes}")
        for name, code in (("largest", self.largest), ("smallest", self.smallest)):
            try:
                checked = space.check([code])
            except ValueError as error:
                raise ValueError(f"the sandwich's {name} subnetwork: {error}") from error
            if not np.asarray(space.valid(checked))[0]:
                raise ValueError(f"the sandwich's {name} subnetwork: {code} is not valid in the space")
        if self._regularizes:
            if not isinstance(supernet, HasVariants):
                raise ValueError(
                    f"dropout and drop_path of a sandwich must be 0 with a {type(supernet).__name__}, which has no "
                    "largest subnetwork of its own"
                )
            if (largest := tuple((space.cardinalities - 1).tolist())) != self.largest:
                raise ValueError(
                    f"dropout and drop_path need the supernet's largest subnetwork, {largest}; got {self.largest}"
                )

    @property
    def _regularizes(self) -> bool:
        return bool(self.dropout or self.drop_path)

    def network(self, supernet: Supernet, pool: Int[np.ndarray, "m dims"]) -> "SandwichSupernet":
        """Returns the supernet in the form that the trainer trains."""
        ends = np.asarray(supernet.space.canonical(np.array([self.largest, self.smallest], np.int32)))
        codes: SandwichCodes = {"pool": pool, "largest": ends[0], "smallest": ends[1]}
        plain = None
        if isinstance(supernet, HasVariants):
            whole = self.largest == tuple((supernet.space.cardinalities - 1).tolist())
            largest = supernet.largest(self.dropout) if whole else supernet.standalone(np.array(self.largest))
            smallest = supernet.standalone(np.array(self.smallest))
            plain = PlainPart(supernet, self.largest, largest), PlainPart(supernet, self.smallest, smallest)
        return SandwichSupernet(supernet, codes, self.random, self.gradient == "sum", plain, self.drop_path)


@dataclasses.dataclass(frozen=True)
class PlainPart:
    """A subnetwork as a network of its own, which reads its slices of a supernet's weights.

    Attributes:
      supernet: supernet with the weights.
      code: code of the subnetwork.
      network: subnetwork.
    """

    supernet: HasVariants
    code: tuple[int, ...]
    network: FinalNetwork

    def apply(
        self,
        params: Params,
        batch_stats: BatchStats,
        images: Float[Array, "n height width channels"],
        key: PRNGKeyArray,
        drop_path: float,
    ) -> tuple[Float[Array, "n classes"], BatchStats]:
        """Returns logits in training and the supernet's updated batch statistics. The key is consumed."""
        assert isinstance(self.supernet, Supernet)
        code = np.array(self.code, np.int32)
        logits, _, own = self.network.apply(
            *self.supernet.extract(params, batch_stats, code),
            images,
            train=True,
            key=key,
            drop_path=jnp.float32(drop_path),
        )
        return logits, self.supernet.with_statistics(batch_stats, own, code)


class SandwichCodes(TypedDict):
    """The codes of a sandwich, as data to the program."""

    pool: Int[Array | np.ndarray, "m dims"]
    largest: Int[Array | np.ndarray, " dims"]
    smallest: Int[Array | np.ndarray, " dims"]


@dataclasses.dataclass(frozen=True)
class SandwichSupernet(DrawingSupernet):
    """A supernet in the form that `lanas_jax.trainer` trains, with a gradient of its own.

    Two instances that differ only in their pools are equal and share programs. Without variants, the codes of the two
    ends are data, too.

    Args:
      supernet: supernet to train.
      data: codes of the sandwich.
      random: number of subnetworks drawn from the pool in each step.
      sums: True for the sum of the gradients of all passes, False for their mean.
      plain: largest and smallest subnetwork as networks of their own; None if the supernet has no variants. The
        largest one may drop inputs of its classifier.
      drop_path: drop-path probability of the largest one.
    """

    data: SandwichCodes = dataclasses.field(compare=False)
    random: int
    sums: bool = False
    plain: tuple[PlainPart, PlainPart] | None = None
    drop_path: float = 0.0

    def with_data(self, data: SandwichCodes) -> "SandwichSupernet":
        """Returns the same network with other codes."""
        return dataclasses.replace(self, data=data)

    def code(self, key: PRNGKeyArray) -> Int[Array, " dims"]:
        """Returns the code of the largest subnetwork; `key` is ignored."""
        del key
        return jnp.asarray(self.data["largest"])

    def gradient(
        self,
        weights: Weights,
        images: Float[Array, "n height width channels"],
        targets: Float[Array, "n classes"],
        key: PRNGKeyArray,
        noise: PRNGKeyArray,
    ) -> tuple[Float[Array, ""], BatchStats, Params]:
        """Returns mean loss, batch statistics after the last pass, and sum or mean of the gradients.

        The targets of the first pass are the labels; those of the other passes are its predicted probabilities. `key`
        draws the codes, and `noise` what the largest subnetwork drops; both are consumed.
        """
        codes = self.drawn(key)

        def add(carry: tuple[Array, BatchStats, Params, Array], one: tuple[Array, Array]) -> tuple[tuple, None]:
            loss, batch_stats, total, targets = carry
            code, first = one

            def logits_of(params: Params, batch_stats: BatchStats) -> tuple[Array, BatchStats]:
                return self.supernet.apply(params, batch_stats, code, images, train=True)

            more, batch_stats, gradient, said = _taught(logits_of, Weights(weights.params, batch_stats), targets)
            total = jax.tree.map(jnp.add, total, gradient)
            return (loss + more, batch_stats, total, jnp.where(first, said, targets)), None

        first = jnp.arange(len(codes)) == 0
        if self.plain is None:
            nothing = jax.tree.map(jnp.zeros_like, weights.params)
            carry = (jnp.float32(0), weights.batch_stats, nothing, targets)
        else:
            carry = self.first_pass(weights, images, targets, noise)
            codes, first = codes[1:], first[1:]
        (loss, batch_stats, total, _), _ = lax.scan(add, carry, (codes, first))
        loss, total = self.combined(loss, total)
        return loss, batch_stats, total

    @property
    def pass_programs(self) -> tuple[str, ...]:
        """Names of the programs of the passes: of the two ends, and of each variant for random codes."""
        if self.plain is None or not isinstance(self.supernet, HasVariants):
            return ()
        return "largest", "smallest", *(f"random, {name}" for name in self.supernet.variants if self.random)

    def passes(self, keys: Key[Array, " steps"]) -> list[list[StepPass]]:
        """Returns the passes of several steps: largest, smallest, and random ones as drawn. The keys are consumed."""
        largest, smallest, pool = (np.asarray(self.data[name]) for name in ("largest", "smallest", "pool"))
        ends = [StepPass("largest", largest), StepPass("smallest", smallest)]
        return [
            [*ends, *(StepPass(self.program_of(code), code) for code in pool[rows])]
            for rows in np.asarray(_rows_of_steps(keys, self.random, len(pool)))
        ]

    def program_of(self, code: Int[np.ndarray, " dims"]) -> str:
        """Returns the name of the program that runs a random code."""
        assert isinstance(self.supernet, HasVariants)
        return self.pass_programs[2 + self.supernet.variant(code)]

    def first_pass(
        self,
        weights: Weights,
        images: Float[Array, "n height width channels"],
        targets: Float[Array, "n classes"],
        noise: PRNGKeyArray,
    ) -> tuple[Float[Array, ""], BatchStats, Params, Float[Array, "n classes"]]:
        """Returns loss, statistics, gradient and predicted probabilities of the largest subnetwork."""
        assert self.plain is not None
        largest = self.plain[0]
        return _taught(
            lambda params, stats: largest.apply(params, stats, images, noise, self.drop_path), weights, targets
        )

    def later_pass(
        self,
        program: str,
        weights: Weights,
        images: Float[Array, "n height width channels"],
        taught: Float[Array, "n classes"],
        code: Int[Array, " dims"],
    ) -> tuple[Float[Array, ""], BatchStats, Params]:
        """Returns loss, statistics and gradient of the smallest subnetwork or of a random one."""
        assert self.plain is not None
        assert isinstance(self.supernet, HasVariants)
        supernet, smallest, index = self.supernet, self.plain[1], self.pass_programs.index(program)

        def logits_of(params: Params, batch_stats: BatchStats) -> tuple[Array, BatchStats]:
            if index == 1:
                return smallest.apply(params, batch_stats, images, jax.random.key(0), 0.0)
            return supernet.apply_variant(index - 2, params, batch_stats, code, images, train=True)

        return _taught(logits_of, weights, taught)[:3]

    def combined(self, loss: Float[Array, ""], gradient: Params) -> tuple[Float[Array, ""], Params]:
        """Returns the mean loss, and the sum or the mean of the gradients."""
        passes = 2 + self.random
        return loss / passes, gradient if self.sums else jax.tree.map(lambda total: total / passes, gradient)

    def drawn(self, key: PRNGKeyArray) -> Int[Array, "passes dims"]:
        """Draws the codes of a step, in the order of its passes. The key is consumed."""
        pool = jnp.asarray(self.data["pool"])
        ends = jnp.stack([self.data["largest"], self.data["smallest"]])
        return jnp.concatenate([ends, pool[_drawn_rows(key, self.random, len(pool))]])


def _drawn_rows(key: PRNGKeyArray, random: int, count: int) -> Int[Array, " random"]:
    """Draws rows of a pool of `count` codes."""
    return jax.random.randint(key, (random,), 0, count)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _rows_of_steps(keys: Key[Array, " steps"], random: int, count: int) -> Int[Array, "steps random"]:
    return jax.vmap(lambda key: _drawn_rows(key, random, count))(keys)


def _taught(
    logits_of: Callable[[Params, BatchStats], tuple[Array, BatchStats]],
    weights: Weights,
    targets: Float[Array, "n classes"],
) -> tuple[Float[Array, ""], BatchStats, Params, Float[Array, "n classes"]]:
    """Returns loss, batch statistics, gradient and predicted probabilities of one pass."""

    def objective(params: Params) -> tuple[Array, tuple[Array, BatchStats]]:
        logits, batch_stats = logits_of(params, weights.batch_stats)
        logits = logits.astype(jnp.float32)
        return cross_entropy(logits, targets).mean(), (jax.nn.softmax(logits), batch_stats)

    (loss, (said, batch_stats)), gradient = jax.value_and_grad(objective, has_aux=True)(weights.params)
    return loss, batch_stats, gradient, said
