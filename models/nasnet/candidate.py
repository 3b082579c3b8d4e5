"""Networks of the NASNet space, in two forms that give the same outputs from the same weights.

`NASNet.apply` takes the code as data: one compiled program trains every candidate of the space. `NASNet.specialise`
and `NASNet.build` give the network of one code as a Flax module (`models/nasnet/network.py`), which has its parameters
alone, and `NASNet.for_code` gives it the face that trainers want (`models/fixed.py`); a search's final network has more
to it (`models/nasnet/final.py`). The code-as-data form carries the
union of what codes may need, ``[branches, 2, ...]`` for the two steps of each branch (`models/nasnet/cell.py`); what a
code does not need is zero, has zero gradient, and thus takes no part in weight decay, clipping or counting. Between
stem and head it is run by `models/nasnet/stack.py`.

The stack is the evaluation network of DARTS (arXiv 1806.09055): a 3x3 stem, cells that preprocess their two inputs by
ReLU, 1x1 convolution and normalisation, a linear head on the average of the pixels.

A network may compute in bfloat16: images, what lies between layers, and the operands of convolutions and 1x1
convolutions are rounded to it. Parameters, gradients, statistics of normalisation, the average of the pixels and the
head, one product per image, stay float32, and so do logits and loss.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Int, PRNGKeyArray

from lanas_jax.spaces.nasnet import SEP_CONV_3X3, SEP_CONV_5X5, SKIP_CONNECT, NASNetCellShape, NASNetSpace
from models import layers
from models.fixed import FixedNetwork, InitialisedFor
from models.nasnet.auxiliary import AuxiliaryHead
from models.nasnet.network import NASNetNetwork, network_state
from models.nasnet.stack import Code, Stack, Tree, map_branches


@dataclasses.dataclass(frozen=True)
class NASNet:
    """The networks of a space.

    Args:
      space: says which codes there are, and how large the networks are.
      compute_dtype: float32, or bfloat16 for activations and convolutions; parameters are float32 in any case.
      weight_standardisation: whether 1x1 convolutions standardise their kernels (`models.layers.standardise`) over the
        inputs that the code uses: in separable convolutions, skips that halve, and on a cell's inputs.

    Raises:
      ValueError: another dtype.
    """

    space: NASNetSpace
    compute_dtype: DTypeLike = jnp.float32
    weight_standardisation: bool = False

    def __post_init__(self) -> None:
        layers.check_compute_dtype(self.compute_dtype)

    def init(self, key: PRNGKeyArray, code: Code) -> tuple[Tree, Tree]:
        """Weights and batch statistics of one network; `code` may be traced.

        Convolutions are normal with variance ``2 / fan_in``, the head with ``1 / fan_in``, where fan-in counts what the
        code uses. The key is consumed.

        Returns:
          Parameters and batch statistics: the keys are ``stem``, ``cells`` (a list) and, for parameters, ``head``.
        """
        return self._stack.init(key, code, partial(self._uses, code))

    def apply(
        self, params: Tree, batch_stats: Tree, code: Code, images: Float[Array, "n h w c"], *, train: bool
    ) -> tuple[Float32[Array, "n classes"], Tree]:
        """Runs the network of `code`, which may be traced.

        Args:
          params: weights, as `init` gives them.
          batch_stats: running means and variances, as `init` gives them.
          code: the architecture.
          images: a batch of the space's image size and channels.
          train: whether to normalise by the statistics of the batch, else by the running ones.

        Returns:
          Logits, and the batch statistics that follow (unchanged unless training).
        """
        rows = np.arange(4 * self.space.blocks, dtype=np.int32).reshape(-1, 2)
        params, batch_stats = (map_branches(_by_row, tree) for tree in (params, batch_stats))
        logits, new_stats = self._stack.apply(params, batch_stats, code, lambda _: rows, images, train=train)
        return logits, map_branches(_by_branch, new_stats)

    def specialise(
        self, params: Tree, batch_stats: Tree, code: Code, auxiliary: AuxiliaryHead | None = None
    ) -> NASNetNetwork:
        """The network built for one code, with the weights that the code uses, and with an auxiliary head if given.

        Raises:
          ValueError: a code of the wrong length, or an integer out of range.
        """
        checked = self.space.check(np.asarray(code)[None])[0]
        arrays = network_state(self.space, params, batch_stats, checked)
        if auxiliary is not None:
            arrays["auxiliary"] = nnx.to_pure_dict(nnx.state(auxiliary))
        graph, state = nnx.split(nnx.eval_shape(lambda: self._network(checked, auxiliary is not None)))
        nnx.replace_by_pure_dict(state, arrays)
        return nnx.merge(graph, state)

    def build(self, code: Code, rngs: nnx.Rngs) -> NASNetNetwork:
        """The network built for one code, initialised as `init` does; takes one key of the stream ``params``."""
        params, batch_stats = jax.jit(self.init)(rngs.params(), jnp.asarray(code, jnp.int32))
        return self.specialise(params, batch_stats, code)

    def for_code(self, code: Code) -> FixedNetwork:
        """The network built for one code with the face of this one, for trainers; the same key, the same weights.

        Raises:
          ValueError: a code of the wrong length, or an integer out of range.
        """
        checked = self.space.check(np.asarray(code)[None])[0]
        return FixedNetwork(self.space, InitialisedFor(self, tuple(checked.tolist())))

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
        return Stack(self.space, self.compute_dtype, self.weight_standardisation)

    def _uses(
        self, code: Code, shape: NASNetCellShape
    ) -> tuple[Bool[Array, "branches 2"], Bool[Array, "branches 2 5 5"]]:
        """Which halves of a branch its code uses, and which pixels of the depthwise kernels."""
        codes = jnp.asarray(code, jnp.int32)[None]
        operations = self.space.operations(codes)[0, shape.cell].reshape(-1)
        sources = self.space.inputs(codes)[0, shape.cell].reshape(-1)
        separable = (operations == SEP_CONV_3X3) | (operations == SEP_CONV_5X5)
        skip_reduce = (operations == SKIP_CONNECT) & (sources < 2) & shape.reduction
        uses = jnp.stack([separable | skip_reduce, separable], axis=1)
        centre = np.pad(np.ones((3, 3), bool), 1)[None]
        window = (operations == SEP_CONV_5X5)[:, None, None] | ((operations == SEP_CONV_3X3)[:, None, None] & centre)
        return uses, jnp.repeat(window[:, None], 2, axis=1)


def _by_row(x: Float[Array, "branches 2 ..."], cell: int = 0) -> Float[Array, "rows ..."]:
    del cell
    return x.reshape(-1, *x.shape[2:])


def _by_branch(x: Float[Array, "rows ..."], cell: int = 0) -> Float[Array, "branches 2 ..."]:
    del cell
    return x.reshape(-1, 2, *x.shape[1:])


class _OneKey(nnx.Rngs):
    """Always the same key, for modules whose weights will be replaced.

    The streams of Flax count in an array; where that is traced, each draw searches all that was traced before.
    """

    def __init__(self) -> None:
        pass

    def params(self) -> PRNGKeyArray:
        """The key."""
        return jax.random.key(0)
