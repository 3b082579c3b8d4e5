"""Arrays on the devices of several processes.

A process can neither place nor read the parts of an array on other processes' devices. So `put_global` gives every
process the whole array on the host and lets it place its own parts, and `fetch_global` gathers all parts in every
process. Both must be called by all processes in the same order, and are plain copies for devices of one process.
"""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jaxtyping import Array


def put_global(tree: Any, sharding: NamedSharding) -> Any:
    """Places a tree of arrays on the devices of a sharding. Every process has the whole tree; keys may be typed."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda leaf: _put(leaf, sharding), tree)


def fetch_global(tree: Any) -> Any:
    """Returns the arrays of a tree on the host of every process."""
    return jax.tree.map(_fetch, tree)


def addressable(tree: Any) -> Any:
    """Returns a tree whose arrays this process can use alone; copies only those on devices of several processes."""
    return jax.tree.map(lambda leaf: leaf if getattr(leaf, "is_fully_addressable", True) else _fetch(leaf), tree)


def _put(leaf: Any, sharding: NamedSharding) -> Array:
    if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
        return leaf
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
    if isinstance(leaf, bool | int | float):
        leaf = jax.device_put(leaf)  # in JAX's type
    host = _fetch(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda part: host[part])


def _fetch(leaf: Any) -> np.ndarray:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return np.asarray(leaf)
    if leaf.is_fully_replicated:
        return np.asarray(leaf.addressable_data(0))
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
