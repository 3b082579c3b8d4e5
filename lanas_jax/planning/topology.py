"""Machines by name: TPU slices that need not be here, ``v5e:4x4``, and ``local``, the devices of this process.

A slice comes from libtpu, which compiles for it on any CPU. What its chips can do is what their vendor publishes. JAX
is imported inside functions: `prepare` has to set the environment first.
"""

import dataclasses
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Any

LOCAL = "local"
GIB = 2**30

# Read by libtpu when it is loaded. Without the first it asks a metadata server that is there on Cloud TPU machines
# alone, for a minute; the next three are what it would have been told. Nothing is run, so that it need not be the only
# one that is loaded: by itself it holds /tmp/libtpu_lockfile, and refuses a second process.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class TopologyError(ValueError):
    """A machine that does not exist."""


class MissingLibtpuError(Exception):
    """What compiles for TPUs is not installed."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a chip, or a device of this process, can do.

    Attributes:
      memory: bytes that programs may use.
      bandwidth: bytes per second to and from that memory.
      flops: operations per second, bfloat16, two for each multiply-add.
    """

    memory: float
    bandwidth: float
    flops: float


# Bandwidth and operations: cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e, tables of chip specifications. Memory:
# what libtpu 0.0.52 leaves to programs of 32 GiB, 16 GB, 95 GB and 32 GB published there, as its errors say it.
CHIPS = {
    "v4": Chip(30.75 * GIB, 1200e9, 275e12),
    "v5e": Chip(15.75 * GIB, 819e9, 197e12),
    "v5p": Chip(95.73 * GIB, 2765e9, 459e12),
    "v6e": Chip(31.24 * GIB, 1640e9, 918e12),
}
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")
SHAPES = {"v4": CUBES, "v5e": FLAT, "v5p": CUBES, "v6e": FLAT}


@dataclasses.dataclass(frozen=True, eq=False)
class Topology:
    """A machine to compile for.

    Attributes:
      name: as it was asked for.
      devices: one for each chip.
      chip: what each of them can do.
    """

    name: str
    devices: Sequence[Any]
    chip: Chip


def check_topology(name: str) -> None:
    """Checks a name, without libtpu.

    Raises:
      TopologyError: there is no such machine; says which there are.
    """
    kind, _, shape = name.partition(":")
    if name == LOCAL or shape in SHAPES.get(kind, ()):
        return
    known = "; ".join(f"{kind}:{', '.join(shapes)}" for kind, shapes in SHAPES.items())
    raise TopologyError(f"there is no topology {name!r}. There are: {LOCAL}; {known}")


def prepare(name: str) -> None:
    """Sets this process up to compile for a machine; has to happen before JAX makes its first array.

    For a TPU slice, JAX itself computes on CPUs, and the environment tells libtpu what it would ask for.

    Raises:
      TopologyError: there is no such machine.
      MissingLibtpuError: libtpu is not installed.
    """
    check_topology(name)
    if name == LOCAL:
        return
    if importlib.util.find_spec("libtpu") is None:
        raise MissingLibtpuError(f"to compile for {name}, libtpu is needed: pip install 'lanas-jax[tpu-plan]'")
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    if "jax" not in sys.modules:
        os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    jax.config.update("jax_platforms", "cpu")


def find_topology(name: str) -> Topology:
    """The machine of that name; `prepare` first.

    Raises:
      TopologyError: there is no such machine.
      MissingLibtpuError: libtpu is not installed.
    """
    prepare(name)
    if name == LOCAL:
        return _local()
    from jax.experimental import topologies

    kind = name.partition(":")[0]
    # A v4 chip has two cores, which programs see as one device unless told otherwise, on machines but not here.
    settings = {"chip_config_name": "megacore"} if kind == "v4" else {}
    found = topologies.get_topology_desc(platform="tpu", topology_name=name, **settings)
    return Topology(name, tuple(found.devices), CHIPS[kind])


def _local() -> Topology:
    """The devices of this process, with what they reach in matrix products and additions of large arrays."""
    import jax
    import jax.numpy as jnp

    from lanas_jax.training.peak import measure_bandwidth, measure_peak

    devices = jax.local_devices()
    dtype = jnp.dtype(jnp.float32 if devices[0].platform == "cpu" else jnp.bfloat16)
    flops, bandwidth = measure_peak(dtype, devices), measure_bandwidth(devices)
    return Topology(LOCAL, devices, Chip(_memory(devices), bandwidth / len(devices), flops / len(devices)))


def _memory(devices: Sequence[Any]) -> float:
    """Bytes for each device: its own, or its share of the machine's where devices are cores."""
    limits = devices[0].memory_stats() or {}
    if "bytes_limit" in limits:
        return float(limits["bytes_limit"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / len(devices)
