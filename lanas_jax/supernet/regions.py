"""Dividing a space among sub-supernets: few-shot search (Zhao et al., arXiv 2006.06863).

Weights shared by fewer architectures estimate each architecture better. The paper trains one supernet per operation of
one edge (`OptionSplit`). A LaNAS tree (`lanas_jax.searchers.partition`) also splits a space: it separates good from bad
architectures and needs no choice made in advance (`TreeSplit`).
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from lanas_jax.runtime.arithmetic import nan_is_data
from lanas_jax.searchers import partition
from lanas_jax.searchers.partition import PartitionTree
from lanas_jax.searchers.surrogate import normal_scores
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.supernet import code_pool

Codes = Int[np.ndarray, "n dims"]
Value = Callable[[Codes], Float[np.ndarray, " n"]]


@runtime_checkable
class Regions(Protocol):
    """A partition of a space into disjoint regions."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the regions, in order."""
        ...

    def of(self, codes: Codes) -> Int[np.ndarray, " n"]:
        """Returns the region of each canonical code as an index into `names`."""
        ...


@runtime_checkable
class RegionSplit(Protocol):
    """A method that divides a space."""

    @property
    def samples(self) -> int:
        """Number of codes with values that the split needs."""
        ...

    def regions(self, space: SearchSpace, codes: Codes, values: Float[np.ndarray, " n"]) -> Regions:
        """Returns the regions, given `samples` codes and their values (NaN: no value)."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class OptionRegions:
    """One region per option of a choice.

    Attributes:
      space: divided space.
      position: index of the choice in a code.
    """

    space: SearchSpace
    position: int

    @property
    def names(self) -> tuple[str, ...]:
        """Names such as ``choice: option``."""
        choice = self.space.choices[self.position]
        return tuple(f"{choice.name}: {option}" for option in choice.texts)

    def of(self, codes: Codes) -> Int[np.ndarray, " n"]:
        """Returns the option of each code."""
        return np.asarray(codes)[:, self.position]


@dataclasses.dataclass(frozen=True)
class OptionSplit:
    """Split by the options of one choice, as the few-shot paper splits by the operations of one edge.

    Args:
      choice: name of the choice.
    """

    choice: str
    samples: int = dataclasses.field(default=0, init=False)

    def regions(self, space: SearchSpace, codes: Codes, values: Float[np.ndarray, " n"]) -> OptionRegions:
        """Returns one region per option.

        Raises:
          ValueError: the space has no choice of that name; the message lists the choices.
        """
        names = [choice.name for choice in space.choices]
        if self.choice not in names:
            raise ValueError(f"unknown choice {self.choice!r}; choose from {', '.join(names)}")
        return OptionRegions(space, names.index(self.choice))


@dataclasses.dataclass(frozen=True, eq=False)
class TreeRegions:
    """One region per leaf of a tree.

    Attributes:
      space: divided space.
      tree: partition tree learned from values.
    """

    space: SearchSpace
    tree: PartitionTree

    @property
    def leaves(self) -> Int[np.ndarray, " leaves"]:
        """Heap indices of the leaves, from the best region to the worst."""
        is_split = np.asarray(self.tree.is_split)
        leaves: list[int] = []

        def collect(node: int) -> None:
            if node < len(is_split) and is_split[node]:
                collect(2 * node + 1)
                collect(2 * node + 2)
            else:
                leaves.append(node)

        collect(0)
        return np.array(leaves)

    @property
    def names(self) -> tuple[str, ...]:
        """Paths from the root to the leaves."""
        return tuple(_path(leaf) for leaf in self.leaves.tolist())

    @nan_is_data
    def of(self, codes: Codes) -> Int[np.ndarray, " n"]:
        """Returns the region of each code, by routing it to its leaf."""
        leaf = np.asarray(partition.route(self.tree, self.space.features(jnp.asarray(codes))))
        return np.argmax(leaf[:, None] == self.leaves, axis=1)


@dataclasses.dataclass(frozen=True)
class TreeSplit:
    """Split by a tree learned from the values of random codes in the one-shot supernet.

    Args:
      depth: number of levels of splits, giving at most ``2**depth`` regions.
      samples: number of random codes to learn the tree from.
      min_samples: smallest number of samples of a node that is split.
      ridge: ridge penalty of the tree's regressions.

    Raises:
      ValueError: `depth` or `samples` is less than 1.
    """

    depth: int = 2
    samples: int = 256
    min_samples: int = 10
    ridge: float = 20.0

    def __post_init__(self) -> None:
        for name in ("depth", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")

    @nan_is_data
    def regions(self, space: SearchSpace, codes: Codes, values: Float[np.ndarray, " n"]) -> TreeRegions:
        """Learns the tree and returns its leaves as regions."""
        done = jnp.isfinite(values)
        targets = normal_scores(jnp.where(done, values, 0.0), done)
        tree = _learn(
            space.features(jnp.asarray(codes)),
            targets,
            done,
            height=self.depth,
            min_samples=self.min_samples,
            ridge=self.ridge,
        )
        return TreeRegions(space, tree)


_learn = jax.jit(partition.learn_splits, static_argnames="height")


def sample(split: RegionSplit, space: SearchSpace, value: Value, seed: int) -> tuple[Codes, Float[np.ndarray, " n"]]:
    """Draws as many random codes as the split needs and returns them with their values."""
    if not split.samples:
        return np.zeros((0, space.dims), np.int32), np.zeros(0, np.float32)
    codes = code_pool.draw_codes(space, split.samples, seed)
    return codes, value(codes)


def _path(leaf: int) -> str:
    """Describes the path from the root to a leaf, such as ``good, bad``."""
    sides: list[str] = []
    while leaf:
        sides.append("good" if leaf % 2 else "bad")
        leaf = (leaf - 1) // 2
    return ", ".join(reversed(sides)) or "all"
