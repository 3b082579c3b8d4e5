"""A supernet in the form that `lanas_jax.trainer` trains, whose passes run the subnetworks of codes that it draws."""

import abc
import dataclasses

from jaxtyping import Array, Float, Int, PRNGKeyArray

from lanas_jax.spaces.base import SearchSpace
from lanas_jax.supernet.base import Supernet
from lanas_jax.trainer.task import BatchStats, Params


@dataclasses.dataclass(frozen=True)
class DrawingSupernet(abc.ABC):
    """The common part of all ways to draw codes.

    Args:
      supernet: supernet to train.
    """

    supernet: Supernet

    @abc.abstractmethod
    def code(self, key: PRNGKeyArray) -> Int[Array, " dims"]:
        """Returns the code of a pass. The key is consumed."""

    @property
    def space(self) -> SearchSpace:
        """The space of the codes."""
        return self.supernet.space

    @property
    def draws_codes(self) -> bool:
        """True: all devices must have the same key."""
        return True

    def init(self, key: PRNGKeyArray) -> tuple[Params, BatchStats]:
        """Returns initial weights and batch statistics of all subnetworks. The key is consumed."""
        return self.supernet.init(key)

    def apply(
        self,
        params: Params,
        batch_stats: BatchStats,
        images: Float[Array, "n height width channels"],
        *,
        train: bool,
        key: PRNGKeyArray,
        drop_path: Float[Array, ""],
    ) -> tuple[Float[Array, "n classes"], None, BatchStats]:
        """Returns logits of the subnetwork of `code`, which consumes the key; `drop_path` is ignored."""
        del drop_path
        logits, batch_stats = self.supernet.apply(params, batch_stats, self.code(key), images, train=train)
        return logits, None, batch_stats
