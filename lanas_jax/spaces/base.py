"""Search spaces: architectures written as integers.

A space is a product of named categorical choices (section 3 of arXiv 1906.06832 calls it Omega). A *code* selects one
option of every choice: ``int32[dims]``; a batch of codes is ``int32[n, dims]``. The learning and search phases see
architectures only through five methods of `SearchSpace`: `features`, `valid`, `canonical`, `cost` and `describe`.
They are pure functions of arrays, so searchers can be jitted around them. A space with hard limits lists valid codes
in `starting_codes` and the limited costs in `limited`.

`models/` builds networks from codes; `searchers/` decides which code to try next.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Reversible, Set
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lanas_jax.spaces.definition import define_fields

Codes = Int[Array | np.ndarray, "n dims"]
Values = Float[Array | np.ndarray, " values"]


@dataclasses.dataclass(frozen=True)
class Choice:
    """One categorical decision: a name and its options.

    Args:
      name: name of the decision, unique within a space.
      options: alternatives, at least one, all different; the position of an option is its integer in codes, so the
        options must have an order: a list, a tuple or another sequence, not a set. Options are converted to text by
        ``str``.

    Raises:
      ValueError: if the options have no order or can be read only once, there is no option, or an option is repeated.
    """

    name: str
    options: tuple[str, ...]

    def __init__(self, name: str, options: Iterable[object]):
        object.__setattr__(self, "name", str(name))
        _check_order(self.name, options)
        options = tuple(options)
        for i, option in enumerate(options):
            for earlier in options[:i]:
                if type(option) is not type(earlier) and _equal(option, earlier):
                    raise ValueError(
                        f"choice {self.name!r} has equal options {earlier!r} and {option!r}; options must be different"
                    )
        object.__setattr__(self, "options", tuple(str(option) for option in options))
        if not self.options:
            raise ValueError(f"choice {self.name!r} has no options: give at least one")
        if len(set(self.options)) != len(self.options):
            raise ValueError(f"choice {self.name!r} repeats an option: {self.options}; options must be different")

    @property
    def ordered(self) -> bool:
        """True if the options are three or more ascending numbers, such as widths or depths."""
        try:
            numbers = [float(option) for option in self.options]
        except ValueError:
            return False
        return len(numbers) > 2 and numbers == sorted(numbers)


class Cost(NamedTuple):
    """Costs of networks: exact integers, one per code."""

    multiply_adds: np.ndarray  # int64[n], multiply-adds of one forward pass of one input
    parameters: np.ndarray  # int64[n], trainable parameters


class LimitedCost(NamedTuple):
    """A cost with a hard limit."""

    name: str  # for example "multiply-adds"
    limit: int
    costs: np.ndarray  # int64[n], exact cost of each network


class CellGraph(NamedTuple):
    """A cell as a graph to draw: named nodes, and labelled edges between nodes (indices into `nodes`)."""

    name: str
    nodes: tuple[str, ...]
    edges: tuple[tuple[int, int, str], ...]


SHARED = 0.4  # share of the prior variance that is common to choices with the same options
CURVATURE = 2.0  # decay of the squared-exponential covariance over an ordered choice's options, scaled to [0, 1]


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """A product of categorical choices.

    This class serves any product space. A space with structure (graphs, equivalent codes, costs) overrides `features`,
    `valid`, `canonical`, `cost` and `graphs`. Instances are hashable, so they can be static under `jax.jit`.

    Args:
      choices: decisions, in the order of the integers of a code.

    Raises:
      ValueError: if the choices have no order, there is no choice, or two choices have the same name.
    """

    choices: tuple[Choice, ...]

    def __init__(self, choices: Iterable[Choice]):
        if isinstance(choices, Set):
            raise ValueError("the choices of a space are a set, which has no fixed order: give a list or a tuple")
        object.__setattr__(self, "choices", tuple(choices))
        if not self.choices:
            raise ValueError("a search space needs at least one choice; got none")
        names = [choice.name for choice in self.choices]
        if len(set(names)) != len(names):
            raise ValueError(f"two choices share a name: {names}; names must be unique")

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
        """Exact number of codes of the whole product, valid or not."""
        return math.prod(len(choice.options) for choice in self.choices)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Name of each column of `features`, such as ``op0=skip`` or ``width>=32``."""
        return tuple(
            f"{choice.name}{'>=' if choice.ordered else '='}{option}"
            for choice in self.choices
            for option in choice.options[int(choice.ordered) :]
        )

    def features(self, codes: Codes) -> Float[Array, "n d"]:
        """Returns the inputs of the tree's regressions: small integers. Equivalent codes have equal features.

        Choices are one-hot encoded in order. An ordered choice has a column for each option but the first, which is 1
        if the code's option is at or above it, so that a penalty on weights favours small steps between options.
        """
        ordered = np.array([choice.ordered for choice in self.choices])
        options = np.arange(int(self.cardinalities.max()), dtype=np.int32)
        listed = (options >= ordered[:, None]) & (options < self.cardinalities[:, None])  # options with a column
        codes = jnp.asarray(codes)[:, :, None]
        taken = (codes == options[None, None]) | (ordered[None, :, None] & (codes > options[None, None]))
        columns = taken.reshape(taken.shape[0], -1).astype(jnp.float32)
        return columns if listed.all() else columns[:, np.flatnonzero(listed.ravel())]

    def embed(self, codes: Codes) -> Float[Array, "n e"]:
        """Returns embeddings whose inner products are the prior covariances of the codes' values.

        Squared norms are about 1; equivalent codes have equal embeddings. The embedding is ``terms @ term_embedding``;
        a space overrides these two.
        """
        return jnp.matmul(self.terms(codes), self.term_embedding, precision="highest")

    def terms(self, codes: Codes) -> Float[Array, "n t"]:
        """Returns the terms whose weighted sum is the embedding: here one-hot options, padded to equal widths."""
        options = np.arange(int(self.cardinalities.max()), dtype=np.int32)
        taken = self.canonical(codes)[:, :, None] == options[None, None]
        return taken.reshape(taken.shape[0], -1).astype(jnp.float32)

    @property
    def term_embedding(self) -> Float[np.ndarray, "t e"]:
        """Embedding of each term.

        Here it has one part per choice, in which nearby options of an ordered choice have similar embeddings, and one
        part per group of choices with the same options, which counts how often each option is taken in the group.
        """
        return _embedding(self)

    @property
    def embedding_size(self) -> int:
        """Number of columns of `embed`."""
        return self.term_embedding.shape[1]

    def valid(self, codes: Codes) -> Bool[Array, " n"]:
        """Returns which codes are valid: integers in range that satisfy every rule and cost limit of the space."""
        codes = jnp.asarray(codes)
        return jnp.all((codes >= 0) & (codes < self.cardinalities[None]), axis=1)

    def canonical(self, codes: Codes) -> Int[Array, "n dims"]:
        """Returns one representative of each class of codes that build the same network; idempotent."""
        return jnp.asarray(codes, jnp.int32)

    def cost(self, codes: Codes) -> Cost:
        """Returns the multiply-adds and parameters of each network.

        Raises:
          NotImplementedError: if this space does not define costs.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define the cost of its networks; override `cost`")

    def limited(self, codes: Codes) -> tuple[LimitedCost, ...]:
        """Returns the costs of each network that have a hard limit; empty in most spaces."""
        del codes
        return ()

    def definition(self) -> dict[str, Any]:
        """Returns everything that gives the codes their meaning, as JSON; runs record it and refuse another space.

        Here it is the class of the space and all its fields, choices included (`lanas_jax.spaces.definition`).
        """
        return define_fields(self)

    @property
    def named_codes(self) -> Mapping[str, tuple[int, ...]]:
        """Codes that commands accept by name."""
        return {}

    def starting_codes(self) -> Int[np.ndarray, "k dims"]:
        """Returns valid canonical starts for chains if random codes of the space are rarely valid; otherwise none."""
        return np.zeros((0, self.dims), np.int32)

    def describe(self, code: Int[Array | np.ndarray, " dims"]) -> str:
        """Returns the code as text, one line per choice."""
        self.check(np.asarray(code)[None])
        width = max(len(choice.name) for choice in self.choices)
        return "\n".join(
            f"{choice.name:<{width}}  {choice.options[int(i)]}" for choice, i in zip(self.choices, code, strict=True)
        )

    def graphs(self, code: Int[Array | np.ndarray, " dims"]) -> tuple[CellGraph, ...]:
        """Returns the cells of the network as graphs to draw; empty for a space without graphs."""
        del code
        return ()

    def check(self, codes: object) -> Int[np.ndarray, "n dims"]:
        """Checks codes from outside the package and converts them to an array.

        Args:
          codes: integers of shape ``[n, dims]``, in any form that `numpy.asarray` accepts.

        Returns:
          The codes as ``int32[n, dims]``.

        Raises:
          ValueError: if the shape is wrong, or an entry is not an integer or out of range; names the row, the position,
            the value and the range.
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

    def check_images(self, image_shape: tuple[int, int, int], classes: int) -> None:
        """Checks that the networks of this space, and so their costs and limits, are those for a dataset.

        Compares the settings `image_size`, `image_channels` and `classes`, as far as the space has them. A space whose
        networks resize images has no `image_size`.

        Args:
          image_shape: height, width and channels of the images.
          classes: number of classes.

        Raises:
          ValueError: a setting differs; the message names each.
        """
        height, width, channels = image_shape
        found = {"image_size": (height, width), "image_channels": channels, "classes": classes}
        assumed = {name: getattr(self, name) for name in found if hasattr(self, name)}
        told = {"image_size": f"images are {height} x {width}", "image_channels": f"images have {channels} channels"}
        told["classes"] = f"the data has {classes} classes"
        wrong = [
            f"{name} is {value}, but {told[name]}"
            for name, value in assumed.items()
            if ((value, value) if name == "image_size" else value) != found[name]
        ]
        if wrong:
            remedy = "give the space the settings of the data"
            if "image_size" in assumed and height != width:
                remedy = "its networks take square images: crop, pad or resize them"
            raise ValueError(
                f"{type(self).__name__} counts the costs of other networks than those to train: {'; '.join(wrong)}. To "
                f"mend it: {remedy}"
            )

    def _set_sizes(self, **sizes: int) -> None:
        """Sets fields that must be at least 1, in the constructors of frozen spaces.

        Raises:
          ValueError: if a size is below one.
        """
        for name, value in sizes.items():
            object.__setattr__(self, name, value)
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")

    def random(self, key: PRNGKeyArray, n: int) -> Int[Array, "n dims"]:
        """Draws `n` codes uniformly from the product, valid or not. Consumes the key."""
        return jax.random.randint(key, (n, self.dims), 0, self.cardinalities[None], dtype=jnp.int32)

    def enumerate(self) -> Int[np.ndarray, "n dims"]:
        """Returns every valid canonical code once, in ascending order.

        Raises:
          ValueError: if the product has more than 2**24 codes.
        """
        if self.size > 2**24:
            raise ValueError(f"a space of {self.size:.3g} codes is too large to list; the largest has {2**24:,} codes")
        grid = np.stack(np.unravel_index(np.arange(self.size), self.cardinalities), axis=1).astype(np.int32)
        grid = grid[np.asarray(self.valid(grid))]
        return np.unique(np.asarray(self.canonical(grid)), axis=0)


def _check_order(name: str, options: object) -> None:
    """Raises ValueError for options whose order may differ in another process, or that can be read only once."""
    if isinstance(options, Reversible) or hasattr(options, "__array__"):
        return
    if not isinstance(options, Iterable):
        raise ValueError(f"choice {name!r} has the options {options!r}: give a list or a tuple")
    once = isinstance(options, Iterator)
    why = "which can be read only once" if once else "which has no fixed order, so codes would change their meaning"
    raise ValueError(f"choice {name!r} has its options in a {type(options).__name__}, {why}: give a list or a tuple")


def _equal(one: object, other: object) -> bool:
    """Returns whether two options of different types are equal, as 1, 1.0 and True are."""
    try:
        return bool(one == other)
    except ValueError:  # arrays
        return False


@functools.lru_cache(maxsize=64)
def _embedding(space: SearchSpace) -> np.ndarray:
    """Returns `SearchSpace.term_embedding` of a product space; 0 for options that a choice does not have."""
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
    """Returns a square root of the prior covariance of the options' effects."""
    n = len(choice.options)
    if not choice.ordered:
        return np.eye(n)
    scale = np.linspace(0, 1, n)
    values, vectors = np.linalg.eigh(np.exp(-CURVATURE * np.square(scale[:, None] - scale)))
    return vectors * np.sqrt(np.maximum(values, 0))
