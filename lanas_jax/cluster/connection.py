"""Ray, and how it is reached: the only file that starts it or ends it.

=======================  ==============================================================================
``ray``                  the cluster that RAY_ADDRESS names or that runs on this machine; else a new one,
                         of this machine alone, that ends with the search
``ray:HOST:PORT``        the cluster whose head is there (6379 is the usual port); from one of its nodes
``ray://HOST:PORT``      the same through Ray's client server (10001), from a machine outside
=======================  ==============================================================================

The driver computes with the CPU: accelerators belong to the workers, and a TPU to whoever looks for it first.
"""

import contextlib
import importlib
import importlib.util
import logging
import os
from collections.abc import Iterator
from typing import Any

TOKEN = ". Where it asks for a token: set RAY_AUTH_MODE=token, and copy ~/.ray/auth_token from its head"
USAGE = "local, ray, ray:HOST:PORT (from a node of the cluster) or ray://HOST:PORT (Ray's client server, from anywhere)"


class ClusterError(Exception):
    """A cluster that cannot be used as asked."""


def check_address(address: str) -> str:
    """The address, if it is one.

    Raises:
      ClusterError: it is none, or Ray is not installed.
    """
    kind, _, place = address.removeprefix("ray://").removeprefix("ray:").rpartition(":")
    wellformed = address in ("local", "ray") or (
        address.startswith("ray:") and bool(kind) and "/" not in kind and place.isdigit()
    )
    if not wellformed:
        raise ClusterError(f"{address!r} is no cluster: give {USAGE}")
    if address != "local" and importlib.util.find_spec("ray") is None:
        raise ClusterError(f"--cluster {address} needs Ray, which is not installed: pip install 'lanas-jax[ray]'")
    return address


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster; disconnected at the end, which ends this driver's workers.

    Raises:
      ClusterError: as `check_address`; no cluster answers at the address.
    """
    check_address(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import jax

    settings: Any = jax.config
    settings.update("jax_platforms", "cpu")
    ray: Any = importlib.import_module("ray")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
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


def _join_or_start(ray: Any, quiet: dict[str, Any]) -> None:
    """The cluster there is, or one of this machine alone."""
    try:
        ray.init("auto", **quiet)
    except ConnectionError:
        if "RAY_ADDRESS" in os.environ:
            raise
        ray.init("local", include_dashboard=False, **quiet)
