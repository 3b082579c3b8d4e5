"""Flax modules as pure functions of their parameters and batch statistics, with shapes known in advance."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from flax import nnx
from jaxtyping import Array, Float

Tree = dict[str, Any]
Output = TypeVar("Output")


@dataclasses.dataclass(frozen=True, eq=False)
class Functional:
    """A module without its arrays.

    Args:
      build: function that returns the module, whose only variables are parameters and batch statistics; its arrays are
        never computed.
    """

    build: Callable[[], nnx.Module]

    @property
    def params(self) -> Tree:
        """Shapes and dtypes of the parameters, as a pure dict."""
        return self._parts[1]

    @property
    def batch_stats(self) -> Tree:
        """Shapes and dtypes of the batch statistics, as a pure dict."""
        return self._parts[2]

    def run(
        self, params: Tree, batch_stats: Tree, call: Callable[[Any], Output], *, train: bool
    ) -> tuple[Output, Tree]:
        """Returns `call(module)` and updated batch statistics (unchanged unless training)."""
        module = nnx.merge(self._parts[0], params, batch_stats)
        if not train:
            module.eval()
            return call(module), batch_stats
        module.train()
        output = call(module)
        return output, arrays(module, nnx.BatchStat)

    @functools.cached_property
    def _parts(self) -> tuple[Any, Tree, Tree]:
        """Graph and shapes of the module, cached because building a module takes longer than tracing a step."""
        module = nnx.eval_shape(self.build)
        return nnx.graphdef(module), arrays(module, nnx.Param), arrays(module, nnx.BatchStat)


def last_of_each_size(maps: Iterable[Float[Array, "n _ _ _"]]) -> tuple[Float[Array, "n _ _ _"], ...]:
    """Returns the last feature map of each height and width, in the order in which the sizes first occur."""
    return tuple({x.shape[1:3]: x for x in maps}.values())


def arrays(module: nnx.Module, kind: type[nnx.Variable]) -> Tree:
    """Returns the variables of one kind as a pure dict."""
    return nnx.to_pure_dict(nnx.state(module, kind))
