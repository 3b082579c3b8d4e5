"""Folders of runs, trainings and rankings."""

import os

import pytest

from lanas_jax.storage.folder import FolderKind, RunError

KIND = FolderKind("run", "config.json")


def test_two_locks_exclude_each_other(tmp_path):
    with KIND.created(tmp_path, {}):
        pass
    with KIND.lock(tmp_path), pytest.raises(RunError, match="in use by another process"), KIND.lock(tmp_path):
        pass
    with KIND.lock(tmp_path):
        pass


@pytest.mark.parametrize("unwritable", ["permissions", "another type"])
def test_a_record_that_cannot_be_written_is_named(unwritable, tmp_path):
    record = tmp_path / KIND.record
    if unwritable == "another type":
        record.mkdir()
    else:
        record.touch(0o444)
        if os.access(record, os.W_OK):
            pytest.skip("permissions do not hold for this user")
    with pytest.raises(RunError, match=rf"cannot write to {tmp_path}: "), KIND.lock(tmp_path):
        pass
