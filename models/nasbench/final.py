"""The winner of a search over the NAS-Bench-201 space, with the interface of the trainer.

The benchmark trains its networks without an auxiliary head and without dropped paths, so this network has neither.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Array, Float, Float32, Int, PRNGKeyArray

from lanas_jax.models.fixed import FixedNetwork
from lanas_jax.models.functional import Tree
from lanas_jax.models.nasbench.nasbench201 import NASBench201
from lanas_jax.spaces.nasbench201 import NASBench201Space


@dataclasses.dataclass(frozen=True)
class FinalNASBench201:
    """The network of one code as pure functions of its parameters and batch statistics.

    Args:
      network: family of networks of the space, with their numerics.
      code: architecture, NumPy integers ``[dims]``.

    Raises:
      ValueError: the code has the wrong length or an integer out of range.
    """

    network: NASBench201
    code: Int[np.ndarray, " dims"] = dataclasses.field(compare=False)
    integers: tuple[int, ...] = dataclasses.field(init=False, repr=False)  # the code as a tuple, for comparison

    def __post_init__(self) -> None:
        object.__setattr__(self, "code", self.space.check(np.asarray(self.code)[None])[0])
        object.__setattr__(self, "integers", tuple(self.code.tolist()))

    @property
    def space(self) -> NASBench201Space:
        """The space of the code."""
        return self.network.space

    def init(self, key: PRNGKeyArray) -> tuple[Tree, Tree]:
        """Returns the initial weights and batch statistics of `NASBench201.for_code`. The key is consumed."""
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
        return self.network.for_code(self.code)
