"""Names of machines."""

import importlib.util

import jax
import pytest

from lanas_jax.planning import topology
from lanas_jax.training import peak


def test_an_unknown_machine_lists_those_there_are():
    with pytest.raises(topology.TopologyError, match=r"unknown topology 'v5e:3x3'.*local; v4:2x2x1.*v6e:1x1.*16x16"):
        topology.check_topology("v5e:3x3")


@pytest.mark.parametrize("name", ["", "v5e", "v9:2x2", "v4:2x2", "v5e:2x2x1"])
def test_names_are_whole(name):
    with pytest.raises(topology.TopologyError, match="choose from"):
        topology.check_topology(name)


def test_slices_have_up_to_256_chips():
    chips = {kind: [chips_of(shape) for shape in shapes] for kind, shapes in topology.SHAPES.items()}
    assert {kind: max(numbers) for kind, numbers in chips.items()} == dict.fromkeys(topology.CHIPS, 256)
    assert all(numbers == sorted(set(numbers)) for numbers in chips.values())


def chips_of(shape):
    product = 1
    for side in shape.split("x"):
        product *= int(side)
    return product


def test_without_libtpu_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(topology.MissingLibtpuError, match=r"lanas-jax\[tpu-plan\]"):
        topology.prepare("v5e:2x2")


def test_local_is_what_this_process_has(monkeypatch):
    monkeypatch.setattr(peak, "measure_peak", lambda dtype, devices: 8.0 * len(devices))
    monkeypatch.setattr(peak, "measure_bandwidth", lambda devices: 4.0 * len(devices))
    machine = topology.find_topology("local")
    assert list(machine.devices) == jax.local_devices()
    assert (machine.chip.flops, machine.chip.bandwidth) == (8, 4)
    assert machine.chip.memory > 2**20


def test_bandwidth_counts_what_is_read_and_written(monkeypatch):
    ticks = iter(range(100))
    monkeypatch.setattr(peak.time, "perf_counter", lambda: float(next(ticks)))
    assert peak.measure_bandwidth(jax.local_devices()[:2], size=10) == 2 * 2 * 40
