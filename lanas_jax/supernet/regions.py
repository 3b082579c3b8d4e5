"""Dividing a space among sub-supernets: few-shot search (Zhao et al., arXiv 2006.06863).

Weights that fewer architectures share are better estimates of each one's own. That paper gives each operation of one
edge a supernet of its own (`OptionSplit`). A tree as LaNAS learns (`lanas_jax.searchers.partition`) is a split as well,
by what told good architectures from bad ones rather than by a choice made beforehand (`TreeSplit`).
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from lanas_jax.searchers import partition
from lanas_jax.searchers.partition import PartitionTree
from lanas_jax.searchers.surrogate import normal_scores
from lanas_jax.spaces.base import SearchSpace
from lanas_jax.supernet import code_pool

Codes = Int[np.ndarray, "n dims"]
Value = Callable[[Codes], Float[np.ndarray, " n"]]


@runtime_checkable
class Regions(Protocol):
    """A space in disjoint parts."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the regions, in order."""
        ...

    def of(self, codes: Codes) -> Int[np.ndarray, " n"]:
        """The region of each canonical code, an index into `names`."""
        ...


@runtime_checkable
class RegionSplit(Protocol):
    """How to divide a space."""

    @property
    def samples(self) -> int:
        """Codes whose values it wants to know first."""
        ...

    def regions(self, space: SearchSpace, codes: Codes, values: Float[np.ndarray, " n"]) -> Regions:
        """The regions, given `samples` codes and their values (NaN: none)."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class OptionRegions:
    """The options of one choice.

    Attributes:
      space: that is divided.
      position: of the choice in a code.
    """

    space: SearchSpace
    position: int

    @property
    def names(self) -> tuple[str, ...]:
        """Choice and option."""
        choice = self.space.choices[self.position]
        return tuple(f"{choice.name}: {option}" for option in choice.options)

    def of(self, codes: Codes) -> Int[np.ndarray, " n"]:
        """The option of each code."""
        return np.asarray(codes)[:, self.position]


@dataclasses.dataclass(frozen=True)
class OptionSplit:
    """By one choice, as the few-shot paper divides a space by the operations of one edge.

    Args:
      choice: its name.
    """

    choice: str
    samples: int = dataclasses.field(default=0, init=False)

    def regions(self, space: SearchSpace, codes: Codes, values: Float[np.ndarray, " n"]) -> OptionRegions:
        """A region for each option.

        Raises:
          ValueError: no choice of that name; lists those there are.
        """
        names = [choice.name for choice in space.choices]
        if self.choice not in names:
            raise ValueError(f"there is no choice {self.choice!r}. There are: {', '.join(names)}")
        return OptionRegions(space, names.index(self.choice))


@dataclasses.dataclass(frozen=True, eq=False)
class TreeRegions:
    """The leaves of a tree.

    Attributes:
      space: that is divided.
      tree: learned from values.
    """

    space: SearchSpace
    tree: PartitionTree

    @property
    def leaves(self) -> Int[np.ndarray, " leaves"]:
        """Heap indices, from the best region to the worst."""
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
        """The path to each leaf."""
        return tuple(_path(leaf) for leaf in self.leaves.tolist())

    def of(self, codes: Codes) -> Int[np.ndarray, " n"]:
        """The leaf that each code is sent to."""
        leaf = np.asarray(partition.route(self.tree, self.space.features(jnp.asarray(codes))))
        return np.argmax(leaf[:, None] == self.leaves, axis=1)


@dataclasses.dataclass(frozen=True)
class TreeSplit:
    """By a tree learned from the values that random codes have in the one-shot supernet.

    Args:
      depth: levels of splits; there are at most ``2**depth`` regions.
      samples: random codes to learn from.
      min_samples: with fewer of them a node is not split.
      ridge: penalty of the tree's regressions.

    Raises:
      ValueError: a depth or a number of samples below one.
    """

    depth: int = 2
    samples: int = 256
    min_samples: int = 10
    ridge: float = 20.0

    def __post_init__(self) -> None:
        for name in ("depth", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")

    def regions(self, space: SearchSpace, codes: Codes, values: Float[np.ndarray, " n"]) -> TreeRegions:
        """The leaves of the tree."""
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
    """Random codes and their values, as many as a split wants to know."""
    if not split.samples:
        return np.zeros((0, space.dims), np.int32), np.zeros(0, np.float32)
    codes = code_pool.draw(space, split.samples, seed)
    return codes, value(codes)


def _path(leaf: int) -> str:
    """Such as ``good, bad``: the sides taken from the root."""
    sides: list[str] = []
    while leaf:
        sides.append("good" if leaf % 2 else "bad")
        leaf = (leaf - 1) // 2
    return ", ".join(reversed(sides)) or "all"
