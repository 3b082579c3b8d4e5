"""A searcher that proposes given codes in their order, so that a study can carry a fixed list of trials through."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from lanas_jax.spaces.base import Codes, SearchSpace, Values


@dataclasses.dataclass(frozen=True, eq=False)
class Listed:
    """The codes of a list, one after the other. Its state is how many it has proposed.

    Attributes:
      space: of the codes.
      codes: distinct valid codes in canonical form.
    """

    space: SearchSpace
    codes: Int[np.ndarray, "m dims"]

    def init(self, key: PRNGKeyArray) -> Int[Array, ""]:
        """The state before the first trial; nothing is random."""
        del key
        return jnp.int32(0)

    def ask(self, state: Int[Array, ""], n: int) -> tuple[Int[Array, ""], Int[Array, "n dims"]]:
        """The next `n` codes; rows of -1 when none are left."""
        asked = self.codes[int(state) : int(state) + n]
        filled = np.pad(asked, ((0, n - len(asked)), (0, 0)), constant_values=-1)
        return jnp.int32(int(state) + len(asked)), jnp.asarray(filled)

    def tell(self, state: Int[Array, ""], codes: Codes, values: Values) -> Int[Array, ""]:
        """Learns nothing."""
        del codes, values
        return state
