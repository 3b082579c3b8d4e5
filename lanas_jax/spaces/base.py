"""Search spaces: what may be built, written as integers.

A space is a product of named categorical choices (section 3 of arXiv 1906.06832 calls it Omega). A *code* picks one
option of every choice: ``int32[dims]``; a batch of codes is ``int32[n, dims]``. Everything the learning and search
phases need to know about architectures passes through five methods of `SearchSpace`: `features`, `valid`, `canonical`,
`cost` and `describe`. They are pure functions of arrays, so that the searchers can be jitted around them. A space with
hard limits says by `starting_codes` where valid codes are, and by `limited` how close to the limits they come.

What builds networks from codes lives in `models/`; which code to try next, in `searchers/`.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

Codes = Int[Array | np.ndarray, "n dims"]
Values = Float[Array | np.ndarray, " values"]


@dataclasses.dataclass(frozen=True)
class Choice:
    """One categorical decision: a name and its options.

    Args:
      name: what is decided, unique within a space.
      options: the alternatives, at least one, all different; an option's position is the integer that stands in codes.
        Anything whose ``str`` tells it apart will do; numbers are kept as text.

    Raises:
      ValueError: no option, or an option twice.
    """

    name: str
    options: tuple[str, ...]

    def __init__(self, name: str, options: Iterable[object]):
        object.__setattr__(self, "name", str(name))
        object.__setattr__(self, "options", tuple(str(option) for option in options))
        if not self.options:
            raise ValueError(f"choice {self.name!r} has no options: give at least one")
        if len(set(self.options)) != len(self.options):
            raise ValueError(f"choice {self.name!r} lists an option twice: {self.options}")

    @property
    def ordered(self) -> bool:
        """Whether the options are a scale: three or more ascending numbers, such as widths or depths."""
        try:
            numbers = [float(option) for option in self.options]
        except ValueError:
            return False
        return len(numbers) > 2 and numbers == sorted(numbers)


class Cost(NamedTuple):
    """What networks cost: exact integers, one per code."""

    multiply_adds: np.ndarray  # int64[n], multiply-adds of one forward pass of one input
    parameters: np.ndarray  # int64[n], trainable parameters


class LimitedCost(NamedTuple):
    """A cost on which a space has a hard limit."""

    name: str  # such as "multiply-adds"
    limit: int
    costs: np.ndarray  # int64[n]: of networks, exact


class CellGraph(NamedTuple):
    """A cell as a drawing needs it: named nodes and labelled edges from node to node (indices into `nodes`)."""

    name: str
    nodes: tuple[str, ...]
    edges: tuple[tuple[int, int, str], ...]


SHARED = 0.4  # share of the prior variance that choices with the same options have in common
CURVATURE = 2.0  # of the squared-exponential covariance over an ordered choice's scale, which runs from 0 to 1


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """A product of categorical choices.

    Used as it is for any product space; a space with structure (graphs, equivalent codes, costs) overrides `features`,
    `valid`, `canonical`, `cost` and `graphs`. Instances are hashable, hence static under `jax.jit`.

    Args:
      choices: the decisions, in the order in which they stand in a code.

    Raises:
      ValueError: no choice, or two choices of the same name.
    """

    choices: tuple[Choice, ...]

    def __init__(self, choices: Iterable[Choice]):
        object.__setattr__(self, "choices", tuple(choices))
        if not self.choices:
            raise ValueError("a search space needs at least one choice")
        names = [choice.name for choice in self.choices]
        if len(set(names)) != len(names):
            raise ValueError(f"two choices share a name: {names}")

    @property
    def dims(self) -> int:
        """Length of a code."""
        return len(self.choices)

    @property
    def cardinalities(self) -> np.ndarray:
        """Number of options of each choice, int32[dims]."""
        return np.array([len(choice.options) for choice in self.choices], np.int32)

    @property
    def size(self) -> int:
        """Number of codes of the whole product, valid or not; exact however large."""
        return math.prod(len(choice.options) for choice in self.choices)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """A name for each column of `features`, such as ``op0=skip`` or ``width>=32``."""
        return tuple(
            f"{choice.name}{'>=' if choice.ordered else '='}{option}"
            for choice in self.choices
            for option in choice.options[int(choice.ordered) :]
        )

    def features(self, codes: Codes) -> Float[Array, "n d"]:
        """What the tree's regressors see: small integers. Equivalent codes have equal features.

        Choice after choice, one-hot; of an ordered choice, whether the option is at or above each one but the first, so
        that a penalty on weights asks for small steps from option to option.
        """
        ordered = np.array([choice.ordered for choice in self.choices])
        options = np.arange(int(self.cardinalities.max()), dtype=np.int32)
        listed = (options >= ordered[:, None]) & (options < self.cardinalities[:, None])  # which of them have a column
        codes = jnp.asarray(codes)[:, :, None]
        taken = (codes == options[None, None]) | (ordered[None, :, None] & (codes > options[None, None]))
        columns = taken.reshape(taken.shape[0], -1).astype(jnp.float32)
        return columns if listed.all() else columns[:, np.flatnonzero(listed.ravel())]

    def embed(self, codes: Codes) -> Float[Array, "n e"]:
        """Where codes lie relative to each other: inner products say how much their values have in common a priori.

        Squared norms are about 1; equivalent codes lie in one place. The `terms` of a code, each times its row of
        `term_embedding`, summed; a space overrides these two.
        """
        return jnp.matmul(self.terms(codes), self.term_embedding, precision="highest")

    def terms(self, codes: Codes) -> Float[Array, "n t"]:
        """What a code's embedding is a weighted sum of: here its options, one-hot, in as many columns per choice."""
        options = np.arange(int(self.cardinalities.max()), dtype=np.int32)
        taken = self.canonical(codes)[:, :, None] == options[None, None]
        return taken.reshape(taken.shape[0], -1).astype(jnp.float32)

    @property
    def term_embedding(self) -> Float[np.ndarray, "t e"]:
        """Where each term lies.

        Here a part for each choice (options of an ordered choice are the closer the nearer they stand on its scale),
        and a part for how often an option was taken by any of the choices that offer the same ones.
        """
        return _embedding(self)

    @property
    def embedding_size(self) -> int:
        """Number of columns of `embed`."""
        return self.term_embedding.shape[1]

    def valid(self, codes: Codes) -> Bool[Array, " n"]:
        """Whether each code may be built: integers within range, and every rule and cost limit of the space."""
        codes = jnp.asarray(codes)
        return jnp.all((codes >= 0) & (codes < self.cardinalities[None]), axis=1)

    def canonical(self, codes: Codes) -> Int[Array, "n dims"]:
        """One representative for each class of codes that build the same network; idempotent."""
        return jnp.asarray(codes, jnp.int32)

    def cost(self, codes: Codes) -> Cost:
        """Multiply-adds and parameters of each network.

        Raises:
          NotImplementedError: this space does not say what its networks cost.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what its networks cost")

    def limited(self, codes: Codes) -> tuple[LimitedCost, ...]:
        """The costs on which the space has a hard limit, of each network; none in most spaces."""
        del codes
        return ()

    @property
    def named_codes(self) -> Mapping[str, tuple[int, ...]]:
        """Codes that go by a name, where commands are given one."""
        return {}

    def starting_codes(self) -> Int[np.ndarray, "k dims"]:
        """Valid canonical codes to walk from, for a space in which random codes are hardly ever valid; else none."""
        return np.zeros((0, self.dims), np.int32)

    def describe(self, code: Int[Array | np.ndarray, " dims"]) -> str:
        """The code in words, a line per choice."""
        self.check(np.asarray(code)[None])
        width = max(len(choice.name) for choice in self.choices)
        return "\n".join(
            f"{choice.name:<{width}}  {choice.options[int(i)]}" for choice, i in zip(self.choices, code, strict=True)
        )

    def graphs(self, code: Int[Array | np.ndarray, " dims"]) -> tuple[CellGraph, ...]:
        """The cells of the network as graphs to draw; empty where the space has no graph."""
        del code
        return ()

    def check(self, codes: object) -> Int[np.ndarray, "n dims"]:
        """Codes from outside, checked at the door.

        Args:
          codes: anything `numpy` reads as integers of shape ``[n, dims]``.

        Returns:
          The codes as ``int32[n, dims]``.

        Raises:
          ValueError: a wrong shape, a non-integer, or an integer out of range; names the row, the position, the value
            and the range.
        """
        array = np.asarray(codes)
        if array.ndim != 2 or array.shape[1] != self.dims:
            raise ValueError(f"codes must have shape [n, {self.dims}], one integer per choice; got shape {array.shape}")
        if array.size and not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"codes must be integers; got {array.dtype}")
        wrong = (array < 0) | (array >= self.cardinalities)
        if wrong.any():
            row, position = map(int, np.argwhere(wrong)[0])
            choice = self.choices[position]
            raise ValueError(
                f"code {row}: position {position} ({choice.name}) holds {array[row, position]}, "
                f"expected 0 to {len(choice.options) - 1} ({', '.join(choice.options)})"
            )
        return array.astype(np.int32)

    def _set_sizes(self, **sizes: int) -> None:
        """Sets fields of a space that count something: for the constructors of frozen spaces.

        Raises:
          ValueError: a size below one.
        """
        for name, value in sizes.items():
            object.__setattr__(self, name, value)
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")

    def random(self, key: PRNGKeyArray, n: int) -> Int[Array, "n dims"]:
        """`n` codes drawn uniformly from the product, valid or not. The key is consumed."""
        return jax.random.randint(key, (n, self.dims), 0, self.cardinalities[None], dtype=jnp.int32)

    def enumerate(self) -> Int[np.ndarray, "n dims"]:
        """Every valid canonical code once, in ascending order.

        Raises:
          ValueError: the product has more than 2**24 codes.
        """
        if self.size > 2**24:
            raise ValueError(f"a space of {self.size:.3g} codes is too large to list")
        grid = np.stack(np.unravel_index(np.arange(self.size), self.cardinalities), axis=1).astype(np.int32)
        grid = grid[np.asarray(self.valid(grid))]
        return np.unique(np.asarray(self.canonical(grid)), axis=0)


@functools.lru_cache(maxsize=64)
def _embedding(space: SearchSpace) -> np.ndarray:
    """`SearchSpace.term_embedding` of a product space; 0 for options that a choice does not have."""
    groups = list(dict.fromkeys(choice.options for choice in space.choices))
    own, shared = [], [np.zeros((0, 0))] * len(groups)
    for choice in space.choices:
        root = _root_covariance(choice)
        own.append(root * math.sqrt((1 - SHARED) / space.dims))
        members = sum(other.options == choice.options for other in space.choices)
        shared[groups.index(choice.options)] = root * math.sqrt(SHARED / (space.dims * members))
    starts = np.cumsum([0] + [len(block) for block in own + shared])
    columns, most = [], int(space.cardinalities.max())
    for i, choice in enumerate(space.choices):
        rows = np.zeros((most, starts[-1]), np.float32)
        for part, block in (
            (i, own[i]),
            (space.dims + groups.index(choice.options), shared[groups.index(choice.options)]),
        ):
            rows[: len(block), starts[part] : starts[part] + len(block)] = block
        columns.append(rows)
    return np.concatenate(columns)


def _root_covariance(choice: Choice) -> np.ndarray:
    """A symmetric square root of the prior covariance of the options' effects."""
    n = len(choice.options)
    if not choice.ordered:
        return np.eye(n)
    scale = np.linspace(0, 1, n)
    values, vectors = np.linalg.eigh(np.exp(-CURVATURE * np.square(scale[:, None] - scale)))
    return vectors * np.sqrt(np.maximum(values, 0))
