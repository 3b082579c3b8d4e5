"""``--tensorboard`` and ``--profile`` of the commands that run for long."""

import importlib.util

import pytest

from lanas_jax import cli
from tests.several_hosts import ROOT, ends, start, two_hosts

TOY = str(ROOT / "tests" / "toy_experiment.py")
LINEAR = ROOT / "tests" / "supernet" / "linear_experiment.py"
WRITES_NOTHING = """
import jax, lanas_jax.storage.metrics as metrics
metrics._event_writer = jax.profiler.start_trace = None
"""


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


@pytest.mark.slow
def test_of_two_processes_the_first_alone_writes_events_and_traces(tmp_path):
    """For a search with its supernet, for a training, and for a supernet by itself."""
    pytest.importorskip("tensorboardX")
    run, supernet = tmp_path / "run", tmp_path / "supernet"
    for name, kinds, words in (
        ("search", ["train", "values"], ("search", LINEAR, "--out", run)),
        ("train", ["train"], ("train", run, "--code", "1,0")),
        ("supernet", ["train"], ("supernet", LINEAR, "--out", supernet)),
    ):
        hosts, traces = two_hosts(), tmp_path / f"traces of {name}"
        words = (*words, "--tensorboard", "--profile", traces, *hosts, "--hosts.index")
        codes, outs, errors = ends([start(*words, i, before=i * WRITES_NOTHING) for i in range(2)])
        assert codes == [0, 0], errors
        assert f"traces of {' and '.join(kinds)}: {traces}" in outs[0]
        assert "trace" not in outs[1]
        assert sorted(path.name for path in traces.iterdir()) == kinds
        for kind in kinds:
            assert len([*(traces / kind).rglob("*.xplane.pb")]) == 1
    for folder, column in (
        (run, b"best_value"),
        (run / "supernet", b"loss"),
        (run / "final", b"loss"),
        (supernet, b"loss"),
    ):
        (file,) = (folder / "tensorboard").iterdir()
        rows = (folder / "metrics.csv").read_text().splitlines()[1:]
        assert file.read_bytes().count(column) == len(rows) > 1
