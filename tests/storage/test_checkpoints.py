"""Checkpoints whose files are whole but hold other arrays than were saved."""

import shutil

import jax.numpy as jnp
import numpy as np

from lanas_jax.storage.checkpoints import Checkpoints

STANDS_FOR = "what led to it"


def saved(directory, state):
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(1, state, STANDS_FOR)
    return directory


def restored(directory, like):
    with Checkpoints(directory) as checkpoints:
        return checkpoints.restore(like, {1: STANDS_FOR})


def test_one_number_that_differs_in_its_last_bit_is_noticed(tmp_path):
    state = {"weights": jnp.ones(2000)}
    other = {"weights": state["weights"].at[1000].set(np.nextafter(np.float32(1), np.float32(2)))}
    sound, exchanged = (saved(tmp_path / name, state) for name in ("sound", "exchanged"))
    shutil.rmtree(exchanged / "1" / "state")
    shutil.copytree(saved(tmp_path / "other", other) / "1" / "state", exchanged / "1" / "state")
    np.testing.assert_array_equal(restored(sound, state).state["weights"], state["weights"])
    assert restored(exchanged, state) is None
