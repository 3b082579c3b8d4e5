"""Arrays of a process placed on the devices of all processes."""

from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array


def placed(tree: Any, everywhere: NamedSharding) -> Any:
    """A tree of arrays on every device of a sharding that replicates; each process has the whole of it."""
    if everywhere.is_fully_addressable:
        return jax.device_put(tree, everywhere)
    return jax.tree.map(lambda leaf: _on_all(leaf, everywhere), tree)


def shared(local: Any, batch: NamedSharding, hosts: int) -> Array:
    """One array along the devices of all processes, of which this one has its share: of `hosts`, in their order."""
    if batch.is_fully_addressable:
        return jax.device_put(local, batch)
    return jax.make_array_from_process_local_data(batch, local, (len(local) * hosts, *local.shape[1:]))


def _on_all(leaf: Any, everywhere: NamedSharding) -> Array:
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_on_all(jax.random.key_data(leaf), everywhere), impl=jax.random.key_impl(leaf))
    array = np.asarray(leaf)
    return jax.make_array_from_process_local_data(everywhere, array, array.shape)
