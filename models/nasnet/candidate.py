"""Networks of the NASNet space, in two forms that give the same outputs from the same weights.

`NASNet.apply` takes the code as data: one compiled program trains every candidate of the space. `NASNet.specialise`
and `NASNet.build` return the network of one code as a Flax module (`models/nasnet/network.py`), which has only the
parameters of that code. `NASNet.for_code` gives this module the interface of trainers (`models/fixed.py`). The winner
of a search has additional parts (`models/nasnet/final.py`).

The code-as-data form holds the union of the weights that codes may need, ``[branches, 2, ...]`` for the two steps of
each branch (`models/nasnet/cell.py`). Weights that a code does not use are zero and have zero gradient, so weight
decay, clipping and parameter counts ignore them. `models/nasnet/stack.py` runs this form.

The stack is the evaluation network of DARTS (arXiv 1806.09055): a 3x3 stem, cells that preprocess their two inputs by
ReLU, 1x1 convolution and normalisation, and a linear head on the global average.

A network may compute in bfloat16: images, activations between layers, and the operands of convolutions and 1x1
convolutions are rounded to it. Parameters, gradients, statistics of normalisation, global average pooling, the head
(one product per image), logits and loss stay float32.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Int, PRNGKeyArray

from lanas_jax.models import layers
from lanas_jax.models.fixed import FixedNetwork, fixed_network
from lanas_jax.models.nasnet.auxiliary import AuxiliaryHead
from lanas_jax.models.nasnet.cell import halves_with_weights
from lanas_jax.models.nasnet.network import NASNetNetwork, network_state
from lanas_jax.models.nasnet.stack import PIXELS, Code, Stack, Tree, map_branches
from lanas_jax.spaces.nasnet import NASNetCellShape, NASNetSpace


@dataclasses.dataclass(frozen=True)
class NASNet:
    """The family of all networks of a space.

    Args:
      space: search space, which defines the codes and the sizes of the networks.
      compute_dtype: float32, or bfloat16 for activations and convolutions; parameters are always float32.
      weight_standardisation: True to standardise the kernels of 1x1 convolutions (`models.layers.standardise`) over the
        inputs that the code uses: in separable convolutions, skips of stride 2, and on a cell's inputs.
      branchless: True for `apply` without control flow: it computes all operations and selects, as GPUs prefer
        (`models/nasnet/branchless_cell.py`). False to run the selected operations only.

    Raises:
      ValueError: the dtype is neither float32 nor bfloat16.
    """

    space: NASNetSpace
    compute_dtype: DTypeLike = jnp.float32
    weight_standardisation: bool = False
    branchless: bool = False

    def __post_init__(self) -> None:
        layers.check_compute_dtype(self.compute_dtype)

    def init(self, key: PRNGKeyArray, code: Code) -> tuple[Tree, Tree]:
        """Returns initial weights and batch statistics of one network; `code` may be traced.

        Convolutions are normal with variance ``2 / fan_in``, the head with ``1 / fan_in``; fan-in counts the
        inputs that the code uses. The key is consumed.

        Returns:
          Parameters and batch statistics with the keys ``stem``, ``cells`` (a list) and, for parameters, ``head``.
        """
        return self._stack.init(key, code, partial(self._uses, code))

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
          Logits and updated batch statistics (unchanged unless training).
        """
        rows = np.arange(4 * self.space.blocks, dtype=np.int32).reshape(-1, 2)
        params, batch_stats = (map_branches(_by_row, tree) for tree in (params, batch_stats))
        logits, new_stats = self._stack.apply(params, batch_stats, code, lambda _: rows, images, train=train)
        return logits, map_branches(_by_branch, new_stats)

    def as_branchless(self) -> "NASNet":
        """Returns the same networks with `apply` without control flow."""
        return dataclasses.replace(self, branchless=True)

    def specialise(
        self, params: Tree, batch_stats: Tree, code: Code, auxiliary: AuxiliaryHead | None = None
    ) -> NASNetNetwork:
        """Returns the network of one code as a module, with the weights that it uses and the given auxiliary head.

        Raises:
          ValueError: the code has the wrong length or an integer out of range.
        """
        checked = self.space.check(np.asarray(code)[None])[0]
        arrays = network_state(self.space, params, batch_stats, checked)
        if auxiliary is not None:
            arrays["auxiliary"] = nnx.to_pure_dict(nnx.state(auxiliary))
        graph, state = nnx.split(nnx.eval_shape(lambda: self._network(checked, auxiliary is not None)))
        nnx.replace_by_pure_dict(state, arrays)
        return nnx.merge(graph, state)

    def build(self, code: Code, rngs: nnx.Rngs) -> NASNetNetwork:
        """Builds the network of one code, initialised as by `init`; consumes one key of the stream ``params``."""
        params, batch_stats = jax.jit(self.init)(rngs.params(), jnp.asarray(code, jnp.int32))
        return self.specialise(params, batch_stats, code)

    def for_code(self, code: Code) -> FixedNetwork:
        """Returns the network of one code with the interface of this class; the same key gives the same weights.

        Raises:
          ValueError: the code has the wrong length or an integer out of range.
        """
        return fixed_network(self, code)

    def _network(self, code: Int[np.ndarray, " dims"], auxiliary: bool) -> NASNetNetwork:
        return NASNetNetwork(
            self.space,
            code,
            auxiliary=auxiliary,
            dtype=self.compute_dtype,
            standardise=self.weight_standardisation,
            rngs=_OneKey(),
        )

    @property
    def _stack(self) -> Stack:
        return Stack(self.space, self.compute_dtype, self.weight_standardisation, self.branchless)

    def _uses(
        self, code: Code, shape: NASNetCellShape
    ) -> tuple[Bool[Array, "branches 2"], Bool[Array, "branches 2 5 5"]]:
        """Returns masks of the halves of each branch and the pixels of the depthwise kernels that the code uses."""
        codes = jnp.asarray(code, jnp.int32)[None]
        operations = self.space.operations(codes)[0, shape.cell].reshape(-1)
        sources = self.space.inputs(codes)[0, shape.cell].reshape(-1)
        uses = jnp.stack(halves_with_weights(operations, sources, shape.reduction), axis=1)
        return uses, jnp.repeat(jnp.asarray(PIXELS)[operations][:, None], 2, axis=1)


def _by_row(x: Float[Array, "branches 2 ..."], cell: int = 0) -> Float[Array, "rows ..."]:
    del cell
    return x.reshape(-1, *x.shape[2:])


def _by_branch(x: Float[Array, "rows ..."], cell: int = 0) -> Float[Array, "branches 2 ..."]:
    del cell
    return x.reshape(-1, 2, *x.shape[1:])


class _OneKey(nnx.Rngs):
    """A stream that always returns the same key, for modules whose weights will be replaced.

    Flax streams count in an array; if that array is traced, each draw searches the whole trace.
    """

    def __init__(self) -> None:
        pass

    def params(self) -> PRNGKeyArray:
        """Returns the key."""
        return jax.random.key(0)
