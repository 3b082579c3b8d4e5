"""The processor cores and JAX devices of this process."""

import os
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh


def cores() -> int:
    """Returns the number of processor cores that this process may use, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_device_per_core() -> None:
    """Makes every CPU core a separate JAX device, so that candidates train in parallel.

    It must be called before the first array is created. A later call, or a call after the number of CPU devices was
    set, has no effect. With a GPU or TPU it is harmless, since candidates are placed there.
    """
    by_flag = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if by_flag or jax.config.jax_num_cpu_devices != -1:  # type: ignore[attr-defined]
        return
    try:
        jax.config.update("jax_num_cpu_devices", cores())
    except RuntimeError:  # the backend is already initialized: use its devices
        return


def per_device_share(count: int) -> int:
    """Returns the largest number of candidates on one device when `count` are spread over those of all processes."""
    return -(-count // jax.device_count())


def sharing_devices(batch_size: int) -> Sequence[jax.Device]:
    """Returns the devices that share each batch of a training.

    With one process, they are as many of its devices (on CPUs, cores) as divide the batch equally. With several
    processes, they are all devices of all processes.
    """
    if jax.process_count() > 1:
        return jax.devices()
    devices = jax.local_devices()
    return devices[: max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)]


def one_core_per_process(devices: Sequence[jax.Device]) -> Sequence[jax.Device]:
    """Returns the devices to train one network on: of CPU devices the first of each process, which uses all cores.

    Sharing each batch between devices that are cores takes several times as long as one device does.
    """
    if devices[0].platform != "cpu":
        return devices
    firsts = {device.process_index: device for device in reversed(devices)}
    return [firsts[process] for process in sorted(firsts)]


def mesh_of(devices: Sequence[jax.Device], axis: str) -> Mesh:
    """Returns a one-dimensional mesh of devices, over which XLA partitions work according to shardings."""
    return jax.make_mesh((len(devices),), (axis,), axis_types=(AxisType.Auto,), devices=list(devices))
