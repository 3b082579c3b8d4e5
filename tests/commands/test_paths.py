"""Paths on the command line: remote ones, ``~``, names that cannot be, names that race, and outputs that are full."""

import datetime
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lanas_jax.cli import main
from lanas_jax.storage import trials
from lanas_jax.storage.folder import RunError, new_directory
from lanas_jax.storage.trial_file import connect
from tests.refusals import refused

ROOT = Path(__file__).parents[2]
SEARCH = str(ROOT / "tests" / "quick_experiment.py")
TRAIN = str(ROOT / "tests" / "trainer" / "tiny_experiment.py")
SUPERNET = str(ROOT / "tests" / "supernet" / "linear_experiment.py")
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5)
DEFAULT = Path("runs") / "digits-20260102-030405"


@pytest.mark.parametrize(
    "command",
    [
        ("search", SEARCH, "--out", "{}"),
        ("search", "{}/experiment.py"),
        ("resume", "{}"),
        ("train", "{}"),
        ("train", TRAIN, "--code", "0,1", "--out={}"),
        ("train", TRAIN, "--code", "0,1", "--weights", "{}"),
        ("export", "{}"),
        ("export", ".", "--out", "{}"),
        ("supernet", SUPERNET, "--out", "{}"),
        ("supernet", SUPERNET, "--supernet", "{}"),
        ("extract", "{}"),
        ("extract", ".", "--out", "{}"),
        ("plan", "{}/experiment.py"),
        ("rank", "{}"),
        ("report", "{}"),
        ("trials", "{}"),
        ("tree", "{}"),
        ("describe", "{}", "--code", "0"),
        ("tables", "convert", "{}", "out.npz"),
        ("tables", "convert", "in.npz", "{}/out.npz"),
        ("compare", "{}/table.npz"),
        ("compare", "nasbench201-cifar10", "--out", "{}"),
    ],
    ids=" ".join,
)
def test_no_command_takes_a_remote_place_for_a_folder(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for place in ("gs://bucket/x", "s3://bucket/x"):
        message = refused(capsys, *(word.format(place) for word in command))
        assert f"{place[:2]}:" in message
        assert "is a remote place" in message
        assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_tilde_is_the_home_folder_in_every_option_that_takes_a_path(tmp_path, monkeypatch, capsys):
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    assert main(["search", SEARCH, "--budget", "4", "--out=~/runs/one"]) == 0
    assert (home / "runs" / "one" / "config.json").exists()
    for command in ("trials", "report"):
        assert main([command, "~/runs/one"]) == 0
    assert f"there is no folder {home / 'none'}" in refused(capsys, "resume", "~/none")
    message = refused(capsys, "supernet", SUPERNET, "--supernet", "~/runs/one")  # a setting of an experiment
    assert f"{home / 'runs' / 'one'} holds" in message
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(("name", "message"), [("x" * 300, "File name too long"), ("caf\udce9", "is not valid UTF-8")])
def test_a_name_that_cannot_be_is_refused_in_one_line(name, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command in (("search", SEARCH, "--out", name), ("report", name), ("train", name)):
        found = refused(capsys, *command)
        assert message in found
        assert found.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_where_there_is_a_file(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert "cannot write to" in refused(capsys, "search", SEARCH, "--out", tmp_path / "file")
    assert "cannot write to" in refused(capsys, "search", SEARCH, "--out", tmp_path / "file" / "run")


def test_of_many_that_start_in_one_second_each_has_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def claim(_):
        with new_directory("digits", NOW) as directory:
            (directory / "config.json").touch()
            return directory

    with ThreadPoolExecutor(16) as threads:
        claimed = list(threads.map(claim, range(64)))
    assert set(claimed) == {DEFAULT, *(DEFAULT.with_name(f"{DEFAULT.name}-{n}") for n in range(2, 65))}


def test_a_folder_that_was_not_needed_is_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with new_directory("digits", NOW) as directory:
        assert directory == DEFAULT
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs").mkdir()
    with new_directory("digits", NOW):
        pass
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "folder"),
    [("a[1]/*b?", "a_1_b_"), ("../x", ".._x"), ("\u00e9t\u00e9", "_t_"), ("x" * 300, "x" * 100), ("gs://b", "gs_b")],
)
def test_the_name_of_an_experiment_becomes_one_that_folders_can_have(name, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with new_directory(name, NOW) as directory:
        assert directory == Path("runs") / f"{folder}-20260102-030405"
        assert directory.is_dir()


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nowhere")])
def test_runs_that_is_no_folder_is_refused(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "runs")
    with pytest.raises(RunError, match="choose a folder with --out"), new_directory("digits", NOW):
        pass


def lanas(arguments, stdout=subprocess.PIPE, **environment):
    command = "from lanas_jax.cli import run_and_exit; run_and_exit()"
    there = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(
        [sys.executable, "-c", command, *arguments], stdout=stdout, stderr=subprocess.PIPE, env=there, check=False
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize(
    "arguments",
    [
        ["tables"],
        *(
            pytest.param(a, marks=pytest.mark.slow)
            for a in (["--help"], ["search", "--help"], ["tables", "convert", "--help"])
        ),
    ],
)
def test_a_full_output_is_one_line_and_a_failure(arguments):
    with open("/dev/full", "wb") as full:
        done = lanas(arguments, full)
    assert done.returncode == 1
    assert done.stderr.decode() == f"lanas {arguments[0]}: cannot write: No space left on device\n"


def test_an_ascii_terminal_gets_ascii(tmp_path):
    name = "\u00e9t\u00e9"
    done = lanas(["trials", str(tmp_path / name)], PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    done = lanas(["describe", "mobilenet_v2"], PYTHONIOENCODING="ascii", COLUMNS="20")
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("JAX_ENABLE_X64", "maybe", "JAX cannot be imported with this environment: invalid truth value 'maybe'"),
        ("JAX_PLATFORMS", "rocm", "could not start JAX with JAX_PLATFORMS=rocm: "),
    ],
)
def test_an_environment_in_which_jax_cannot_start_is_one_sentence(variable, value, message):
    done = lanas(["describe", "nasnet", "--blocks", "1", "--code", "1,2,0,1"], **{variable: value})
    assert (done.returncode, done.stderr.decode().count("\n")) == (2, 1)
    assert done.stderr.decode().startswith(f"lanas describe: {message}")


def test_trials_that_cannot_be_written_are_one_sentence(tmp_path, monkeypatch, capsys):
    """SQLite itself refuses to write: its file is opened as one without write permission would be."""
    run = tmp_path / "run"
    assert main(["search", SEARCH, "--budget", "2", "--out", str(run)]) == 0
    capsys.readouterr()
    monkeypatch.setattr(trials, "connect", lambda path, mode: connect(path, "ro"))
    assert main(["resume", str(run), "--budget", "3"]) == 2
    assert capsys.readouterr().err == "lanas resume: the trials file cannot be written: it is read-only\n"


def test_trials_that_are_deleted_during_a_search_are_one_sentence(tmp_path, capsys):
    run, toy = tmp_path / "run", (ROOT / "tests" / "toy_experiment.py").read_text()
    deleting = f"__import__('os').unlink({str(run / 'trials.sqlite')!r})\n        return [self"
    (tmp_path / "mine.py").write_text(toy.replace("return [self", deleting, 1))
    assert main(["search", str(tmp_path / "mine.py"), "--out", str(run)]) == 1
    assert capsys.readouterr().err == "lanas search: the trials file was moved or deleted during the search\n"
