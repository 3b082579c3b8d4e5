"""The setting `objectives` of experiments: its text, and the searchers of several objectives by their setting."""

import functools

import lanas_jax as lx
from lanas_jax.searchers.base import Searcher
from lanas_jax.spaces.base import SearchSpace


def objective_names(text: str) -> tuple[str, ...]:
    """Returns the names of several objectives, given as text with commas; none for the evaluator's value alone."""
    names = tuple(text.split(","))
    return names if names not in (("accuracy",), ("value",)) else ()


def front_searcher(name: str, space: SearchSpace, objectives: tuple[str, ...], capacity: int = 256) -> Searcher:
    """Returns a searcher of several objectives: ParetoLaNAS, random search or NSGA-II."""
    build = {
        "lanas": functools.partial(lx.ParetoLaNAS, capacity=capacity),
        "random": lambda space, names: lx.RandomSearch(space, objectives=len(names)),
        "evolution": lx.NSGA2,
    }
    return build[name](space, objectives)
