"""Placement of a process's arrays on the devices of all processes."""

from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array


def placed(tree: Any, everywhere: NamedSharding) -> Any:
    """Places a tree of arrays on every device of a replicated sharding. Each process holds the whole tree."""
    if everywhere.is_fully_addressable:
        return jax.device_put(tree, everywhere)
    return jax.tree.map(lambda leaf: _on_all(leaf, everywhere), tree)


def shard_batch(local: Any, batch: NamedSharding, hosts: int) -> Array:
    """Assembles one global array from the shares of `hosts` processes, in process order; `local` is this share."""
    if batch.is_fully_addressable:
        return jax.device_put(local, batch)
    return jax.make_array_from_process_local_data(batch, local, (len(local) * hosts, *local.shape[1:]))


def _on_all(leaf: Any, everywhere: NamedSharding) -> Array:
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_on_all(jax.random.key_data(leaf), everywhere), impl=jax.random.key_impl(leaf))
    array = np.asarray(leaf)
    return jax.make_array_from_process_local_data(everywhere, array, array.shape)
