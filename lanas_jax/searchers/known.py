"""What a batch of draws starts from, and leaves behind."""

from typing import NamedTuple

from lanas_jax.searchers.history import History
from lanas_jax.searchers.partition import PartitionTree
from lanas_jax.searchers.surrogate import GaussianProcess


class Known(NamedTuple):
    """Trials, and what was learned from them; drawn codes are added to all three as pending."""

    history: History  # which codes were seen
    tree: PartitionTree  # the regions
    model: GaussianProcess  # what to expect of codes
