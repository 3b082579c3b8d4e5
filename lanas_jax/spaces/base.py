"""Search spaces: architectures written as integers.

A space is a product of named choices (section 3 of arXiv 1906.06832 calls it Omega). A *code* selects one
option of every choice: ``int32[dims]``; a batch of codes is ``int32[n, dims]``. Searchers see architectures through
`features` (the tree), `embed` and its parts `terms` and `term_embedding` (the model), `valid`, `canonical`,
`count_changes`, and the draws `random`, `enumerate` and `starting_codes`. They are functions of arrays, so searchers
can be jitted around them. Reports and limits use `cost`, `limited` and `describe`.

A choice may exist only in combination with certain options of earlier choices (`Choice.when`). In the codes of networks
without it, it is *inactive*: it has no features, and its integer is 0 in canonical codes.

`choices.py` defines choices, and `conditions.py` what their conditions mean. `models/` builds networks from codes;
`searchers/` decides which code to try next.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Set
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lanas_jax.runtime.numbers import whole_number
from lanas_jax.spaces.choices import Choice, Option
from lanas_jax.spaces.conditions import check_conditions, count_assignments, parents_of
from lanas_jax.spaces.definition import define_fields
from lanas_jax.spaces.embedding import product_embedding

Codes = Int[Array | np.ndarray, "n dims"]
Values = Float[Array | np.ndarray, " values"]
LARGEST_SIZE = 2**12  # of images and layers, so that int64 holds all costs
LARGEST_SIZES = {"cells": 2**8, "classes": 2**16, "symbols": 2**16}


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


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """A product of choices.

    This class serves any product space. A space with structure (graphs, equivalent codes, costs) overrides `features`,
    `valid`, `canonical`, `cost` and `graphs`. Instances are hashable, so they can be static under `jax.jit`.

    Args:
      choices: decisions, in the order of the integers of a code.

    Attributes:
      doubts_scales: True to treat the options of a scale as labels too, which protects against scales that do not order
        the values. A space whose scales are known to order the values sets it to False.

    Raises:
      ValueError: if the choices have no order, there is no choice, two choices have the same name, or a condition
        refers to something other than an earlier choice, or to options that the earlier choice does not have.
    """

    choices: tuple[Choice, ...]
    doubts_scales: ClassVar[bool] = True

    def __init__(self, choices: Iterable[Choice]):
        if isinstance(choices, Set):
            raise ValueError("the choices of a space are a set, which has no fixed order: give a list or a tuple")
        object.__setattr__(self, "choices", tuple(choices))
        if not self.choices:
            raise ValueError("a search space needs at least one choice; got none")
        for choice in self.choices:
            if not isinstance(choice, Choice):
                raise ValueError(f"a search space is a list of choices, such as Choice('a', (1, 2)); got {choice!r}")
        names = [choice.name for choice in self.choices]
        if len(set(names)) != len(names):
            raise ValueError(f"two choices share a name: {names}; names must be unique")
        check_conditions(self.choices)

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
        """Exact number of codes, valid or not; codes that differ only in inactive choices count once."""
        return count_assignments(self.choices)

    @property
    def is_conditional(self) -> bool:
        """True if a choice has conditions."""
        return any(choice.when for choice in self.choices)

    def active(self, codes: Codes) -> Bool[Array | np.ndarray, "n dims"]:
        """Returns which choices exist in each network; NumPy codes give a NumPy array."""
        columns: list[Any] = []
        for conditions in parents_of(self.choices):
            exists = np.ones(codes.shape[0], bool)
            for parent, options in conditions:
                taken = (codes[:, parent, None] == np.array(options, np.int32)[None]).any(axis=1)
                exists = exists & columns[parent] & taken
            columns.append(exists)
        return (np if isinstance(codes, np.ndarray) else jnp).stack(columns, axis=1)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Name of each column of `features`, such as ``op0=skip`` or ``width>=32``."""
        names = []
        for choice in self.choices:
            ascending = [choice.texts[i] for i in np.argsort(choice.levels)]
            steps, labels = _column_counts(choice, self.doubts_scales)
            names += [f"{choice.name}>={text}" for text in ascending[len(ascending) - steps :]]
            names += [f"{choice.name}={text}" for text in choice.texts[:labels]]
        return tuple(names)

    def features(self, codes: Codes) -> Float[Array, "n d"]:
        """Returns the inputs of the tree's regressions: small integers. Equivalent codes have equal features.

        Labels are one-hot encoded in order. A scale has a column for each level except the lowest; the column is 1 if
        the code's option is at or above that level, so that a penalty on weights favours small steps between levels. A
        scale may turn out not to order the values, so its one-hot columns follow (see `doubts_scales`). All columns of
        an inactive choice are 0.
        """
        codes = jnp.asarray(codes)
        most = int(self.cardinalities.max())
        options = np.arange(most, dtype=np.int32)
        scales = np.array([choice.is_scale for choice in self.choices])
        steps, labels = np.array([_column_counts(choice, self.doubts_scales) for choice in self.choices]).T
        is_label = (options < labels[:, None])[:, None]
        is_step = ((options > 0) & (options <= steps[:, None]))[:, None]
        taken = (codes[:, :, None] == options[None, None])[:, :, None]
        if scales.any():
            at_least = (self._levels_of(codes)[:, :, None] >= options[None, None])[:, :, None]
            if self.doubts_scales:
                taken, is_label = (
                    jnp.concatenate([at_least, taken], axis=2),
                    np.concatenate([is_step, is_label], axis=1),
                )
            else:
                taken, is_label = jnp.where(scales[None, :, None, None], at_least, taken), is_step | is_label
        if self.is_conditional:
            taken = taken & self.active(codes)[:, :, None, None]
        columns = jax.lax.collapse(taken, 1).astype(jnp.float32)
        return columns if is_label.all() else columns[:, np.flatnonzero(is_label.ravel())]

    def embed(self, codes: Codes) -> Float[Array, "n e"]:
        """Returns embeddings: the larger the inner product of two, the larger the prior covariance of their values.

        Squared norms are about 1; equivalent codes have equal embeddings. The embedding is ``terms @ term_embedding``;
        a space overrides these two.
        """
        return jnp.matmul(self.terms(codes), self.term_embedding, precision="highest")

    def terms(self, codes: Codes) -> Float[Array, "n t"]:
        """Returns the terms whose weighted sum is the embedding: here one-hot options, padded to equal widths.

        The terms of inactive choices are 0.
        """
        options = np.arange(int(self.cardinalities.max()), dtype=np.int32)
        codes = self.canonical(codes)
        taken = codes[:, :, None] == options[None, None]
        if self.is_conditional:
            taken = taken & self.active(codes)[:, :, None]
        return jax.lax.collapse(taken, 1).astype(jnp.float32)

    @property
    def term_embedding(self) -> Float[np.ndarray, "t e"]:
        """Embedding of each term.

        Here it has one part per choice, in which nearby levels of a scale have similar embeddings, and one part per
        group of choices with the same options, which counts how often each option occurs in the group.
        """
        return product_embedding(self.choices, self.doubts_scales)

    @property
    def embedding_size(self) -> int:
        """Number of columns of `embed`."""
        return self.term_embedding.shape[1]

    def valid(self, codes: Codes) -> Bool[Array, " n"]:
        """Returns which codes are valid: integers in range that satisfy every rule and cost limit of the space."""
        codes = jnp.asarray(codes)
        return jnp.all((codes >= 0) & (codes < self.cardinalities[None]), axis=1)

    def canonical(self, codes: Codes) -> Int[Array, "n dims"]:
        """Returns one representative of each class of codes that build the same network; idempotent.

        Here the integers of inactive choices become 0.
        """
        codes = jnp.asarray(codes, jnp.int32)
        return jnp.where(self.active(codes), codes, 0) if self.is_conditional else codes

    def count_changes(self, codes: Codes, others: Int[Array | np.ndarray, "#n dims"]) -> Int[Array, " n"]:
        """Returns in how many choices canonical codes differ, row by row; not counting choices inactive in either."""
        differ = codes != others
        if self.is_conditional:
            differ = differ & self.active(codes) & self.active(others)
        return jnp.sum(differ, axis=1)

    def functions(self, codes: Codes) -> Int[np.ndarray, " n"] | None:
        """Returns integers that are equal for canonical codes whose networks compute the same functions.

        Such codes have separate values, but `LaNAS` expects them to be alike in a pool or a space that it lists. None
        if canonical codes always compute different functions, or if the space does not know.
        """
        del codes
        return None

    def cost(self, codes: Codes) -> Cost:
        """Returns the multiply-adds and parameters of each network.

        Raises:
          NotImplementedError: if this space does not define costs.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define the cost of its networks; override `cost`")

    def traced_cost(self, codes: Codes) -> Float[Array, "n costs"] | None:
        """Returns `known_costs` of valid codes, rounded to float32, inside a compiled program.

        None if this space computes costs on the host alone.
        """
        del codes
        return None

    @property
    def cost_names(self) -> tuple[str, ...]:
        """Names of the costs that `known_costs` returns: those of `Cost`, and more in some spaces."""
        return Cost._fields

    def known_costs(self, codes: Codes) -> Float[np.ndarray, "n costs"]:
        """Returns every cost that is known before training, a column for each of `cost_names`.

        Raises:
          NotImplementedError: if this space does not define costs.
        """
        return np.stack(self.cost(codes), axis=1).astype(np.float64)

    def limited(self, codes: Codes) -> tuple[LimitedCost, ...]:
        """Returns the costs of each network that have a hard limit; empty in most spaces."""
        del codes
        return ()

    def definition(self) -> dict[str, Any]:
        """Returns everything that gives the codes their meaning, as JSON; runs record it and refuse a different space.

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

    def options(self, code: Int[Array | np.ndarray, " dims"]) -> dict[str, Option]:
        """Returns the options of a code by the names of their choices, without inactive choices.

        Options have the types in which the choices were given: numbers, strings, Booleans or None.
        """
        return {choice.name: choice.options[i] for choice, i in self._taken(code)}

    def describe(self, code: Int[Array | np.ndarray, " dims"]) -> str:
        """Returns the code as text, one line per choice, without inactive choices."""
        width = max(len(choice.name) for choice in self.choices)
        return "\n".join(f"{choice.name:<{width}}  {choice.texts[i]}" for choice, i in self._taken(code))

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
        if array.shape == (0,):  # a list of no codes
            array = np.zeros((0, self.dims), np.int32)
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
                f"expected 0 to {len(choice.options) - 1} ({', '.join(choice.texts)})"
            )
        return array.astype(np.int32)

    def check_images(self, image_shape: tuple[int, int, int], classes: int) -> None:
        """Checks that the networks of this space, and therefore their costs and limits, fit a dataset.

        Compares those of the settings `image_size`, `image_channels` and `classes` that the space has. A space whose
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
        """Sets fields that must be integers of at least 1, in the constructors of frozen spaces.

        Raises:
          ValueError: if a size is not an integer, is below one, or is so large that int64 may not hold the costs.
        """
        for name, value in sizes.items():
            object.__setattr__(self, name, whole_number(name, value, 1, LARGEST_SIZES.get(name, LARGEST_SIZE)))

    def random(self, key: PRNGKeyArray, n: int) -> Int[Array, "n dims"]:
        """Draws `n` codes, valid or not: each option of an active choice is equally likely. Consumes the key.

        Draws are uniform over the codes of a space without conditions.
        """
        codes = jax.random.randint(key, (n, self.dims), 0, self.cardinalities[None], dtype=jnp.int32)
        return SearchSpace.canonical(self, codes)

    def enumerate(self) -> Int[np.ndarray, "n dims"]:
        """Returns every valid canonical code once, in ascending order.

        Raises:
          ValueError: if the product has more than 2**24 codes.
        """
        if self.size > 2**24:
            raise ValueError(f"a space of more than {2**24:,} codes is too large to list")
        grid = np.zeros((1, self.dims), np.int32)
        for i, options in enumerate(self.cardinalities):
            exists = self.active(grid)[:, i] if self.choices[i].when else np.ones(len(grid), bool)
            repeats = np.where(exists, options, 1)
            grid = np.repeat(grid, repeats, axis=0)
            first = np.repeat(np.cumsum(repeats) - repeats, repeats)
            grid[:, i] = np.arange(len(grid)) - first
        valid, canonical = map(np.asarray, valid_and_canonical(self, grid))
        return np.unique(canonical[valid], axis=0)

    @property
    def _choice_of_column(self) -> Int[np.ndarray, " d"]:
        """Position of the choice to which each column of `SearchSpace.features` belongs."""
        columns = [sum(_column_counts(choice, self.doubts_scales)) for choice in self.choices]
        return np.repeat(np.arange(self.dims), columns)

    def _levels_of(self, codes: Int[Array, "n dims"]) -> Int[Array, "n dims"]:
        """Returns the levels of options; without a lookup if all scales are listed in ascending order."""
        ascending = np.tile(np.arange(int(self.cardinalities.max()), dtype=np.int32), (self.dims, 1))
        levels = ascending.copy()
        for i, choice in enumerate(self.choices):
            levels[i, : len(choice.levels)] = choice.levels
        return codes if (levels == ascending).all() else jnp.asarray(levels)[np.arange(self.dims)[None], codes]

    def _taken(self, code: Int[Array | np.ndarray, " dims"]) -> list[tuple[Choice, int]]:
        """Returns the active choices of a code, each with the position of its option."""
        codes = self.check(np.asarray(code)[None])
        exists = np.asarray(self.active(codes))[0]
        return [(choice, int(i)) for choice, i, there in zip(self.choices, codes[0], exists, strict=True) if there]


def _column_counts(choice: Choice, doubted: bool) -> tuple[int, int]:
    """Returns how many features of a choice are steps of a scale, and how many are one-hot labels."""
    n = len(choice.options)
    return (n - 1, n if doubted else 0) if choice.is_scale else (0, n)


@jax.jit(static_argnames="space")
def valid_and_canonical(space: SearchSpace, codes: Codes) -> tuple[Bool[Array, " n"], Int[Array, "n dims"]]:
    """Returns which codes are valid, and their canonical forms; one program compiles faster than many small ones."""
    return space.valid(codes), space.canonical(codes)
