"""A searcher that proposes a fixed list of codes in order, so that a study can evaluate given codes."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from lanas_jax.runtime.arithmetic import transfers_allowed
from lanas_jax.spaces.base import Codes, SearchSpace, Values


@dataclasses.dataclass(frozen=True, eq=False)
class Listed:
    """Proposes the codes of a list in order. Its state is the number of proposed codes.

    Attributes:
      space: space of the codes.
      codes: distinct valid codes in canonical form, ``int32[m, dims]``.
    """

    space: SearchSpace
    codes: Int[np.ndarray, "m dims"]

    @transfers_allowed
    def init(self, key: PRNGKeyArray) -> Int[Array, ""]:
        """Returns the state before the first trial; `key` is not used."""
        del key
        return jnp.int32(0)

    @transfers_allowed
    def ask(self, state: Int[Array, ""], n: int) -> tuple[Int[Array, ""], Int[Array, "n dims"]]:
        """Returns the next `n` codes; rows of -1 once the list is exhausted."""
        asked = self.codes[int(state) : int(state) + n]
        filled = np.pad(asked, ((0, n - len(asked)), (0, 0)), constant_values=-1)
        return jnp.int32(int(state) + len(asked)), jnp.asarray(filled)

    def tell(self, state: Int[Array, ""], codes: Codes, values: Values) -> Int[Array, ""]:
        """Returns the state unchanged."""
        del codes, values
        return state
