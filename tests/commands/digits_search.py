"""The search of `digits` without the training of its winner, which takes longer to compile than all of the search.

On any machine: lanas search tests/commands/digits_search.py
"""

import dataclasses

from lanas_jax.experiments import digits
from lanas_jax.study import Experiment


@dataclasses.dataclass(frozen=True)
class Config(digits.Config):
    """Settings of the search."""

    budget: int = 24
    blocks: int = 1
    channels: int = 2
    cells: int = 1
    epochs: int = 1


def build(config: Config) -> Experiment:
    """The search."""
    return dataclasses.replace(digits.build(config), winner=None)
