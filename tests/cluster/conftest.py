"""A Ray cluster of several raylets on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LANAS = [sys.executable, "-c", "from lanas_jax.cli import run_and_exit; run_and_exit()"]


class Nodes:
    """A cluster whose head has no cores, and nodes that join it and leave it."""

    def __init__(self, cluster):
        self._cluster = cluster
        self.address, self.root = f"ray:{cluster.address}", ROOT

    def join(self, cores=1, **environment):
        """One more node; what runs on it has these environment variables."""
        return self._cluster.add_node(num_cpus=cores, object_store_memory=10**8, env_vars=environment, wait=True)

    def kill(self, node):
        """SIGKILL to every process of a node, as when its power is cut."""
        self._cluster.remove_node(node, allow_graceful=False)

    def lanas(self, *arguments, folder=ROOT):
        """Starts a driver in a folder."""
        return subprocess.Popen(
            [*LANAS, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        )


@pytest.fixture(scope="module")
def nodes():
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'lanas-jax[ray]'")
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 10**8})
    yield Nodes(cluster)
    cluster.shutdown()
