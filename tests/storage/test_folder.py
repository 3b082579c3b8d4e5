"""Folders of runs, trainings and rankings."""

import os

import pytest

from lanas_jax.storage.folder import FolderKind, RunError
from lanas_jax.study.run_folder import RUN
from lanas_jax.trainer.folder import TRAINING

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


@pytest.mark.parametrize("kind", [RUN, TRAINING], ids=["run", "training"])
def test_a_value_of_another_type_is_named(kind, tmp_path):
    good = {str: "x", int: 1, dict: {}, list: []}
    values = {name: good.get(types) for name, types in kind.types.items()}  # None for those that may be None
    record = {"format": kind.format} | dict.fromkeys(kind.keys) | values
    with kind.created(tmp_path, record):
        pass
    assert kind.read(tmp_path) == record
    for name in kind.types:
        with kind.created(tmp_path, record | {name: 1.5}):
            pass
        with pytest.raises(RunError, match=rf"{kind.record} is damaged: {name} is 1.5, expected (str|int|dict|list)"):
            kind.read(tmp_path)
