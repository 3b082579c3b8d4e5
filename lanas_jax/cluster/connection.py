"""Connections to Ray; the only file that starts or stops it.

=======================  ==============================================================================
``ray``                  the cluster named by RAY_ADDRESS or running on this machine; otherwise a new
                         one, of this machine alone, that ends with the search
``ray:HOST:PORT``        the cluster whose head node has that address (default port 6379); only from
                         one of its nodes
``ray://HOST:PORT``      a cluster through Ray's client server (default port 10001), from any machine
=======================  ==============================================================================

The driver runs on the CPU. Accelerators belong to the workers, and a TPU belongs to the first process that opens it.
"""

import contextlib
import importlib
import importlib.util
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

CONNECT_SECONDS = 10.0
TOKEN = ". If the cluster requires a token, set RAY_AUTH_MODE=token and copy ~/.ray/auth_token from its head node"
USAGE = "local, ray, ray:HOST:PORT (from a node of the cluster) or ray://HOST:PORT (Ray's client server, from anywhere)"


class ClusterError(Exception):
    """Raised when a cluster cannot be used as requested."""


def check_address(address: str) -> str:
    """Checks the form of a cluster address and returns it.

    Raises:
      ClusterError: the address is malformed, or Ray is not installed.
    """
    kind, _, place = address.removeprefix("ray://").removeprefix("ray:").rpartition(":")
    wellformed = address in ("local", "ray") or (
        address.startswith("ray:") and bool(kind) and "/" not in kind and place.isdigit()
    )
    if not wellformed:
        raise ClusterError(f"{address!r} is not a cluster address: choose from {USAGE}")
    if address != "local" and importlib.util.find_spec("ray") is None:
        raise ClusterError(f"--cluster {address} needs Ray, which is not installed: pip install 'lanas-jax[ray]'")
    return address


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Connects to a cluster and yields the Ray module; disconnects at the end, which stops this driver's workers.

    Raises:
      ClusterError: as in `check_address`, or no cluster answers at the address.
    """
    check_address(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import jax

    settings: Any = jax.config
    settings.update("jax_platforms", "cpu")
    ray: Any = importlib.import_module("ray")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        _check_reachable(address)
        if address == "ray":
            _join_or_start(ray, quiet)
        elif address.startswith("ray://"):
            ray.init(address, **quiet)
        else:
            ray.init(address.removeprefix("ray:"), **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ClusterError(f"no Ray cluster can be reached at {address}: {error}{TOKEN}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Connects to an address once: Ray itself would repeat its attempts for minutes.

    Raises:
      OSError: nothing answers at the address.
    """
    address = os.environ.get("RAY_ADDRESS", "") if address == "ray" else address
    host, _, port = address.removeprefix("ray:").removeprefix("//").rpartition(":")
    if host:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def _join_or_start(ray: Any, quiet: dict[str, Any]) -> None:
    """Connects to the running cluster, or starts one of this machine alone."""
    try:
        ray.init("auto", **quiet)
    except ConnectionError:
        if "RAY_ADDRESS" in os.environ:
            raise
        ray.init("local", include_dashboard=False, **quiet)
