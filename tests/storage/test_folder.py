"""Folders of runs, trainings and rankings."""

import os
from concurrent.futures import ThreadPoolExecutor

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


def test_of_processes_that_create_a_folder_at_once_one_does(tmp_path):
    def create(directory):
        try:
            with KIND.created(directory, {}):
                if KIND.exists(directory):
                    raise RunError("exists")
                (directory / "trials").touch(exist_ok=False)
        except RunError as error:
            return str(error)
        return "created"

    with ThreadPoolExecutor(4) as threads:
        for i in range(20):
            done = sorted(threads.map(create, [tmp_path / str(i)] * 4), key="created".__ne__)
            assert done[0] == "created"
            assert set(done[1:]) <= {"exists", f"{tmp_path / str(i)} is in use by another process: wait until it ends"}
            assert sorted(path.name for path in (tmp_path / str(i)).iterdir()) == ["config.json", "trials"]


def test_a_creation_that_was_killed_is_begun_again(tmp_path):
    for name in KIND.unfinished:
        (tmp_path / name).write_text("{")
    with KIND.created(tmp_path, {}):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


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
