"""A search of seconds that trains small networks from scratch, by any strategy, in whole or by halving.

On any machine: lanas search tests/candidates/small_experiment.py
"""

import dataclasses
from typing import Literal

import lanas_jax as lx
from lanas_jax.candidates.halving import Halving
from lanas_jax.data.splits import SearchData, Split
from lanas_jax.evaluators.from_scratch import FromScratch
from lanas_jax.study import Experiment
from lanas_jax.training.sgd import TrainConfig
from tests.candidates.small_network import SPACE, BuildableNetwork, stripes


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the search.

    Attributes:
      strategy: how candidates are trained.
      halving: whether the worse half of a batch stops early.
      epochs: of each training.
    """

    strategy: Literal["auto", "shared", "branchless", "specialised"] = "auto"
    halving: bool = False
    epochs: int = 4


def build(config: Config) -> Experiment:
    """The search."""
    data = SearchData(Split(*stripes(30)), Split(*stripes(21, seed=1)), 3)
    evaluator = FromScratch(
        BuildableNetwork(),
        data,
        TrainConfig(epochs=config.epochs, batch_size=8, learning_rate=0.05),
        per_device=2,
        strategy=config.strategy,
        halving=Halving((0.5,), 0.5) if config.halving else None,
    )
    return Experiment("small", SPACE, lx.RandomSearch(SPACE), evaluator, budget=7, batch=4, seed=0)
