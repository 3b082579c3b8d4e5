"""Every space and every searcher that the conformance suite runs."""

import dataclasses

import jax.numpy as jnp
import pytest

import lanas_jax as lx
from lanas_jax.spaces.nasbench101 import NASBench101Space
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.spaces.nasnet_masks import NASNetMasks


@dataclasses.dataclass(frozen=True, init=False)
class Pairs(lx.SearchSpace):
    """Unordered pairs of different options: codes (a, b) and (b, a) build the same network, (a, a) none."""

    def valid(self, codes):
        codes = jnp.asarray(codes)
        return super().valid(codes) & (codes[:, 0] != codes[:, 1])

    def canonical(self, codes):
        codes = jnp.asarray(codes, jnp.int32)
        return codes.at[:, :2].set(jnp.sort(codes[:, :2], axis=1))

    def features(self, codes):
        return super().features(self.canonical(codes))


def product(dims, options):
    return lx.SearchSpace([lx.Choice(f"choice{i}", range(options)) for i in range(dims)])


SPACES = {
    "mixed": lx.SearchSpace([lx.Choice("a", ("x",)), lx.Choice("b", range(2)), lx.Choice("c", range(30))]),
    "listed": product(5, 4),
    "equivalent codes": Pairs([lx.Choice("a", range(9)), lx.Choice("b", range(9)), lx.Choice("c", range(3))]),
    "NAS-Bench-101": NASBench101Space(),
    "lattice of 1e20": product(40, 3),
    "NASNet cells, 4e6": NASNetSpace(blocks=3, two_cells=False, channels=8, cells=3, image_size=8, image_channels=1),
    "NASNet masks, 1e20": NASNetMasks(channels=8, cells=3, image_size=8, image_channels=1),
}

SEARCHERS = {
    "ActionMCTS": lx.ActionMCTS,
    "BayesianOptimization": lx.BayesianOptimization,
    "LaNAS": lx.LaNAS,
    "LaNAS.paper": lx.LaNAS.paper,
    "LocalSearch": lambda space, pool=None: lx.LocalSearch(space, pool=pool, initial=3),
    "RandomSearch": lx.RandomSearch,
    "RegularizedEvolution": lambda space, pool=None: lx.RegularizedEvolution(space, pool=pool, population=12),
}


QUICK = ("listed", "lattice of 1e20")  # compiling for the others takes minutes


@pytest.fixture(params=[name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SPACES])
def space(request):
    return SPACES[request.param]


@pytest.fixture
def spaces():
    return SPACES


@pytest.fixture(params=SEARCHERS)
def make(request):
    return SEARCHERS[request.param]
