"""The peak of devices and the operations of a step, against counts by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax.training import peak


@pytest.fixture(name="_seconds")
def _seconds(monkeypatch):
    """Every look at the clock takes a second."""
    ticks = itertools.count()
    monkeypatch.setattr(peak.time, "perf_counter", lambda: float(next(ticks)))


def test_a_step_counts_three_passes_of_two_operations():
    np.testing.assert_array_equal(peak.step_flops(np.array([1, 10**10]), 128), [768, 768 * 10**10])


@pytest.mark.usefixtures("_seconds")
def test_the_peak_counts_every_product_on_every_device():
    devices = jax.local_devices()[:2]
    assert peak.measure_peak(jnp.dtype(jnp.bfloat16), devices, size=8, repeats=3) == 2 * 8**3 * 3 * 2
