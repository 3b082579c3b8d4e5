"""The command line: what it prints, what it refuses and how, what it leaves alone."""

import contextlib
import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lanas_jax import cli
from lanas_jax.cli import main
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.storage.folder import RunError
from lanas_jax.storage.trial import Status
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study import discovery, run_folder
from tests.refusals import refused

ROOT = Path(__file__).parents[2]
EXPERIMENT = str(ROOT / "tests" / "quick_experiment.py")
COMMANDS = (
    "search, resume, train, export, supernet, extract, plan, rank, copy, report, trials, front, tree, describe, "
    "tables, compare"
)
LANET = "2,2,0,2,1,2,0,2,2,3,2,1,2,0,0,1,1,1,2,1,1,0,3,4,3,0,3,1"


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """A finished search: its folder and what it printed."""
    out = tmp_path_factory.mktemp("search") / "run"
    printed = io.StringIO()
    stdout, sys.stdout = sys.stdout, printed
    try:
        settings = ("--budget", "12", "--fail-below", "4", "--winner-epochs", "1")
        assert main(["search", EXPERIMENT, "--out", str(out), *settings]) == 0
    finally:
        sys.stdout = stdout
    return out, printed.getvalue()


def trials(run):
    with TrialStore.open(run / "trials.sqlite") as store:
        return store.trials()


def test_search_ends_with_the_best_cell_the_top_five_the_accuracies_and_the_report(search):
    run, printed = search
    done = [trial for trial in trials(run) if trial.status == Status.DONE]
    best = max(done, key=lambda trial: (trial.value, -trial.id))
    end = printed[printed.index("best of 12 trials") :]
    assert f"trial {best.id}" in end
    assert "activation" in end  # the winner in words
    rows = [line for line in end.splitlines() if line.startswith("│")]
    values = sorted((trial.value for trial in done), reverse=True)[:5]
    assert [row.split("│")[2].strip() for row in rows] == [f"{value:.4f}" for value in values]
    assert ",".join(map(str, best.code)) in rows[0]
    assert f"{best.multiply_adds:,}" in rows[0]
    assert "search-validation accuracy 0." in end
    assert "test accuracy 0." in end
    assert end.splitlines()[-1] == f"report: {run / 'report.html'}"
    assert (run / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_progress_is_plain_lines_where_there_is_no_terminal(search):
    _, printed = search
    lines = [line for line in printed.splitlines() if line.startswith("trials ")]
    assert [line.split(" · ")[0] for line in lines] == ["trials 4/12", "trials 8/12", "trials 12/12"]
    assert "\x1b" not in printed


def test_run_directory_is_complete_and_readable(search):
    run, _ = search
    assert {path.name for path in run.iterdir()} == {
        "config.json",
        "experiment.py",
        "trials.sqlite",
        "checkpoint",
        "final",
        "metrics.csv",
        "results.jsonl",
        "report.html",
    }
    record = json.loads((run / "config.json").read_text())
    assert record["config"] == {
        "seed": 0,
        "budget": 12,
        "batch": 4,
        "pause": 0.0,
        "searcher": "random",
        "fail_below": 4,
        "winner_epochs": 1,
    }
    assert record["source"] == EXPERIMENT
    assert (run / "experiment.py").read_bytes() == Path(EXPERIMENT).read_bytes()


def test_trials_as_csv(search, capsys):
    run, _ = search
    assert main(["trials", str(run), "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    recorded = trials(run)
    assert len(rows) == len(recorded) == 12
    for row, trial in zip(rows, recorded, strict=True):
        assert row["status"] == trial.status.value
        assert row["code"] == ",".join(map(str, trial.code))
        assert row["value"] == ("" if trial.value is None else repr(trial.value))
        assert row["reason"] == (trial.reason or "")
        assert row["key"] == trial.key
        assert f"jax={trial.software['jax']}" in row["software"]


def test_trials_as_a_table_with_reasons(search, capsys):
    run, _ = search
    assert main(["trials", str(run)]) == 0
    printed = capsys.readouterr().out
    failed = sum(trial.status == Status.FAILED for trial in trials(run))
    assert 0 < failed < 12
    assert printed.count("width 2 is too small") == failed
    assert printed.splitlines()[-1] == f"{12 - failed} done, {failed} failed"


def test_resume_of_a_finished_run_changes_no_trial(search, capsys):
    run, _ = search
    before = trials(run)
    assert main(["resume", str(run)]) == 0
    assert trials(run) == before
    assert "continuing after 12 of 12 trials" in capsys.readouterr().out


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A finished search by LaNAS, long enough to split the space."""
    out = tmp_path_factory.mktemp("learned") / "run"
    assert main(["search", EXPERIMENT, "--budget", "40", "--searcher", "lanas", "--out", str(out)]) == 0
    return out


def test_tree_names_what_pushes_to_the_good_side(learned, capsys):
    capsys.readouterr()
    assert main(["tree", str(learned), "--json", "--features", "2"]) == 0
    nodes = {node["node"]: node for node in json.loads(capsys.readouterr().out)}
    assert nodes[0]["samples"] == 40 == nodes[1]["samples"] + nodes[2]["samples"]
    assert nodes[1]["mean_value"] > nodes[2]["mean_value"]
    assert len(nodes[0]["drivers"]) == 2
    assert main(["tree", str(learned), "--features", "2"]) == 0
    drawn = capsys.readouterr().out
    assert drawn.startswith("40 trials, mean ")
    for name, weight in nodes[0]["drivers"]:
        assert f"{name} ({weight:+.2f})" in drawn
    assert f"good: {nodes[1]['samples']} trials, mean {nodes[1]['mean_value']:.4f}" in drawn


def test_a_search_without_a_tree_says_so(search, capsys):
    run, _ = search
    assert main(["tree", str(run)]) == 0
    assert capsys.readouterr().out.endswith(" learns no tree, so there is none to show.\n")
    assert main(["tree", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_report_prints_its_path(search, capsys):
    run, _ = search
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert (run / "report.html").exists()


def test_folder_that_holds_a_run_is_refused_and_untouched(search, capsys):
    run, _ = search
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    message = refused(capsys, "search", EXPERIMENT, "--out", run)
    assert f"already contains a run. To continue it: lanas resume {run}" in message
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_folder_in_other_use_is_refused_and_untouched(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("all of it")
    assert "is not empty and contains no run" in refused(capsys, "search", EXPERIMENT, "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_start_that_was_killed_before_its_config_stood_is_cleared(search, tmp_path):
    run, _ = search
    experiment = run_folder.open_run(run).experiment()
    (tmp_path / "experiment.py").write_text("half a fi")
    (tmp_path / "config.json.partial").write_text("{")
    TrialStore.create(tmp_path / "trials.sqlite").close()
    run_folder.create(tmp_path, experiment, Path(EXPERIMENT))
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "experiment.py", "trials.sqlite"}


def test_trials_without_a_config_are_not_cleared(search, tmp_path):
    run, _ = search
    content = (run / "trials.sqlite").read_bytes()
    (tmp_path / "trials.sqlite").write_bytes(content)
    with pytest.raises(RunError, match=r"has a trials.sqlite but no config.json"):
        run_folder.create(tmp_path, run_folder.open_run(run).experiment())
    assert (tmp_path / "trials.sqlite").read_bytes() == content


@pytest.mark.parametrize("command", ["resume", "report", "trials"])
def test_damaged_trials_file_is_named_and_untouched(search, tmp_path, capsys, command):
    run, _ = search
    for name in ("config.json", "experiment.py"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    content = (run / "trials.sqlite").read_bytes()[:-100]
    (tmp_path / "trials.sqlite").write_bytes(content)
    assert f"{tmp_path / 'trials.sqlite'} is damaged" in refused(capsys, command, tmp_path)
    assert (tmp_path / "trials.sqlite").read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "experiment.py", "trials.sqlite"}


@pytest.mark.parametrize("command", ["resume", "report", "trials"])
def test_folder_without_a_run_is_named(tmp_path, capsys, command):
    assert f"{tmp_path} contains no run: it has no config.json" in refused(capsys, command, tmp_path)
    assert f"there is no folder {tmp_path / 'gone'}" in refused(capsys, command, tmp_path / "gone")
    (tmp_path / "config.json").write_text("{ not JSON")
    assert "config.json is damaged" in refused(capsys, command, tmp_path)
    for found in (99, 1):  # of a later version, and of one whose modules had other names
        (tmp_path / "config.json").write_text(f'{{"format": {found}}}')
        assert f"has format {found}, but this version of lanas_jax reads format 2" in refused(capsys, command, tmp_path)
    (tmp_path / "config.json").write_text('{"name": "of something else"}')
    assert "config.json does not describe a run: it has no format" in refused(capsys, command, tmp_path)
    (tmp_path / "config.json").write_text('{"format": 2, "seed": 0, "budget": 3, "batch": 1, "config": {}}')
    assert "is incomplete: missing keys experiment, source" in refused(capsys, command, tmp_path)


def test_unknown_experiment_says_which_exist(tmp_path, capsys):
    message = refused(capsys, "search", "cifar-11")
    assert "there is no experiment 'cifar-11'; choose from " in message
    assert "digits" in discovery.experiments()
    for name in discovery.experiments():
        assert name in message
    assert "there is no file nowhere.py" in refused(capsys, "search", "nowhere.py")
    assert "there is no file or folder 'runs/mine'; choose from " in refused(capsys, "train", "runs/mine")
    assert f"{tmp_path} is a folder, not an experiment (lanas resume " in refused(capsys, "search", tmp_path)


def test_experiments_are_the_files_that_define_build():
    assert {"cifar10", "digits", "imagenet_600m"} < set(discovery.experiments())
    assert not [name for name in discovery.experiments() if name.startswith("_")]
    for path in discovery.experiments().values():
        assert "def build(" in path.read_text()
        assert discovery.summary(path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import lanas_jax.nonsense", "cannot be loaded: ModuleNotFoundError"),
        ("def build(config:", "cannot be loaded: SyntaxError"),
        ("def build(config): pass", "has no dataclass Config"),
        ("import dataclasses\n@dataclasses.dataclass\nclass Config: pass", "has no function build"),
        ("import dataclasses\n@dataclasses.dataclass\nclass Config: pass\ndef build(config): return 3", "returned 3"),
    ],
)
def test_file_that_is_no_experiment(tmp_path, capsys, source, message):
    (tmp_path / "mine.py").write_text(source)
    assert message in refused(capsys, "search", tmp_path / "mine.py", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_that_cannot_be(tmp_path, capsys):
    out = tmp_path / "run"
    command = ("search", EXPERIMENT, "--out", out)
    assert "--bugdet" in refused(capsys, *command, "--bugdet", "3")
    assert "--budget" in refused(capsys, *command, "--budget", "many")
    assert "searcher must be random or lanas; got 'magic'" in refused(capsys, *command, "--searcher", "magic")
    assert "budget must be at least 1; got 0" in refused(capsys, *command, "--budget", "0")
    assert "the experiment must come first" in refused(capsys, "search", "--out", out, EXPERIMENT)
    assert not out.exists()


def test_evaluator_that_only_raises_says_where_and_how_to_continue(tmp_path, capsys):
    broken = Path(EXPERIMENT).read_text().replace("hidden, labels = two_moons(400)", "hidden, labels = 1 / 0")
    (tmp_path / "broken.py").write_text(broken)
    run = tmp_path / "run"
    message = refused(capsys, "search", tmp_path / "broken.py", "--out", run, "--batch", "8", code=1)
    assert "each of the last 8 trials: ZeroDivisionError: division by zero (experiment.py, line" in message.replace(
        "broken.py", "experiment.py"
    )
    assert f"0 finished trials are saved. To continue: lanas resume {run}" in message
    assert "ZeroDivisionError" in (run / "traceback.txt").read_text()


def test_experiment_may_import_from_its_own_folder_and_later_edits_do_not_change_a_run(tmp_path, capsys):
    (tmp_path / "beside_the_experiment.py").write_text("BUDGET = 4\n")
    source = Path(EXPERIMENT).read_text()
    mine = tmp_path / "mine.py"
    mine.write_text(source.replace("budget: int = 24", "budget: int = BUDGET").replace(
        "import lanas_jax as lx", "import lanas_jax as lx\nfrom beside_the_experiment import BUDGET"
    ))  # fmt: skip
    assert main(["search", str(mine), "--out", str(tmp_path / "run")]) == 0
    before = trials(tmp_path / "run")
    assert len(before) == 4
    mine.write_text("an unfinished edit (")
    assert main(["resume", str(tmp_path / "run")]) == 0
    assert trials(tmp_path / "run") == before


def test_help_is_there_at_every_level_and_width(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((20, 24)))
    assert main([]) == 0
    top = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == top
    for command in COMMANDS.split(", "):
        assert f"\n  {command} " in top
        with contextlib.suppress(SystemExit):
            main([command, "--help"])
        printed = capsys.readouterr().out
        assert f"usage: lanas {command}" in printed
        assert "COLUMNS" not in os.environ
        if command in ("resume", "export", "report", "trials", "describe", "compare", "copy", "extract", "front"):
            assert re.search("-h, --help +show this help", printed)  # and not one letter per line


def test_help_of_an_experiment_shows_its_docstring_and_settings(capsys):
    with pytest.raises(SystemExit) as error:
        main(["search", EXPERIMENT, "--help"])
    assert error.value.code == 0
    printed = capsys.readouterr().out
    assert "two moons" in printed
    for setting in ("--out DIR", "--budget INT", "--pause FLOAT", "Trials in all."):
        assert setting in printed


def test_unknown_command_says_which_exist(capsys):
    assert f"choose from {COMMANDS}" in refused(capsys, "serach")


def test_describe_draws_and_counts_the_published_network(capsys):
    assert main(["describe", "nasnet", "--code", LANET, "--channels", "128", "--cells", "24"]) == 0
    printed = capsys.readouterr().out
    assert "block 6 = skip_connect(block 1)" in printed
    assert "parameters: 44,591,498" in printed


def test_describe_as_json(capsys):
    assert main(["describe", "nasnet", "--code", LANET, "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["code"] == [int(word) for word in LANET.split(",")]
    assert about["parameters"] == 3_222_982
    cost = NASNetSpace(7, channels=36, cells=20).cost(np.array([about["code"]]))
    assert about["multiply_adds"] == cost.multiply_adds[0]
    assert "concat(block 3, block 4, block 5, block 6)" in about["description"]


def test_describe_lists_a_published_mobilenet(capsys):
    assert main(["describe", "mobilenet_v3_large", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert (about["name"], about["parameters"], len(about["layers"])) == ("mobilenet_v3_large", 5_483_032, 17)
    assert main(["describe", "mobilenet_v2"]) == 0
    printed = capsys.readouterr().out
    assert "block 16-96-24, 3x3, stride 2, relu6 @ 112" in printed
    assert "parameters: 3,504,872" in printed


def test_describe_says_what_takes_a_code(capsys):
    assert "mobilenet is a space: choose a network with --code, 47 integers" in refused(capsys, "describe", "mobilenet")
    assert "takes no --code" in refused(capsys, "describe", "efficientnet_b0", "--code", "0")


@pytest.mark.parametrize("code", [f"[{LANET}]", LANET.replace(",", " "), LANET.replace(",", ", ")])
def test_describe_reads_codes_as_people_write_them(capsys, code):
    assert main(["describe", "nasnet", "--code", code]) == 0
    assert "parameters: 3,222,982" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("2,2,0", r"the code has 3 integers, expected 28: positions 0 \(.*\) to 27"),
        (LANET.replace("2,2,0", "2,2,4", 1), r"position 2 \(block 1 op 0\) holds 4, expected 0 to 3"),
        (LANET.replace("2,2,0", "2,-1,0", 1), r"position 1 .* holds -1, expected 0 to 3"),
        (LANET.replace("2,2,0", "2,x,0", 1), "position 1 of the code is 'x', which is not an integer"),
        (LANET.replace("2,2,0", "2,1.5,0", 1), "position 1 of the code is '1.5', which is not an integer"),
        ("", "the code has 0 integers"),
    ],
)
def test_wrong_code_names_position_value_and_range(capsys, code, message):
    assert re.search(message, refused(capsys, "describe", "nasnet", "--code", code))


def test_describe_with_an_experiment_or_a_run(search, capsys):
    run, _ = search
    for space in (EXPERIMENT, str(run)):
        assert main(["describe", space, "--code", "1,2,3,0"]) == 0
        assert "relu" in capsys.readouterr().out
    assert main(["describe", EXPERIMENT, "--code", "1,2,3,0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] is None  # this space does not know


def test_describe_refuses_what_does_not_fit_together(capsys):
    message = refused(capsys, "describe", EXPERIMENT, "--code", "1,2,3,0", "--channels", "8")
    assert "does not take --channels: use it with nasnet" in message
    assert "channels must be at least 1; got 0" in refused(
        capsys, "describe", "nasnet", "--code", LANET, "--channels", "0"
    )
    assert "Names of spaces and networks: nasnet" in refused(capsys, "describe", "nasnext", "--code", LANET)


def test_listing_trials_starts_no_jax(search):
    """A listing has to answer at once: nothing is loaded that only training or drawing needs."""
    run, _ = search
    code = (
        "import sys; from lanas_jax.cli import main; "
        f"main(['trials', {str(run)!r}]); main(['--help']); "
        "heavy = [name for name in ('jax', 'flax', 'optax', 'orbax', 'matplotlib', 'sklearn') if name in sys.modules]; "
        "print(heavy)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True, check=True)
    assert printed.stdout.splitlines()[-1] == "[]"


def test_one_host_confines_jax_before_the_command_starts(monkeypatch, capsys):
    confined = []

    def run(arguments):
        assert confined == [os.environ]
        print(arguments)
        return 0

    monkeypatch.setattr(cli, "confine_to_host", confined.append)
    monkeypatch.setattr(cli, "_function", lambda command: run)
    assert main(["rank", "RUN", "--one-host", "--networks", "8"]) == 0
    assert capsys.readouterr().out == "['RUN', '--networks', '8']\n"
    assert main(["rank", "RUN", "--one-host", "--hosts.automatic"]) == 2
    assert capsys.readouterr().err == "lanas rank: --one-host excludes --hosts and --cluster\n"


@pytest.mark.parametrize(
    ("words", "exit_code", "confines"),
    [
        ("rank RUN", 2, False),
        ("rank RUN --help", 0, False),
        ("rank RUN --one-host", 0, True),
        ("rank RUN --hosts.automatic", 0, False),
        ("search digits --cluster ray", 0, False),
        ("export RUN", 0, True),
    ],
)
def test_on_a_host_of_a_slice_a_command_is_confined_or_says_what_jax_would_wait_for(
    monkeypatch, capsys, words, exit_code, confines
):
    confined = []
    monkeypatch.setattr(cli, "confine_to_host", confined.append)
    monkeypatch.setattr(cli, "_function", lambda command: lambda arguments: 0)
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b,c")
    for name in ("TPU_PROCESS_BOUNDS", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    assert main(words.split()) == exit_code
    said = capsys.readouterr().err
    assert said.startswith("lanas rank: this is one of 3 hosts of a TPU slice") == bool(said) == (exit_code == 2)
    assert bool(confined) == confines
