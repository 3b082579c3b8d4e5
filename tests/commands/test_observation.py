"""``--tensorboard`` and ``--profile`` of the commands that run for long."""

import importlib.util

import pytest

from lanas_jax import cli
from tests.several_hosts import ROOT

TOY = str(ROOT / "tests" / "toy_experiment.py")


def test_a_search_writes_events_of_all_trials_and_says_that_nothing_was_traced(tmp_path, capsys):
    pytest.importorskip("tensorboardX")
    run = tmp_path / "run"
    words = ["--budget", "2", "--tensorboard", "--profile", str(run / "trace")]
    assert cli.main(["search", TOY, "--out", str(run), *words]) == 0
    assert "no trace: this process dispatched fewer than 2 programs" in capsys.readouterr().out
    assert not (run / "trace").exists()
    (file,) = (run / "tensorboard").iterdir()
    assert file.read_bytes().count(b"best_value") == 2
    head, *rows = (run / "metrics.csv").read_text().splitlines()
    assert head == "step,trial,value,best_value,failed,multiply_adds,parameters"
    assert [row.split(",")[0] for row in rows] == ["1", "2"]


def test_events_without_the_package_and_a_trace_into_a_file_are_refused(tmp_path, capsys, monkeypatch):
    (file := tmp_path / "file").touch()
    search = ["search", TOY, "--out", str(tmp_path / "run")]
    assert cli.main([*search, "--profile", str(file / "trace")]) == 2
    assert f"{file} cannot be used: Not a directory" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main([*search, "--tensorboard"]) == 2
    assert "--tensorboard needs tensorboardX: pip install 'lanas-jax[tensorboard]'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
