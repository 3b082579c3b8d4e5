"""Checkpoints in folders of any name, and those whose files are whole but hold other arrays than were saved."""

import os
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax.storage.checkpoints import Checkpoints
from lanas_jax.storage.saving import CheckpointError

STANDS_FOR = "what led to it"


def saved(directory, state, behind=False):
    with Checkpoints(directory, behind) as checkpoints:
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


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize(
    "name",
    ["gl[v2]", "[a-z]", "a*b", "**", "what?", "back\\slash", "gs:", "new\nline", "100%", "\u00e9t\u00e9", "x" * 255],
)
def test_a_folder_may_have_any_name(tmp_path, name, behind):
    state = {"weights": jnp.arange(5.0)}
    directory = tmp_path / name / name
    np.testing.assert_array_equal(restored(saved(directory, state, behind), state).state["weights"], state["weights"])
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_orbax_does_not_merge_the_files_of_a_folder_whose_name_fits_the_pattern(tmp_path):
    names = ("weights", "others")
    saved(tmp_path / "axb", {names[0]: jnp.ones(3)})
    state = {names[1]: jnp.zeros(3)}
    np.testing.assert_array_equal(restored(saved(tmp_path / "a*b", state), state).state[names[1]], np.zeros(3))


def test_checkpoints_are_numbered_and_deleted_through_a_link_as_well(tmp_path):
    with Checkpoints(tmp_path / "[1]") as checkpoints:
        for number in (1, 2, 3, 2):
            checkpoints.save(number, {"weights": jnp.ones(number)}, STANDS_FOR)
        assert checkpoints.numbers == [2, 3]
        checkpoints.discard_after(2)
    assert os.listdir(tmp_path / "[1]") == ["2"]


@pytest.mark.parametrize("behind", [False, True])
def test_what_is_damaged_on_its_way_to_the_disk_is_not_called_saved(tmp_path, monkeypatch, behind):
    settle = Checkpoints._settle

    def damage(self):
        settle(self)
        for path in (tmp_path / "1" / "state" / "d").iterdir():
            *content, last = path.read_bytes()
            path.write_bytes(bytes([*content, last ^ 1]))

    monkeypatch.setattr(Checkpoints, "_settle", damage)
    with pytest.raises(CheckpointError, match="does not hold what was saved when it is read back"):
        saved(tmp_path, {"weights": jnp.arange(1000.0)}, behind)


def test_an_error_in_the_context_is_not_replaced_by_one_of_the_checkpoints(tmp_path):
    def broken():
        with Checkpoints(tmp_path / "there", behind=True) as checkpoints:
            checkpoints.save(1, {"weights": jnp.ones(3)}, STANDS_FOR)
            shutil.rmtree(tmp_path, ignore_errors=True)  # it is being written to meanwhile
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
