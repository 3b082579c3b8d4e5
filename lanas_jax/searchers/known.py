"""The input and output of a batch of draws: trials, partition tree and surrogate model."""

from typing import NamedTuple

from lanas_jax.searchers.history import History
from lanas_jax.searchers.partition import PartitionTree
from lanas_jax.searchers.surrogate import GaussianProcess


class Known(NamedTuple):
    """Trials, partition tree and surrogate model; drawn codes are added to all three as pending."""

    history: History  # seen codes
    tree: PartitionTree  # regions
    model: GaussianProcess  # predicted values of codes
