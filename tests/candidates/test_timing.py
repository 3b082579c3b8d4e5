import itertools
import time

import jax
import numpy as np
import pytest

from lanas_jax.candidates import cost_model
from lanas_jax.candidates.population import Population
from lanas_jax.data.splits import SearchData, Split
from lanas_jax.training.sgd import TrainConfig
from tests.candidates.small_network import SmallNetwork, stripes


def keys(n):
    return jax.random.split(jax.random.key(0), n)


@pytest.fixture(scope="module")
def programs():
    images, labels = stripes(30)
    images[:3] = 3.0  # too bright for the operation "root"
    data = SearchData(Split(images, labels), Split(*stripes(6)), 3)
    population = Population(SmallNetwork(), TrainConfig(batch_size=30), jax.devices()[:2], 1, steps_per_dispatch=5)
    return population.compile(data)


@pytest.fixture
def _seconds(monkeypatch):
    """Every look at the clock takes a second."""
    ticks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))


@pytest.mark.slow
@pytest.mark.usefixtures("_seconds")
@pytest.mark.parametrize("steps", [None, 2])
def test_steps_are_timed_over_full_programs(programs, steps):
    seconds, timed = cost_model.time_steps(programs, np.zeros((3, 2), np.int32), keys(3), steps)
    assert len(timed) == 4  # two dispatches, of a second each
    assert seconds == pytest.approx(2 / ((steps or 5) * 4))


def test_steps_that_were_not_taken_are_not_timed(programs):
    with pytest.raises(FloatingPointError, match="expected 5 steps, got"):
        cost_model.time_steps(programs, np.array([[3, 0]], np.int32), keys(1))
