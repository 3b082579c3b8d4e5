"""Copies of run folders: complete and consistent, to other folders and through a remote file system."""

import contextlib
import shutil
import sqlite3

import pytest

from lanas_jax import cli, study
from lanas_jax.runtime.paths import PathError
from lanas_jax.storage import copies
from lanas_jax.storage.copies import copy_folder, place_of
from lanas_jax.storage.folder import RunError
from tests import toy_experiment
from tests.refusals import refused


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of four trials."""
    folder = tmp_path_factory.mktemp("copies") / "run"
    study.run(toy_experiment.build(toy_experiment.Config()), folder)
    return folder


@pytest.fixture
def bucket(monkeypatch):
    """A place gs://, which is fsspec's file system in memory, through all that gcsfs would go through."""
    fsspec = pytest.importorskip("fsspec")
    backend = pytest.importorskip("etils.epath.backend")
    from fsspec.implementations.memory import MemoryFileSystem

    class Bucket(MemoryFileSystem):
        protocol = ("gcs", "gs")
        store, pseudo_dirs = {}, [""]

        @classmethod
        def _strip_protocol(cls, path):
            return "/" + str(path).removeprefix("gs://").strip("/")

    fsspec.register_implementation("gcs", Bucket, clobber=True)
    backend.fsspec_backend._get_filesystem.cache_clear()
    monkeypatch.setattr(copies.importlib.util, "find_spec", lambda name: name)  # as if gcsfs were installed
    yield "gs://bucket/runs/one"
    backend.fsspec_backend._get_filesystem.cache_clear()
    fsspec.register_implementation("gcs", "gcsfs.GCSFileSystem", clobber=True)


def contents(folder):
    """All files but the trials, whose pages SQLite may arrange anew."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".sqlite"
    }


def copied_back(bucket, folder):
    copy_folder(place_of(bucket), folder)
    return contents(folder)


def checkpoints(folder):
    """The folders of the searcher's checkpoints."""
    return sorted(path for path in (folder / "checkpoint" / "searcher").iterdir() if path.name.isdigit())


def resumed(folder, budget=8):
    """All of the trials after the run went on that does not depend on the clock."""
    result = study.run(toy_experiment.build(toy_experiment.Config(budget=budget)), folder, extend=True)
    return [(trial.id, trial.code, trial.key, trial.value) for trial in result.trials]


def test_a_run_goes_through_a_bucket_and_on_as_if_it_had_stayed(run, bucket, tmp_path, capsys):
    original = shutil.copytree(run, tmp_path / "original")
    assert cli.main(["copy", str(original), bucket]) == 0
    assert cli.main(["copy", bucket, str(tmp_path / "copy")]) == 0
    assert capsys.readouterr().out.count("files copied to") == 2
    assert contents(tmp_path / "copy") == contents(original)
    assert len(resumed(original)) == 8
    changed = copy_folder(original, place_of(bucket))
    assert copy_folder(original, place_of(bucket)) < changed  # without checkpoints, which are there
    copy_folder(place_of(bucket), tmp_path / "later")
    assert contents(tmp_path / "later") == contents(original)
    assert resumed(tmp_path / "copy") == resumed(tmp_path / "later") == resumed(original)


def test_a_run_that_is_being_written_is_copied_as_it_was_between_two_batches(run, tmp_path):
    original = shutil.copytree(run, tmp_path / "original")
    (original / "config.json.partial").touch()
    with contextlib.closing(sqlite3.connect(original / "trials.sqlite", isolation_level=None)) as writing:
        writing.execute("begin immediate")
        writing.execute("delete from trials")
        copy_folder(original, tmp_path / "copy")
        writing.execute("rollback")
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert names == {path.name for path in run.iterdir()}
    assert resumed(tmp_path / "copy") == resumed(original)


def test_records_are_copied_last(run, tmp_path, monkeypatch):
    copied = []
    monkeypatch.setattr(copies, "_copy_file", lambda source, target: copied.append(source.name) or True)
    (tmp_path / "run" / "final").mkdir(parents=True)
    for name in ("config.json", "report.html", "final/training.json", "final/metrics.csv"):
        (tmp_path / "run" / name).write_text("{}")
    shutil.copy(run / "trials.sqlite", tmp_path / "run")
    assert copy_folder(tmp_path / "run", tmp_path / "copy") == 5
    assert copied == ["metrics.csv", "report.html", "trials.sqlite", "training.json", "config.json"]


def test_a_copy_that_was_interrupted_is_completed_and_leaves_no_half_of_a_file(run, bucket, tmp_path, monkeypatch):
    def interrupt(file):
        def copy(reading, writing):
            if not str(reading.name).endswith(file):
                return whole(reading, writing)
            writing.write(reading.read()[:10])
            raise KeyboardInterrupt

        whole = copies.shutil.copyfileobj
        monkeypatch.setattr(copies.shutil, "copyfileobj", copy)
        with pytest.raises(KeyboardInterrupt):
            copy_folder(run, place_of(bucket))
        monkeypatch.setattr(copies.shutil, "copyfileobj", whole)

    interrupt("trials.sqlite")
    assert not (place_of(bucket) / "trials.sqlite").exists()
    assert not (place_of(bucket) / "config.json").exists()
    copy_folder(run, place_of(bucket))
    interrupt("config.json")
    assert copied_back(bucket, tmp_path / "back") == contents(run)


def test_a_later_copy_has_what_the_folder_has(run, bucket, tmp_path):
    """Without files that vanished, and with a checkpoint of a number, sizes and a manifest that were there before."""
    original = shutil.copytree(run, tmp_path / "original")
    (original / "final" / "initial").mkdir(parents=True)
    for name in ("training.json", "final.json", "initial/manifest", "mine[1].txt"):
        (original / "final" / name).write_text("{}")
    copy_folder(original, place_of(bucket))
    (place_of(bucket) / "notes").mkdir()
    (place_of(bucket) / "notes" / "mine.txt").write_text("not of the run")
    shutil.rmtree(original / "final" / "initial")
    (original / "final" / "final.json").unlink()
    state = checkpoints(original)[-1] / "state"
    manifest, array = state / "manifest.ocdbt", next((state / "d").iterdir())
    manifest.write_bytes(manifest.read_bytes()[::-1])
    array.rename(array.with_name("0" * 32))
    copy_folder(original, place_of(bucket))
    assert copied_back(bucket, tmp_path / "back") == contents(original) | {"notes/mine.txt": b"not of the run"}


def test_checkpoints_stay_in_the_copy_until_newer_ones_are_whole(run, bucket, tmp_path, monkeypatch):
    original = shutil.copytree(run, tmp_path / "original")
    copy_folder(original, place_of(bucket))
    for folder in checkpoints(original):
        folder.rename(folder.with_name(f"1{folder.name}"))
    listed, copy_file = checkpoints(original), copies._copy_file

    def replaced(source, target):  # by a search that goes on
        for folder in listed:
            shutil.rmtree(folder, ignore_errors=True)
        return copy_file(source, target)

    monkeypatch.setattr(copies, "_copy_file", replaced)
    copy_folder(original, place_of(bucket))
    assert copied_back(bucket, tmp_path / "back") == contents(run)


def test_another_folder_is_never_written_over(run, bucket, tmp_path, capsys):
    copy_folder(run, place_of(bucket))
    study.run(toy_experiment.build(toy_experiment.Config(seed=1)), other := tmp_path / "other")
    (other / "config.json").write_text((other / "config.json").read_text().replace('"created": "2', '"created": "3'))
    assert "contains something other than an earlier copy" in refused(capsys, "copy", other, bucket)
    assert f"{other} is not empty" in refused(capsys, "copy", bucket, other)
    assert f"{other / 'in'} is inside {other}: choose" in refused(capsys, "copy", other, other / "in")
    with pytest.raises(RunError, match="contains no run, no training and no exported network"):
        copy_folder(tmp_path, place_of(bucket))
    assert "contains no run" in refused(capsys, "copy", bucket + "-none", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_place_without_its_package_and_an_unknown_one_are_refused(monkeypatch):
    monkeypatch.setattr(copies.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PathError, match="s3://bucket/run needs the package s3fs: pip install s3fs"):
        place_of("s3://bucket/run")
    with pytest.raises(PathError, match="remote place"):
        place_of("ftp://host/run")
