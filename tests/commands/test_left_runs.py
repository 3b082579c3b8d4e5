"""Runs that were left at odd moments: every later command goes on, or says why it cannot in a sentence."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lanas_jax.cli import main
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study import run_folder

ROOT = Path(__file__).parents[2]
EXPERIMENT = Path(__file__).with_name("left_experiment.py")
INSPECTING = ("trials", "report", "tree", "describe", "train", "export", "extract", "rank")
MOMENTS = ("prepare 1", "ask 1", "ask 2", "evaluate 1", "evaluate 2", "tell 1", "tell 3", "winner 2")
ODDLY = {
    "Ctrl-C": "raise KeyboardInterrupt",
    "an exception": "raise RuntimeError('of [a, b]')",
    "out of memory": "raise MemoryError",
    "sys.exit": "sys.exit(3)",
    "sys.exit with success": "sys.exit()",
    "sys.exit with a text": "sys.exit('no GPU')",
}
KILL = "os.kill(os.getpid(), signal.SIGKILL)"


def lanas(capsys, *arguments):
    """The exit code of a command and what it said, after checking that it is no traceback."""
    try:
        code = main(list(map(str, arguments)))
    except SystemExit as error:  # of the parser
        code = error.code
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    return code, said.err


def essence(run):
    """All that does not depend on the clock."""
    with TrialStore.open(run / "trials.sqlite", read_only=True) as store:
        trials = store.trials()
    final = run_folder.open_run(run).result or {}
    accuracies = [final.get(name) for name in ("code", "validation_accuracy", "test_accuracy")]
    return [(trial.code, trial.key, trial.value, trial.asked, trial.told) for trial in trials], accuracies


def can_be_inspected(capsys, run):
    """Runs the commands that change no trial; each does its work or says one or two sentences."""
    for command in INSPECTING:
        code, said = lanas(capsys, command, run, *(["--code", "0,1,2"] if command == "describe" else []))
        assert code in (0, 2), (command, said)
        assert bool(said) == (code == 2)
        assert said.count("\n") <= 2, said


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run without interruption."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert main(["search", str(EXPERIMENT), "--out", str(run)]) == 0
    return run


def left_and_resumed(capsys, monkeypatch, run, moment, oddly, whole):
    monkeypatch.setenv("MOMENT", moment)
    monkeypatch.setenv("ODDLY", oddly)
    for command in (["search", EXPERIMENT, "--out", run], ["resume", run]):  # twice at the same moment
        code, said = lanas(capsys, *command)
        raised = "evaluate" in moment and "Error" in oddly  # a failed batch is tried again, code by code
        if raised or (command[0] == "resume" and code == 0):  # beyond that moment
            continue
        searching = moment.startswith(("ask", "tell"))  # elsewhere an exit is an error of the study
        assert code == (130 if "Keyboard" in oddly else 3 if "(3)" in oddly and searching else 1), said
        assert f"finished trials are saved. To continue: lanas resume {run}" in said
        assert said.count("\n") <= 3
    monkeypatch.delenv("MOMENT")
    can_be_inspected(capsys, run)
    assert lanas(capsys, "resume", run)[0] == 0
    assert essence(run) == essence(whole)


@pytest.mark.parametrize(("moment", "oddly"), [("ask 2", "an exception"), ("winner 2", "Ctrl-C")])
def test_a_run_interrupted_at_a_moment_continues(whole, tmp_path, capsys, monkeypatch, moment, oddly):
    left_and_resumed(capsys, monkeypatch, tmp_path / "run", moment, ODDLY[oddly], whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "oddly"),
    [(moment, way) for i, moment in enumerate(MOMENTS) for j, way in enumerate(ODDLY) if (i + j) % 3 == 0],
)
def test_a_run_interrupted_at_any_moment_in_any_way_continues(whole, tmp_path, capsys, monkeypatch, moment, oddly):
    left_and_resumed(capsys, monkeypatch, tmp_path / "run", moment, ODDLY[oddly], whole)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["prepare 1", "ask 1", "tell 3"])  # tests/study/test_resume.py has four others
def test_a_process_that_ends_at_once_leaves_a_run_that_continues(whole, tmp_path, capsys, moment):
    command = "from lanas_jax.cli import run_and_exit; run_and_exit()"
    environment = os.environ | {"MOMENT": moment, "ODDLY": KILL, "PYTHONPATH": str(ROOT)}
    run = tmp_path / "run"
    for arguments in (["search", str(EXPERIMENT), "--out", str(run)], ["resume", str(run)]):
        gone = subprocess.run([sys.executable, "-c", command, *arguments], env=environment, check=False)
        assert gone.returncode in ((-9,) if arguments[0] == "search" else (-9, 0))
    can_be_inspected(capsys, run)
    assert lanas(capsys, "resume", run)[0] == 0
    assert essence(run) == essence(whole)


@pytest.mark.parametrize("oddly", ["sys.exit", "sys.exit with success", "sys.exit with a text", "an exception"])
def test_an_experiment_that_does_not_build_is_a_sentence_for_every_command(whole, tmp_path, capsys, monkeypatch, oddly):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    monkeypatch.setenv("MOMENT", "build 1")
    monkeypatch.setenv("ODDLY", ODDLY[oddly])
    for command in (["search", EXPERIMENT, "--out", tmp_path / "new"], ["resume", run], ["report", run], ["tree", run]):
        code, said = lanas(capsys, *command)
        assert code == 2
        assert f"build(config) {'raised RuntimeError' if 'exception' in oddly else 'called sys.exit('}" in said
    for folder in (run, run / "final"):
        (folder / "experiment.py").write_text("import sys\nsys.exit('not here')\n")
    for command in ("resume", "report", "tree", "train", "rank"):
        code, said = lanas(capsys, command, run)
        assert code == 2
        assert "cannot be loaded: sys.exit('not here')" in said
    assert not (tmp_path / "new").exists()


def empty(path):
    path.write_bytes(b"")


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def garble(path):
    path.write_bytes(b"\xff\xfe,1\n" + path.read_bytes())


STATES = {  # what is done to a finished run, and whether it can be resumed then
    "no checkpoints": (remove, "checkpoint", True),
    "half a report": (half, "report.html", True),
    "no report": (remove, "report.html", True),
    "no metrics": (remove, "metrics.csv", True),
    "garbled metrics": (garble, "metrics.csv", True),
    "no experiment": (remove, "experiment.py", False),
    "empty experiment": (empty, "experiment.py", False),
    "half an experiment": (half, "experiment.py", False),
    "no trials": (remove, "trials.sqlite", False),
    "empty trials": (empty, "trials.sqlite", False),
    "half the trials": (half, "trials.sqlite", False),
    "no configuration": (remove, "config.json", False),
    "empty configuration": (empty, "config.json", False),
    "half a configuration": (half, "config.json", False),
}


@pytest.mark.parametrize("name", ["metrics.csv", "report.html"])
def test_a_folder_in_the_place_of_a_file_is_named(whole, tmp_path, capsys, name):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / name).unlink()
    (run / name).mkdir()
    code, said = lanas(capsys, "resume", run)
    assert code == 1
    assert said.startswith(str(run / name))
    assert "cannot be used: Is a directory\nThe full traceback is in" in said


@pytest.mark.parametrize("state", STATES)
def test_a_folder_in_any_state_is_resumed_or_refused_with_a_sentence(whole, tmp_path, capsys, state):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    change, name, resumes = STATES[state]
    change(run / name)
    code, said = lanas(capsys, "resume", run)
    assert code == (0 if resumes else 2), said
    if not resumes:
        assert str(run) in said
        assert said.count("\n") == 1
    can_be_inspected(capsys, run)
    if resumes:
        assert essence(run) == essence(whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "leftover", ["experiment.py", "config.json.partial", "config.json.claim", "trials.sqlite-journal"]
)
def test_leftovers_of_a_start_do_not_hinder_the_next(tmp_path, capsys, whole, leftover):
    run = tmp_path / "run"
    run.mkdir()
    (run / leftover).write_text("half a fi")
    code, said = lanas(capsys, "search", EXPERIMENT, "--out", run)
    assert code == 0, said
    assert essence(run) == essence(whole)
    assert run_folder.run_exists(run)


def test_a_run_started_from_python_is_a_sentence_where_its_file_is_needed(tmp_path, capsys):
    from tests.commands import left_experiment

    experiment = left_experiment.build(left_experiment.Config())
    run_folder.create(tmp_path / "run", experiment)
    for command in ("resume", "report", "tree", "train", "extract", "rank"):
        code, said = lanas(capsys, command, tmp_path / "run")
        assert code == 2
        assert "was started from Python" in said
    assert lanas(capsys, "trials", tmp_path / "run")[0] == 0
