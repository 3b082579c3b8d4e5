"""The objectives of a search with several: their names, and which of them are known before training.

Every objective is maximised inside a search. A cost of `SearchSpace.cost` is its negative there.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lanas_jax.searchers.hypervolume import MOST_OBJECTIVES
from lanas_jax.spaces.base import Codes, Cost, SearchSpace

COSTS = Cost._fields  # objectives that may be exact: names of `SearchSpace.cost`


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


def exact_costs(
    space: SearchSpace, names: Sequence[str], codes: Codes | None
) -> tuple[tuple[bool, ...], Float[np.ndarray, "m exact"]]:
    """Returns which objectives are known before training, and their values of listed codes.

    Costs are: those of listed codes if the space defines `SearchSpace.cost`, and of all codes if it defines
    `SearchSpace.traced_cost`. In other spaces, they are learned from the trials.

    Args:
      space: search space.
      names: names of the objectives.
      codes: all codes that a search may try; None for codes that are not listed.

    Returns:
      Whether each objective is exact, and a column of negative costs for each that is; no rows without listed codes.
    """
    costs: np.ndarray | None = None
    wanted = [name for name in names if name in COSTS]
    if codes is not None and wanted:
        try:
            found = space.cost(np.asarray(codes))
        except NotImplementedError:
            pass
        else:
            costs = -np.stack([np.asarray(getattr(found, name)) for name in wanted], axis=1).astype(np.float32)
    elif wanted:
        one = jax.ShapeDtypeStruct((1, space.dims), jnp.int32)
        if jax.eval_shape(lambda codes: traced_costs(space, names, codes), one) is not None:
            costs = np.zeros((0, len(wanted)), np.float32)
    if costs is None:
        return (False,) * len(names), np.zeros((0 if codes is None else len(codes), 0), np.float32)
    return tuple(name in COSTS for name in names), costs


def traced_costs(space: SearchSpace, names: Sequence[str], codes: Codes) -> Float[Array, "n exact"] | None:
    """Returns negative costs of codes inside a compiled program, a column for each of the names in `COSTS`, in order.

    None if the space computes costs on the host alone.
    """
    costs = space.traced_cost(codes)
    return None if costs is None else -costs[:, np.array([COSTS.index(name) for name in names if name in COSTS])]
