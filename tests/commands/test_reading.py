"""Every command that reads images of a run may be told where they are now, and how to decode them."""

import json

import pytest

from lanas_jax.cli import main
from lanas_jax.commands import train
from lanas_jax.trainer import folder as folders
from lanas_jax.trainer.folder import FinalFolder
from tests.commands.test_train import EXPERIMENT as WITHOUT
from tests.refusals import refused

TEXT = '''
"""A search whose settings say how images are read, and which writes down the settings that it is built with."""

import dataclasses
from pathlib import Path

import lanas_jax as lx
from lanas_jax.study import Experiment
from tests.trainer import tiny_experiment as tiny

@dataclasses.dataclass(frozen=True)
class Final(tiny.Final):
    """Settings of the training."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings."""

    data_dir: Path | None = None
    workers: int = 0


@dataclasses.dataclass(frozen=True)
class Rank:
    """Settings of the ranking."""


def build(config):
    """The search."""
    with Path("LOG").open("a") as file:
        file.write(f"build {config.data_dir} {config.workers}\\n")
    space = tiny.TinySpace()
    return Experiment("reading", space, lx.RandomSearch(space), tiny.Guess(), 2, 1, 0)


def final(config, settings, code):
    """The training."""
    with Path("LOG").open("a") as file:
        file.write(f"final {config.data_dir} {config.workers}\\n")
    return tiny.final(tiny.Config(), settings, code)


def rank(config, settings, directory):
    """No ranking."""
    raise KeyError(f"{config.data_dir} {config.workers}")
'''


@pytest.fixture
def found(tmp_path, monkeypatch):
    """The folder, a run in it, and a function that returns what was built since the last call."""
    log = tmp_path / "log"
    (tmp_path / "reading.py").write_text(TEXT.replace("LOG", str(log)))
    monkeypatch.chdir(tmp_path)

    def since():
        lines = log.read_text().splitlines()
        log.write_text("")
        return set(lines)

    assert main(["search", "reading.py", "--out", "run", "--data-dir", "here", "--workers", "2"]) == 0
    assert since() == {"build here 2"}
    return tmp_path, since


@pytest.mark.slow
def test_other_folders_and_workers_hold_for_one_command(found, capsys, monkeypatch):
    folder, since = found
    recorded = (folder / "run" / "config.json").read_bytes()
    there = folder / "there"
    assert main(["resume", "run", "--budget", "3", "--data-dir", "there", "--workers", "5"]) == 0
    assert since() == {f"build {there} 5"}
    assert main(["resume", "run", "--budget", "3", "--workers", "0"]) == 0
    assert since() == {"build here 0"}
    for command in ("report", "tree"):
        assert main([command, "run", "--workers", "4"]) == 0
        assert since() == {"build here 4"}
    assert "the report of one run" in refused(capsys, "report", "run", "run/../run", "--workers", "4")
    assert "did not use a supernet" in refused(capsys, "extract", "run", "--data-dir", there)
    assert since() == {f"build {there} 2"}
    assert f"{there} 7" in refused(capsys, "rank", "run", "--data-dir", there, "--workers", 7)
    assert since() == {f"build {there} 7"}
    assert json.loads((folder / "run" / "config.json").read_bytes())["config"] == json.loads(recorded)["config"]

    trained = []

    def train_network(final, code, directory, origin, *_, **__):
        trained.append(origin.config)
        raise ValueError("enough")

    monkeypatch.setattr(train, "train_network", train_network)
    assert "enough" in refused(capsys, "train", "run", "--data-dir", "there", "--workers", 5)
    assert f"final {there} 5" in since()
    assert (str(trained[0].data_dir), trained[0].workers) == ("here", 2)


def test_a_training_is_the_same_wherever_its_images_are(tmp_path):
    record = {"config": {"data_dir": "here", "workers": 0, "budget": 2}, "seed": 0}
    before = FinalFolder(tmp_path, record)
    for name, value in (("data_dir", "there"), ("workers", 8)):
        assert folders.difference(before, record | {"config": record["config"] | {name: value}}) == ""
    assert "budget 2, now 3" in folders.difference(before, record | {"config": record["config"] | {"budget": 3}})


def test_an_experiment_that_reads_no_images_has_no_such_setting(tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["search", WITHOUT, "--out", str(run)]) == 0
    for command in ("resume", "train"):
        assert "Config has no field workers" in refused(capsys, command, run, "--workers", 2)
