"""What this process may compute with: processor cores, and the devices that JAX sees."""

import os
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh


def cores() -> int:
    """Processor cores that this process may use; at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_device_per_core() -> None:
    """Lets JAX see every CPU core as a device of its own, so that candidates train side by side.

    Call it before the first array is made; later, or where the number was chosen already, it changes nothing. Where
    there is a GPU or TPU it does no harm: candidates go to those.
    """
    by_flag = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if by_flag or jax.config.jax_num_cpu_devices != -1:  # type: ignore[attr-defined]
        return
    try:
        jax.config.update("jax_num_cpu_devices", cores())
    except RuntimeError:  # the backend is up already: go on with the devices it has
        return


def mesh_of(devices: Sequence[jax.Device], axis: str) -> Mesh:
    """Returns a mesh of devices along one axis, over which XLA spreads work as shardings say."""
    return jax.make_mesh((len(devices),), (axis,), axis_types=(AxisType.Auto,), devices=list(devices))
