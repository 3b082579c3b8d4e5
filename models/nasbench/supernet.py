"""The one-shot supernet of the NAS-Bench-201 space: every cell of the space shares the weights of one network.

Each edge of each cell of the stack has a kernel and a normalisation of its own for each of its two convolutions; the
other three operations have no weights. All codes share the stem, the residual blocks, the last normalisation and the
head. `NASBench201Supernet.select` takes the weights of a code, in the layout of `NASBench201`, which runs them with the
code as data: one compiled program serves every code. Weights that a code does not select have zero gradient.

`spaces/nasbench201.py` describes the space, and `supernet/fair.py` the training in which every operation of every edge
takes part in each step.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int, PRNGKeyArray

from lanas_jax.models import layers
from lanas_jax.models.fixed import FinalFixed
from lanas_jax.models.functional import arrays
from lanas_jax.models.layers.norm import AnyArray, batch_statistics
from lanas_jax.models.nasbench.nasbench201 import NASBench201
from lanas_jax.spaces.nasbench201 import CONV_1X1, CONV_3X3, NASBench201Space

Tree = dict[str, Any]
Code = Int[Array | np.ndarray, " dims"]
CONVOLUTIONS = np.array([CONV_1X1, CONV_3X3], np.int32)  # operations with weights, in the order of the supernet's rows


@dataclasses.dataclass(frozen=True)
class NASBench201Supernet:
    """The supernet of a space.

    Args:
      space: search space, which defines the sizes of the networks.
      compute_dtype: float32, or bfloat16 for activations and convolutions; parameters are always float32.

    Raises:
      ValueError: the dtype is neither float32 nor bfloat16.
    """

    space: NASBench201Space
    compute_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        layers.check_compute_dtype(self.compute_dtype)

    def init(self, key: PRNGKeyArray) -> tuple[Tree, Tree]:
        """Returns initial weights and batch statistics of all operations. The key is consumed.

        Returns:
          Parameters and batch statistics in the layout of `NASBench201.init`, except for the edges of the cells: their
          arrays have a third axis of the two convolutions, ``[cells, 6, 2, ...]``. Kernels of 1x1 convolutions are zero
          around the centre.
        """
        # In one network an edge is a 1x1 convolution, in the other a 3x3 convolution. Shared weights are of the second.
        both = [
            self._network.init(one, np.full(self.space.dims, operation, np.int32))
            for one, operation in zip(jax.random.split(key), CONVOLUTIONS, strict=True)
        ]
        params, batch_stats = (
            whole | {"stages": jax.tree.map(lambda *rows: jnp.stack(rows, axis=2), narrow["stages"], whole["stages"])}
            for narrow, whole in zip(*both, strict=True)
        )
        return params, batch_stats

    def select(self, params: Tree, batch_stats: Tree, code: Code) -> tuple[Tree, Tree]:
        """Returns the weights and batch statistics of one code in the layout of `NASBench201`; `code` may be traced.

        Weights of edges without a convolution are zero.
        """
        is_selected = _is_selected(code)

        def own(rows: Float[AnyArray, "cells edges 2 *shape"]) -> Float[Array, "cells edges *shape"]:
            return jnp.sum(jnp.where(_against(is_selected, rows), rows, 0), axis=2)

        first, second = (tree | {"stages": jax.tree.map(own, tree["stages"])} for tree in (params, batch_stats))
        return first, second

    def apply(
        self, params: Tree, batch_stats: Tree, code: Code, images: Float[Array, "n h w c"], *, train: bool
    ) -> tuple[Float32[Array, "n classes"], Tree]:
        """Runs the network of one code; `code` may be traced.

        Args:
          params: weights in the layout of `init`.
          batch_stats: running means and variances in the layout of `init`.
          code: architecture, ``int32[dims]``.
          images: batch with the image size and channels of the space.
          train: True to normalise by the statistics of the batch, False by running statistics.

        Returns:
          Logits and updated batch statistics: training updates only the statistics that the code uses.
        """
        logits, new_stats = self._network.apply(*self.select(params, batch_stats, code), code, images, train=train)
        if not train:
            return logits, batch_stats
        is_selected = _is_selected(code)

        def replaced(rows: Float[Array, "cells edges 2 c"], own: Float[Array, "cells edges c"]) -> Array:
            return jnp.where(_against(is_selected, rows), own[:, :, None], rows)

        return logits, new_stats | {"stages": jax.tree.map(replaced, batch_stats["stages"], new_stats["stages"])}

    def statistics(self, params: Tree, code: Code, images: Float[Array, "n h w c"]) -> Tree:
        """Returns `batch_statistics` of one code, which may be traced."""
        stats = jax.eval_shape(self.init, jax.random.key(0))[1]
        return batch_statistics(lambda stats: self.apply(params, stats, code, images, train=True)[1], stats)

    def extract(self, params: Tree, batch_stats: Tree, code: Code) -> tuple[Tree, Tree]:
        """Returns the weights and batch statistics that a code uses, in the layout of its `standalone` network.

        Raises:
          ValueError: the code has the wrong length or an integer out of range.
        """
        code = self.space.check(np.asarray(code)[None])[0]
        network = self._network.specialise(*self.select(params, batch_stats, code), code)
        return arrays(network, nnx.Param), arrays(network, nnx.BatchStat)

    def standalone(self, code: Code) -> FinalFixed:
        """Returns the network of a code as a separate network; the weights from `extract` give the same outputs.

        Raises:
          ValueError: see `extract`.
        """
        return FinalFixed(self._network, np.asarray(code))

    @functools.cached_property
    def _network(self) -> NASBench201:
        return NASBench201(self.space, self.compute_dtype)


def _is_selected(code: Code) -> Array:
    """Returns which convolution of each edge a code selects, ``bool[6, 2]``."""
    return jnp.asarray(code)[:, None] == CONVOLUTIONS[None]


def _against(is_selected: Array, rows: Float[AnyArray, "cells edges 2 *shape"]) -> Array:
    """Returns `is_selected` in a shape that broadcasts with the weights of a stage's edges."""
    return is_selected.reshape(1, *is_selected.shape, *(1,) * (rows.ndim - 3))
