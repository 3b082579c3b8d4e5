"""Networks built for one code, with the face of those whose code is data.

`lanas_jax.candidates.step.Network` wants pure functions that take any code; a Flax module built for a single code has
exactly its layers, which XLA then compiles with nothing to choose. The adapter here turns such a module, of any space,
into those functions. How the module is built and initialised is the business of its own file, as
`models/nasnet/candidate.py`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lanas_jax.spaces.base import SearchSpace
from models.functional import Functional, Output, Tree, arrays


@runtime_checkable
class Specialising(Protocol):
    """The networks of a space, with weights for every code."""

    def init(self, key: PRNGKeyArray, code: Int[Array | np.ndarray, " dims"]) -> tuple[Tree, Tree]:
        """Weights and batch statistics. The key is consumed."""
        ...

    def specialise(self, params: Tree, batch_stats: Tree, code: Int[Array | np.ndarray, " dims"]) -> nnx.Module:
        """The module of one code, with the weights that the code uses."""
        ...


@dataclasses.dataclass(frozen=True)
class InitialisedFor:
    """Builds the module of one code, initialised as its networks are; equal where networks and code are.

    Args:
      networks: those of the space.
      code: the architecture.
    """

    networks: Specialising
    code: tuple[int, ...]

    def __call__(self, key: PRNGKeyArray) -> nnx.Module:
        """The module. The key is consumed."""
        code = np.array(self.code, np.int32)
        return self.networks.specialise(*self.networks.init(key, code), code)


@dataclasses.dataclass(frozen=True)
class FixedNetwork:
    """A module of one code as pure functions of its parameters and batch statistics.

    Two are equal where their `build` are, such as `InitialisedFor` of equal networks and codes: they share programs.

    Args:
      space: the space of the code.
      build: a key to the initialised module, which maps images ``[n, height, width, channels]`` to logits and whose
        variables are parameters and batch statistics, no others; may be traced.
    """

    space: SearchSpace
    build: Callable[[PRNGKeyArray], nnx.Module]

    def init(self, key: PRNGKeyArray, code: Int[Array | np.ndarray, " dims"]) -> tuple[Tree, Tree]:
        """The module's parameters and batch statistics, as pure dicts; `code` is ignored. The key is consumed."""
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
        """Logits, and the batch statistics that follow (unchanged unless training); `code` is ignored."""
        del code
        return self.run(params, batch_stats, lambda network: network(images), train=train)

    def run(
        self, params: Tree, batch_stats: Tree, call: Callable[[Any], Output], *, train: bool
    ) -> tuple[Output, Tree]:
        """What `call` gives of the module, and the batch statistics that follow (unchanged unless training)."""
        return self._module.run(params, batch_stats, call, train=train)

    @functools.cached_property
    def _module(self) -> Functional:
        return Functional(lambda: self.build(jax.random.key(0)))
