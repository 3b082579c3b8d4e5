"""Every space and every searcher that the conformance suite runs.

By default all searchers run on the canonical pool, and all but three that draw as LaNAS does on the lattice; the
searcher whose programs are small on all spaces, and LaNAS on a small space of ranges and conditions. In slow tests,
LaNAS runs on all spaces, too. Each of the others runs on three that are least like pool and lattice: one whose columns
differ, one that is listed and has equivalent codes, and one of networks that is not listed.
"""

import dataclasses

import jax.numpy as jnp
import pytest

import lanas_jax as lx
from lanas_jax.spaces.mnasnet import MnasNetSpace
from lanas_jax.spaces.mobilenet import MobileNetSpace
from lanas_jax.spaces.mobilenet_settings import STAGES
from lanas_jax.spaces.nasbench101 import NASBench101Space
from lanas_jax.spaces.nasbench201 import NASBench201Space
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.spaces.nasnet_masks import NASNetMasks
from lanas_jax.spaces.natsbench_size import NATSBenchSizeSpace
from tests.searchers.canonical import CONDITIONAL, LATTICE_SPACE, POOL, POOL_SPACE, product


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


CANONICAL = {"pool": (POOL_SPACE, POOL), "lattice": (LATTICE_SPACE, None)}
SPACES = {
    "mixed": lx.SearchSpace([lx.Choice("a", ("x",)), lx.Choice("b", range(2)), lx.Choice("c", range(30))]),
    "listed": product(5),
    "equivalent codes": Pairs([lx.Choice("a", range(9)), lx.Choice("b", range(9)), lx.Choice("c", range(3))]),
    "conditional": CONDITIONAL,
    "conditional, 4e12": lx.SearchSpace(
        [
            lx.Range("layers", 1, 8),
            *(
                lx.Choice(f"{name} {i}", options, when={"layers": range(i + 1, 9)} | conditions)
                for i in range(8)
                for name, options, conditions in (
                    ("operation", ("conv", "pool", "skip"), {}),
                    ("kernel", (3, 5, 7, 9), {f"operation {i}": ("conv", "pool")}),
                    ("width", range(16, 129, 16), {f"operation {i}": "conv"}),
                )
            ),
        ]
    ),
    "NAS-Bench-101": NASBench101Space(),
    "NAS-Bench-201": NASBench201Space(),
    "NATS-Bench sizes": NATSBenchSizeSpace(),
    "MnasNets, 1e11": MnasNetSpace(),
    "NASNet cells, 4e6": NASNetSpace(blocks=3, two_cells=False, channels=8, cells=3, image_size=8, image_channels=1),
    "NASNet masks, 1e20": NASNetMasks(channels=8, cells=3, image_size=8, image_channels=1),
    "MobileNets": MobileNetSpace(stages=STAGES[:2], depths=(1, 2), widths=(0.5, 1.0), resolutions=(32, 48, 64)),
}

SEARCHERS = {
    "ActionMCTS": lx.ActionMCTS,
    "BayesianOptimization": lambda space, pool=None: lx.BayesianOptimization(space, pool=pool, capacity=64),
    "LaNAS": lx.LaNAS,
    "LaNAS.paper": lx.LaNAS.paper,
    "NSGA2": lambda space, pool=None: lx.NSGA2(space, ("first", "second"), pool=pool, population=6),
    "ParetoLaNAS": lambda space, pool=None: lx.ParetoLaNAS(space, ("first", "second"), pool=pool, initial=10),
    "LocalSearch": lambda space, pool=None: lx.LocalSearch(space, pool=pool, initial=3),
    "RandomSearch": lx.RandomSearch,
    "RegularizedEvolution": lambda space, pool=None: lx.RegularizedEvolution(space, pool=pool, population=12),
}


AS_LANAS = ("LaNAS.paper", "NSGA2", "ParetoLaNAS")  # draw codes as LaNAS does
SPACES_OF_EACH_KIND = ("mixed", "equivalent codes", "MobileNets")


def pairs():
    """Searchers on spaces, as parameters of tests."""
    for searcher in SEARCHERS:
        for space in (*CANONICAL, *(SPACES if searcher in ("LaNAS", "RandomSearch") else SPACES_OF_EACH_KIND)):
            default = {"pool": True, "lattice": searcher not in AS_LANAS, "conditional": searcher == "LaNAS"}
            slow = not default.get(space, searcher == "RandomSearch")
            yield pytest.param((searcher, space), marks=[pytest.mark.slow] * slow, id=f"{searcher}-{space}")


def build(kind, name):
    return SEARCHERS[kind](*CANONICAL[name]) if name in CANONICAL else SEARCHERS[kind](SPACES[name])


@pytest.fixture(params=pairs(), scope="session")
def searcher(request):
    return build(*request.param)


@pytest.fixture(
    params=[("BayesianOptimization", "pool"), ("NSGA2", "pool"), ("ActionMCTS", "lattice"), ("LaNAS", "lattice")],
    ids="-".join,
)
def jitted_searcher(request):
    """One that fits a model, one of several objectives, one that draws by roll-outs and one that draws by walks."""
    return build(*request.param)


@pytest.fixture(params=SEARCHERS)
def make(request):
    """A kind of searcher: called with a space, and codes to draw from."""
    return SEARCHERS[request.param]


def traced_pairs():
    """The same, where nothing is compiled: LaNAS on a network space by default, too."""
    for parameter in pairs():
        slow = any(mark.name == "slow" for mark in parameter.marks) and parameter.id != "LaNAS-MobileNets"
        yield pytest.param(*parameter.values, marks=[pytest.mark.slow] * slow, id=parameter.id)


@pytest.fixture(params=traced_pairs())
def traced_searcher(request):
    return build(*request.param)
