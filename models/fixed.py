"""Networks built for one code, with the interface of networks that take the code as data.

`lanas_jax.candidates.step.Network` requires pure functions that take any code. A Flax module built for a single code
has exactly the layers of that code, so its compiled program has no branches. The adapter here turns such a module, of
any space, into the required functions. The module itself is built and initialised elsewhere, as in
`models/nasnet/candidate.py`. `FinalFixed` has the interface of winner trainings.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, Int, PRNGKeyArray

from lanas_jax.models.functional import Functional, Output, Tree, arrays
from lanas_jax.spaces.base import SearchSpace


@runtime_checkable
class Specialising(Protocol):
    """A family of networks, with weights for every code, that can build the module of one code."""

    @property
    def space(self) -> SearchSpace:
        """The space of the codes."""
        ...

    def init(self, key: PRNGKeyArray, code: Int[Array | np.ndarray, " dims"]) -> tuple[Tree, Tree]:
        """Returns initial weights and batch statistics. The key is consumed."""
        ...

    def specialise(self, params: Tree, batch_stats: Tree, code: Int[Array | np.ndarray, " dims"]) -> nnx.Module:
        """Returns the module of one code, with the weights that the code uses."""
        ...


@dataclasses.dataclass(frozen=True)
class InitialisedFor:
    """Builds the module of one code with the initial weights of its family; equal if family and code are equal.

    Args:
      networks: family of networks of the space.
      code: architecture, ``int32[dims]``.
    """

    networks: Specialising
    code: tuple[int, ...]

    def __call__(self, key: PRNGKeyArray) -> nnx.Module:
        """Builds the module. The key is consumed."""
        code = np.array(self.code, np.int32)
        return self.networks.specialise(*self.networks.init(key, code), code)


@dataclasses.dataclass(frozen=True)
class FixedNetwork:
    """A module of one code as pure functions of its parameters and batch statistics.

    Two instances are equal, and share programs, if their `build` functions are equal, such as `InitialisedFor` of equal
    families and codes.

    Args:
      space: space of the code.
      build: function from a key to the initialised module, which maps images ``[n, height, width, channels]`` to logits
        and whose only variables are parameters and batch statistics; may be traced.
    """

    space: SearchSpace
    build: Callable[[PRNGKeyArray], nnx.Module]

    def init(self, key: PRNGKeyArray, code: Int[Array | np.ndarray, " dims"]) -> tuple[Tree, Tree]:
        """Returns initial parameters and batch statistics as pure dicts; ignores `code`. The key is consumed."""
        del code
        network = self.build(key)
        return arrays(network, nnx.Param), arrays(network, nnx.BatchStat)

    def apply(
        self,
        params: Tree,
        batch_stats: Tree,
        code: Int[Array | np.ndarray, " dims"],
        images: Float[Array, "n height width channels"],
        *,
        train: bool,
    ) -> tuple[Float[Array, "n classes"], Tree]:
        """Returns logits and updated batch statistics (unchanged unless training); ignores `code`."""
        del code
        return self.run(params, batch_stats, lambda network: network(images), train=train)

    def run(
        self, params: Tree, batch_stats: Tree, call: Callable[[Any], Output], *, train: bool
    ) -> tuple[Output, Tree]:
        """Returns `call(module)` and updated batch statistics (unchanged unless training)."""
        return self._module.run(params, batch_stats, call, train=train)

    @functools.cached_property
    def _module(self) -> Functional:
        return Functional(lambda: self.build(jax.random.key(0)))


def fixed_network(networks: Specialising, code: Int[Array | np.ndarray, " dims"]) -> FixedNetwork:
    """Returns the network of one code of a family; the same key gives the same weights as `networks.init`.

    Raises:
      ValueError: the code has the wrong length or an integer out of range.
    """
    checked = networks.space.check(np.asarray(code)[None])[0]
    return FixedNetwork(networks.space, InitialisedFor(networks, tuple(checked.tolist())))


@dataclasses.dataclass(frozen=True)
class FinalFixed:
    """The network of one code for `lanas_jax.trainer`, without auxiliary head and without dropped paths.

    Args:
      network: family of networks of the space, with their numerics.
      code: architecture, NumPy integers ``[dims]``.

    Raises:
      ValueError: the code has the wrong length or an integer out of range.
    """

    network: Specialising
    code: Int[np.ndarray, " dims"] = dataclasses.field(compare=False)
    integers: tuple[int, ...] = dataclasses.field(init=False, repr=False)  # the code as a tuple, for comparison

    def __post_init__(self) -> None:
        object.__setattr__(self, "code", self.space.check(np.asarray(self.code)[None])[0])
        object.__setattr__(self, "integers", tuple(self.code.tolist()))

    @property
    def space(self) -> SearchSpace:
        """The space of the code."""
        return self.network.space

    def init(self, key: PRNGKeyArray) -> tuple[Tree, Tree]:
        """Returns the initial weights and batch statistics of `fixed_network`. The key is consumed."""
        return self._fixed.init(key, self.code)

    def apply(
        self,
        params: Tree,
        batch_stats: Tree,
        images: Float[Array, "n h w c"],
        *,
        train: bool,
        key: PRNGKeyArray,
        drop_path: Float[Array, ""],
    ) -> tuple[Float32[Array, "n classes"], None, Tree]:
        """Returns logits and updated batch statistics (unchanged unless training); ignores `key` and `drop_path`."""
        del key, drop_path
        logits, batch_stats = self._fixed.apply(params, batch_stats, self.code, images, train=train)
        return logits, None, batch_stats

    @functools.cached_property
    def _fixed(self) -> FixedNetwork:
        return fixed_network(self.network, self.code)
