"""Machines by name: TPU slices such as ``v5e:4x4``, which need not be present, and ``local``, this process's devices.

libtpu provides the slices and compiles for them on any CPU. The capabilities of chips are the vendor's published
figures. JAX is imported inside functions, because `prepare` has to set the environment first.
"""

import dataclasses
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Any

LOCAL = "local"
GIB = 2**30

# libtpu reads these variables when it is loaded. Without the first, it queries for a minute a metadata server that
# exists only on Cloud TPU machines; the next three replace the server's answers. By default libtpu locks
# /tmp/libtpu_lockfile and refuses a second process; nothing is run here, so the last variable allows several.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class TopologyError(ValueError):
    """The name of an unknown machine."""


class MissingLibtpuError(Exception):
    """libtpu, which compiles for TPUs, is not installed."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """Capabilities of a chip or of a device of this process.

    Attributes:
      memory: memory available to programs, in bytes.
      bandwidth: memory bandwidth in bytes per second.
      flops: peak bfloat16 operations per second, two per multiply-add.
      clock: cycles per second, which the compiler's estimates are divided by; None: it makes none.
    """

    memory: float
    bandwidth: float
    flops: float
    clock: float | None = None


# Bandwidth and operations: cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e, tables of chip specifications. Memory:
# as available to programs according to errors of libtpu 0.0.52; published are 32 GiB, 16 GB, 95 GB and 32 GB. Clock:
# the operations divided by those of a chip's matrix units per cycle (v4 and v5p: 8 units of 128 x 128; v5e: 4; v6e: 4
# of 256 x 256), two per multiply-add.
CHIPS = {
    "v4": Chip(30.75 * GIB, 1200e9, 275e12, 1.05e9),
    "v5e": Chip(15.75 * GIB, 819e9, 197e12, 1.5e9),
    "v5p": Chip(95.73 * GIB, 2765e9, 459e12, 1.75e9),
    "v6e": Chip(31.24 * GIB, 1640e9, 918e12, 1.75e9),
}
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")
SHAPES = {"v4": CUBES, "v5e": FLAT, "v5p": CUBES, "v6e": FLAT}


@dataclasses.dataclass(frozen=True, eq=False)
class Topology:
    """A machine to compile for.

    Attributes:
      name: requested name.
      devices: devices of the machine, one per chip.
      chip: capabilities of each device.
    """

    name: str
    devices: Sequence[Any]
    chip: Chip


def check_topology(name: str) -> None:
    """Checks the name of a machine; does not need libtpu.

    Raises:
      TopologyError: the name is unknown; the message lists the known names.
    """
    kind, _, shape = name.partition(":")
    if name == LOCAL or shape in SHAPES.get(kind, ()):
        return
    known = "; ".join(f"{kind}:{', '.join(shapes)}" for kind, shapes in SHAPES.items())
    raise TopologyError(f"unknown topology {name!r}; choose from {LOCAL}; {known}")


def prepare(name: str) -> None:
    """Sets up this process to compile for a machine; must be called before JAX creates its first array.

    For a TPU slice, JAX itself computes on CPUs, and environment variables configure libtpu.

    Raises:
      TopologyError: the name is unknown.
      MissingLibtpuError: libtpu is not installed.
    """
    check_topology(name)
    if name == LOCAL:
        return
    if importlib.util.find_spec("libtpu") is None:
        raise MissingLibtpuError(
            f"libtpu is not installed; compiling for {name} needs it: pip install 'lanas-jax[tpu-plan]'"
        )
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    if "jax" not in sys.modules:
        os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    jax.config.update("jax_platforms", "cpu")


def find_topology(name: str) -> Topology:
    """Returns the machine of that name, after calling `prepare`.

    Raises:
      TopologyError: the name is unknown.
      MissingLibtpuError: libtpu is not installed.
    """
    prepare(name)
    if name == LOCAL:
        return _local()
    from jax.experimental import topologies

    kind = name.partition(":")[0]
    # A v4 chip has two cores. Real machines show them as one device by default; a compile-only topology does not.
    settings: dict[str, Any] = {"chip_config_name": "megacore"} if kind == "v4" else {}
    if name.endswith(":1x1"):
        settings["chips_per_host_bounds"] = [1, 1, 1]  # the default, 2x2x1, does not divide a slice of one chip
    found = topologies.get_topology_desc(platform="tpu", topology_name=name, **settings)
    return Topology(name, tuple(found.devices), CHIPS[kind])


def _local() -> Topology:
    """Returns this process's devices, with peaks measured by matrix products and additions of large arrays."""
    import jax
    import jax.numpy as jnp

    from lanas_jax.training.peak import measure_bandwidth, measure_peak

    devices = jax.local_devices()
    dtype = jnp.dtype(jnp.float32 if devices[0].platform == "cpu" else jnp.bfloat16)
    flops, bandwidth = measure_peak(dtype, devices), measure_bandwidth(devices)
    return Topology(LOCAL, devices, Chip(_memory(devices), bandwidth / len(devices), flops / len(devices)))


def _memory(devices: Sequence[Any]) -> float:
    """Returns the memory per device in bytes; devices without their own share the memory of the machine equally."""
    limits = devices[0].memory_stats() or {}
    if "bytes_limit" in limits:
        return float(limits["bytes_limit"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / len(devices)
