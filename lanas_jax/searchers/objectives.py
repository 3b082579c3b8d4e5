"""The objectives of a search with several: their names, their directions, and which are known before training.

Every objective is maximised inside a search, so a cost is its negative there. `COSTS` are costs. Of any other quantity,
a minus in front of its name says so: ``-energy``.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lanas_jax.searchers.hypervolume import MOST_OBJECTIVES
from lanas_jax.spaces.base import Codes, Cost, SearchSpace

LATENCY = "latency"
COSTS = (*Cost._fields, LATENCY)  # objectives that may be exact: possible names of `SearchSpace.known_costs`


def is_cost(objective: str) -> bool:
    """Returns whether less of an objective is better."""
    return objective in COSTS or objective.startswith("-")


def quantity(objective: str) -> str:
    """Returns the name of the quantity that an objective measures, without the minus in front of a cost."""
    return objective.removeprefix("-")


def check_objectives(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the objectives of a search, with underscores in place of the hyphens inside names.

    Raises:
      ValueError: there are fewer than two or more than four, a name occurs twice, or one of `COSTS` has a minus.
    """
    if isinstance(names, str):
        raise ValueError(f"objectives must be several names; got the single text {names!r}")
    checked = tuple("-" * name.startswith("-") + quantity(name).replace("-", "_") for name in map(str, names))
    if twofold := [quantity(name) for name in checked if name.startswith("-") and quantity(name) in COSTS]:
        raise ValueError(f"{twofold[0]} is a cost, which is minimised anyway: leave out the minus in front of it")
    quantities = [*map(quantity, checked)]
    twice = [name for i, name in enumerate(quantities) if name in quantities[:i]]
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

    An objective of `SearchSpace.cost_names` is known for listed codes if the space defines `SearchSpace.cost`, and for
    all codes if it defines `SearchSpace.traced_cost`. In other spaces, it is learned from the trials.

    Args:
      space: search space.
      names: names of the objectives.
      codes: all codes that a search may try; None for codes that are not listed.

    Returns:
      Whether each objective is exact, and a column of negative costs for each that is; no rows without listed codes.
    """
    costs: np.ndarray | None = None
    known = space.cost_names
    wanted = [name for name in names if name in known]
    if codes is not None and wanted:
        try:
            found = space.known_costs(np.asarray(codes))
        except NotImplementedError:
            pass
        else:
            costs = -found[:, [*map(known.index, wanted)]].astype(np.float32)
    elif wanted:
        one = jax.ShapeDtypeStruct((1, space.dims), jnp.int32)
        if jax.eval_shape(lambda codes: traced_costs(space, names, codes), one) is not None:
            costs = np.zeros((0, len(wanted)), np.float32)
    if costs is None:
        return (False,) * len(names), np.zeros((0 if codes is None else len(codes), 0), np.float32)
    return tuple(name in known for name in names), costs


def traced_costs(space: SearchSpace, names: Sequence[str], codes: Codes) -> Float[Array, "n exact"] | None:
    """Returns negative costs of codes inside a compiled program, a column for each of `names` that is known.

    None if the space computes costs on the host alone.
    """
    costs, known = space.traced_cost(codes), space.cost_names
    return None if costs is None else -costs[:, np.array([known.index(name) for name in names if name in known])]
