"""Where there is room for workers: nodes of a cluster, and what a worker takes of them."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lanas_jax.cluster.settings import ClusterSettings

ACCELERATORS = {"gpu": "GPU", "tpu": "TPU"}  # Ray's names of resources


@dataclasses.dataclass(frozen=True)
class ClusterNode:
    """A node that is alive.

    Attributes:
      id: Ray's.
      name: its address.
      resources: how much it has of each, free or not.
    """

    id: str
    name: str
    resources: Mapping[str, float]


def alive(told: Sequence[Mapping[str, Any]]) -> list[ClusterNode]:
    """The nodes that are alive, of what `ray.nodes()` told."""
    return [
        ClusterNode(node["NodeID"], node.get("NodeManagerAddress", "?"), node.get("Resources", {}))
        for node in told
        if node["Alive"]
    ]


def device(nodes: Sequence[ClusterNode], settings: ClusterSettings) -> str:
    """What workers compute with: as set, or the best that any node has."""
    if settings.device != "auto":
        return settings.device
    found = (kind for kind in ("tpu", "gpu") if any(node.resources.get(ACCELERATORS[kind]) for node in nodes))
    return next(found, "cpu")


def need(node: ClusterNode, kind: str, settings: ClusterSettings) -> dict[str, float]:
    """What a worker takes of a node's resources, by Ray's names.

    A GPU, or every TPU chip of the node, and CPU cores: with an accelerator no more than the node has for each.
    """
    if kind == "cpu":
        return {"CPU": settings.cores}
    accelerator = ACCELERATORS[kind]
    have = node.resources.get(accelerator, 0.0)
    share = 1.0 if kind == "gpu" else max(have, 1.0)
    cores = min(settings.cores, node.resources.get("CPU", 0.0) * share / have if have else 0.0)
    return {accelerator: share, "CPU": cores}


def room(node: ClusterNode, needed: Mapping[str, float]) -> int:
    """Workers for which a node has the resources, were it free."""
    shares = [node.resources.get(name, 0.0) / amount for name, amount in needed.items() if amount]
    return math.floor(min(shares, default=0.0) + 1e-9)
