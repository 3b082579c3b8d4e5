"""Cluster nodes, the resources that a worker needs, and the number of workers that fit."""

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
      id: Ray's node id.
      name: address of the node.
      resources: total amount of each resource, free or in use.
    """

    id: str
    name: str
    resources: Mapping[str, float]


def alive(reported: Sequence[Mapping[str, Any]]) -> list[ClusterNode]:
    """Returns the live nodes from the result of `ray.nodes()`."""
    return [
        ClusterNode(node["NodeID"], node.get("NodeManagerAddress", "?"), node.get("Resources", {}))
        for node in reported
        if node["Alive"]
    ]


def device(nodes: Sequence[ClusterNode], settings: ClusterSettings) -> str:
    """Returns the device kind of the workers: the one set, or the best that any node has."""
    if settings.device != "auto":
        return settings.device
    found = (kind for kind in ("tpu", "gpu") if any(node.resources.get(ACCELERATORS[kind]) for node in nodes))
    return next(found, "cpu")


def need(node: ClusterNode, kind: str, settings: ClusterSettings) -> dict[str, float]:
    """Returns the resources of a node that one worker takes, by Ray's names.

    A worker takes one GPU or all TPU chips of the node, and CPU cores. With an accelerator, the number of cores is at
    most the worker's share of the node's cores.
    """
    if kind == "cpu":
        return {"CPU": settings.cores}
    accelerator = ACCELERATORS[kind]
    have = node.resources.get(accelerator, 0.0)
    share = 1.0 if kind == "gpu" else max(have, 1.0)
    cores = min(settings.cores, node.resources.get("CPU", 0.0) * share / have if have else 0.0)
    return {accelerator: share, "CPU": cores}


def room(node: ClusterNode, needed: Mapping[str, float]) -> int:
    """Returns the number of workers that fit on the node when it is otherwise idle."""
    shares = [node.resources.get(name, 0.0) / amount for name, amount in needed.items() if amount]
    return math.floor(min(shares, default=0.0) + 1e-9)
