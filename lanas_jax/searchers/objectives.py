"""The objectives of a search with several: their names, and which of them are known before training.

Every objective is maximised inside a search. A cost of `SearchSpace.cost` is its negative there.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from lanas_jax.searchers.hypervolume import MOST_OBJECTIVES
from lanas_jax.spaces.base import Codes, Cost, SearchSpace

COSTS = Cost._fields  # objectives that are exact: names of `SearchSpace.cost`


def check_objectives(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the objectives of a search, with underscores in place of hyphens.

    Raises:
      ValueError: there are fewer than two or more than four, or a name occurs twice.
    """
    if isinstance(names, str):
        raise ValueError(f"objectives must be several names; got the single text {names!r}")
    checked = tuple(str(name).replace("-", "_") for name in names)
    twice = [name for i, name in enumerate(checked) if name in checked[:i]]
    if twice:
        raise ValueError(f"the objective {twice[0]!r} is given twice; give each once")
    if not 2 <= len(checked) <= MOST_OBJECTIVES:
        raise ValueError(
            f"a search for a front has 2 to {MOST_OBJECTIVES} objectives; got {len(checked)}: {', '.join(checked)}"
        )
    return checked


def exact_objectives(space: SearchSpace, codes: Codes, names: Sequence[str]) -> Float[np.ndarray, "n exact"]:
    """Returns the negative costs of codes, a column for each of the names in `COSTS`, in order.

    Raises:
      ValueError: a name is in `COSTS`, and the space does not define costs.
    """
    wanted = [name for name in names if name in COSTS]
    if not wanted:
        return np.zeros((len(codes), 0), np.float32)
    try:
        costs = space.cost(np.asarray(codes))
    except NotImplementedError as error:
        raise ValueError(f"the objective {wanted[0]!r} is a cost, but {error}") from error
    return -np.stack([np.asarray(getattr(costs, name)) for name in wanted], axis=1).astype(np.float32)
