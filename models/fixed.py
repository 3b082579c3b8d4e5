"""Networks built for one code, with the face of those whose code is data.

`lanas_jax.training.step.Network` wants pure functions that take any code; a Flax module built for a single code has
exactly its layers, which XLA then compiles with nothing to choose. The adapter here turns such a module, of any space,
into those functions. How the module is built and initialised is the business of its own file, as `models/nasnet.py`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lanas_jax.spaces.base import SearchSpace

Tree = dict[str, Any]
Output = TypeVar("Output")


@dataclasses.dataclass(frozen=True)
class FixedNetwork:
    """A module of one code as pure functions of its parameters and batch statistics.

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
        network = nnx.merge(self._graph, params, batch_stats)
        if not train:
            network.eval()
            return call(network), batch_stats
        network.train()
        output = call(network)
        return output, arrays(network, nnx.BatchStat)

    @functools.cached_property
    def _graph(self) -> Any:
        """The module without its arrays, found once: building it takes longer than tracing a step."""
        return nnx.graphdef(nnx.eval_shape(self.build, jax.random.key(0)))


def arrays(network: nnx.Module, kind: type[nnx.Variable]) -> Tree:
    """The variables of one kind, as a pure dict."""
    return nnx.to_pure_dict(nnx.state(network, kind))
