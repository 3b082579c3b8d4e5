"""Paths that users give."""

import os
from pathlib import Path

import pytest

from lanas_jax.runtime import caches
from lanas_jax.runtime.paths import PathError, local_path


@pytest.mark.parametrize("path", ["run", "a/b", "/tmp/x", "../a:b", "12:30:00", "runs[2]", "a//b", ".", ""])
def test_a_local_path_stays_as_it_is(path):
    assert local_path(path) == local_path(Path(path)) == Path(path)


@pytest.mark.parametrize(
    "path", ["gs://bucket/run", "s3://bucket", "gs:", "hdfs://host:9000/x", "file:///tmp/x", "a/gs:/b", "/tmp/s3:/x"]
)
@pytest.mark.parametrize("kind", [str, Path])
def test_a_remote_place_is_refused(path, kind):
    with pytest.raises(PathError, match="is a remote place"):
        local_path(kind(path))


def test_the_home_folder_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/lanas")
    assert local_path("~/x") == Path("/home/lanas/x")
    assert local_path("~") == Path("/home/lanas")
    assert local_path("a/~/b") == Path("a/~/b")
    with pytest.raises(PathError, match="the home folder is unknown"):
        local_path("~no-such-user/x")


def test_without_a_home_folder_there_is_no_cache(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where HOME and the password entry are missing
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(PathError, match="set HOME or XDG_CACHE_HOME"):
        caches.folder("compiled")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert caches.folder("compiled") == Path("/caches/lanas_jax/compiled")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("x" * 300, "File name too long"),
        ("a\0b", "null"),
        ("caf\udce9", "is not valid UTF-8"),
        ("b/" * 3000, "too long"),
    ],
)
def test_a_name_that_no_file_can_have_is_refused_in_one_line(path, message):
    with pytest.raises(PathError, match=message) as found:
        local_path(path)
    assert "\n" not in str(found.value)
    assert len(str(found.value)) < 500


def test_a_folder_that_was_removed_is_no_place_to_start_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    with pytest.raises(PathError, match="the current folder no longer exists"):
        local_path("run")
