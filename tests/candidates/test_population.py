import os
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from lanas_jax.candidates.population import Population
from lanas_jax.data.splits import SearchData, Split
from lanas_jax.runtime.devices import one_device_per_core
from lanas_jax.runtime.profiling import recording
from lanas_jax.training.sgd import TrainConfig
from tests.candidates.small_network import SmallNetwork, stripes

CONFIG = TrainConfig(epochs=3, batch_size=8, learning_rate=0.05)
DATA = SearchData(Split(*stripes(30)), Split(*stripes(21, seed=1)), 3)
CODES = np.array([[0, 0], [1, 1], [2, 0], [0, 1], [1, 0], [2, 1]], np.int32)
KEYS = jax.random.split(jax.random.key(3), len(CODES))


def compiled(devices, per_device, data=DATA, **settings):
    return Population(SmallNetwork(), CONFIG, jax.devices()[:devices], per_device, **settings).compile(data)


@pytest.fixture(scope="module")
def four():
    return compiled(4, 1, steps_per_dispatch=5)


@pytest.fixture(scope="module")
def results(four):
    return four.run(CODES, KEYS)


@pytest.mark.slow
def test_four_devices_give_the_values_of_one(results):
    one = compiled(1, 3).run(CODES, KEYS)
    for ours, theirs in zip(results[:4], one[:4], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(set(results.loss)) == len(CODES)


def test_place_and_neighbours_do_not_matter(four, results, tmp_path):
    order = np.array([4, 0, 5, 2, 1, 3])
    with recording(tmp_path) as traced:
        shuffled = four.run(CODES[order], KEYS[order])
    assert traced == ["candidates"]
    np.testing.assert_array_equal(shuffled.loss, results.loss[order])
    alone = four.run(CODES[2:3], KEYS[2:3])
    np.testing.assert_array_equal(alone.loss, results.loss[2:3])


def test_the_key_matters(four, results):
    other = four.run(CODES, jax.random.split(jax.random.key(4), len(CODES)))
    assert (other.loss != results.loss).all()


def test_vmapped_candidates_equal_sequential_ones_to_rounding(results):
    vmapped = compiled(1, 6, vmapped=True).run(CODES, KEYS)
    np.testing.assert_array_equal(vmapped.steps, results.steps)
    np.testing.assert_allclose(vmapped.loss, results.loss, rtol=1e-3)


def test_every_candidate_takes_all_its_steps(results):
    assert set(results.steps) == {CONFIG.steps(30)} == {12}


def test_data_is_on_every_device(four):
    for array in (*four.placed.train, *four.placed.held_out):
        assert array.sharding.is_fully_replicated
        assert len(array.sharding.device_set) == 4


def test_a_broken_candidate_leaves_its_neighbours_alone(four, results):
    images, labels = stripes(30)
    images[17] = 3.0
    data = SearchData(Split(images, labels), DATA.validation, 3)
    programs = compiled(2, 2, data=data)
    codes = np.array([[0, 0], [3, 0], [1, 1]], np.int32)
    mixed = programs.run(codes, KEYS[:3])
    sound = programs.run(codes[[0, 2]], KEYS[np.array([0, 2])])
    assert np.isnan(mixed.train_loss[1])
    assert mixed.steps[1] < 12
    np.testing.assert_array_equal(mixed.loss[[0, 2]], sound.loss)
    assert np.isfinite(sound.loss).all()


@pytest.fixture
def ctrl_c():
    """Ctrl-C as Python answers it, also where the tests were started with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_is_heard_between_dispatches(four):
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        four.fit(CODES[:4], KEYS[:4], epochs=100_000)


def test_one_device_per_core_comes_too_late_quietly():
    before = jax.devices()
    one_device_per_core()
    assert jax.devices() == before


def test_one_device_per_core():
    program = (
        "import jax; from lanas_jax.runtime.devices import one_device_per_core as start; start(); start(); "
        "print(len(jax.devices('cpu')))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert int(done.stdout) == len(os.sched_getaffinity(0))
