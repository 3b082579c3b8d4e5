"""Experiments as files: what lies beside them, how they name their settings, what other processes import of them."""

import dataclasses
import multiprocessing
import os
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lanas_jax.cli import main
from lanas_jax.cluster.task import ClusterTask
from lanas_jax.cluster.worker import Order, Worker
from lanas_jax.spaces import choices
from lanas_jax.storage.trials import TrialStore
from lanas_jax.study import run_folder
from lanas_jax.study.discovery import ExperimentError, load_experiment
from lanas_jax.study.replay import hexadecimal, trial_keys
from tests.refusals import refused

ROOT = Path(__file__).parents[2]
TOY = (ROOT / "tests" / "toy_experiment.py").read_text()
TOY = TOY.replace("import lanas_jax as lx", "from pathlib import Path\n\nimport lanas_jax as lx", 1)
TRAINED = (ROOT / "tests" / "trainer" / "tiny_experiment.py").read_text()
READS = {  # ways to read a file that belongs to an experiment: where it is read, and how
    "beside the file, in build": ("space = space_of(OPTIONS)", 'np.load(Path(__file__).parent / "data.npy")'),
    "in the current folder, in build": ("space = space_of(OPTIONS)", 'np.load("data.npy")'),
    "beside the file, at import": ("class Sum:", 'np.load(Path(__file__).parent / "data.npy")'),
    "in the current folder, in each trial": ("return [self.outcome", 'np.load("data.npy")'),
}


def write(folder, name="mine.py", text=TOY, **replaced):
    """Writes an experiment's file; returns its path."""
    folder.mkdir(exist_ok=True)
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    (folder / name).write_text(text)
    return folder / name


def reading(folder, how):
    """An experiment that reads a file of its own."""
    place, call = READS[how]
    indent = " " * {"space": 4, "return": 8}.get(place.split(" ")[0].split("[")[0], 0)
    text = TOY.replace("import lanas_jax as lx", "import numpy as np\nimport lanas_jax as lx")
    path = write(folder, text=text.replace(place, f"{call}\n{indent}{place}"))
    np.save(folder / "data.npy", np.zeros(3))
    return path


def trials(run):
    with TrialStore.open(run / "trials.sqlite") as store:
        return store.trials()


@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=[pytest.mark.slow] * (how != "in the current folder, in build")) for how in READS]
)
def test_files_of_an_experiment_are_found_from_any_folder_later(how, tmp_path, monkeypatch, capsys):
    path = reading(tmp_path / "home", how)
    monkeypatch.chdir(tmp_path / "home")
    assert main(["search", "mine.py", "--out", str(tmp_path / "run")]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["resume", "../run", "--budget", "6"]) == 0
    assert [trial.reason for trial in trials(tmp_path / "run")] == [None] * 6
    for command in (["report"], ["tree"], ["trials"], ["describe", "--code", "0,0"]):
        assert main([command[0], "../run", *command[1:]]) == 0
    assert Path.cwd() == tmp_path / "elsewhere"
    capsys.readouterr()
    moved = path.parent / "data.npy"
    moved.rename(path.parent / "moved.npy")
    if how.endswith("trial"):
        assert main(["resume", "../run", "--budget", "8"]) == 0
        assert f"'data.npy' (looked for in {path.parent})" in trials(tmp_path / "run")[-1].reason
        return
    message = refused(capsys, "resume", "../run", "--budget", "8")
    where = f"'data.npy' (looked for in {path.parent})" if "current" in how else f"'{moved}'"
    assert f"No such file or directory: {where}" in message


def test_files_of_an_experiment_are_found_by_workers(tmp_path, monkeypatch):
    path = reading(tmp_path / "home", "in the current folder, in each trial")
    monkeypatch.chdir(tmp_path / "home")
    module = load_experiment(path)
    config = module.Config()
    run = run_folder.create(tmp_path / "run", module.build(config), path, config)
    (tmp_path / "session").mkdir()
    monkeypatch.chdir(tmp_path / "session")
    worker = Worker(ClusterTask.of(run), cores=1.0)
    (outcome,) = worker.evaluate(Order((0,), ((3, 2),), tuple(hexadecimal(trial_keys(0, range(1)))))).outcomes
    assert outcome.value == 5.0


def test_a_run_copies_the_text_that_was_run(tmp_path):
    edits = '(Path(__file__)).write_text("edited while the data loads (")'
    path = write(tmp_path, **{"space = space_of(OPTIONS)": f"{edits}\n    space = space_of(OPTIONS)"})
    text = path.read_text()
    assert main(["search", str(path), "--out", str(tmp_path / "run")]) == 0
    assert path.read_text() != text == (tmp_path / "run" / "experiment.py").read_text()


def test_a_file_that_is_gone_is_named(tmp_path, capsys):
    imports = "import lanas_jax as lx"
    path = write(tmp_path / "home", **{imports: f"{imports}\nfrom beside_mine import BATCH"})
    (tmp_path / "home" / "beside_mine.py").write_text("BATCH = 2\n")
    assert main(["search", str(path), "--out", str(tmp_path / "run")]) == 0
    sys.modules.pop("beside_mine")
    (tmp_path / "home").rename(tmp_path / "moved")
    assert "cannot be loaded: ModuleNotFoundError: No module named 'beside_mine'" in refused(
        capsys, "report", tmp_path / "run"
    )


@pytest.mark.parametrize("command", ["resume", "report", "tree", "describe"])
def test_a_sibling_module_that_gives_other_options_is_noticed(command, tmp_path, capsys):
    name = f"options_for_{command}"
    path = write(tmp_path / "home", **{'OPTIONS = {"a": (1, 2, 3, 4), "b": "xyz"}': f"from {name} import OPTIONS"})
    beside = path.with_name(f"{name}.py")
    beside.write_text('OPTIONS = {"a": (1, 2, 3, 4), "b": "xyz"}\n')
    assert main(["search", str(path), "--out", str(tmp_path / "run")]) == 0
    sys.modules.pop(name)
    beside.write_text('OPTIONS = {"a": (1, 2, 4), "b": "xyz"}  # without 3\n')
    arguments = ["--code", "0,0"] if command == "describe" else []
    message = refused(capsys, command, tmp_path / "run", *arguments)
    changed = "options of choice a: 1, 2, 3, 4, now 1, 2, 4"
    assert f"belong to another space: {changed}" in message.replace("'", "")


def test_a_run_that_no_longer_builds_says_how_to_read_its_trials(tmp_path, capsys, monkeypatch):
    """Here a choice has more options than this version takes."""
    run = tmp_path / "run"
    assert main(["search", str(ROOT / "tests" / "toy_experiment.py"), "--out", str(run)]) == 0
    monkeypatch.setattr(choices, "MOST_OPTIONS", 3)
    message = refused(capsys, "resume", run, "--budget", 6)
    assert "choice 'a' has 4 options; give at most 3" in message
    assert message.endswith(f"To list the recorded trials: lanas trials {run}\n")
    assert main(["trials", str(run)]) == 0


def test_a_copy_that_was_edited_is_noticed_by_training_and_by_search(tmp_path, capsys):
    path = write(tmp_path, text=TRAINED)
    assert main(["search", str(path), "--out", str(tmp_path / "run")]) == 0
    copy = tmp_path / "run" / "experiment.py"
    copy.write_text(copy.read_text().replace('("relu", "identity", "root")', '("root", "identity", "relu")'))
    for command in ("train", "resume", "report"):
        message = refused(capsys, command, tmp_path / "run")
        assert "options of choice 'activation': 'relu', 'identity', 'root', now 'root', 'identity', 'relu'" in message
    assert not (tmp_path / "run" / "final").exists()


JOBS = '''"""An experiment with work for other processes."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Job:
    number: int


def work(job):
    return Job(job.number + 1), __file__, __name__


def build(config): ...
'''


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("name", ["jobs.py", "my-jobs.v2.py"])
def test_processes_of_an_experiment_import_it_by_name(method, name, tmp_path):
    path = tmp_path / r"a\x" / name
    path.parent.mkdir()
    path.write_text(JOBS)
    module = load_experiment(path)
    path.write_text("edited after the start (")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        job, file, where = pool.submit(module.work, module.Job(1)).result()
    assert (job, file, where) == (module.Job(2), str(path), module.__name__)


def test_processes_of_a_resumed_run_import_its_copy(tmp_path):
    copy, original = tmp_path / "experiment.py", tmp_path / "home" / "jobs.py"
    copy.write_text(JOBS)
    original.parent.mkdir()
    original.write_text(JOBS.replace("+ 1", "+ 100"))
    assert load_experiment(original).__name__ == "lanas_experiment_jobs"
    module = load_experiment(copy, original=original)
    assert module.__name__ == "lanas_experiment_jobs"
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        job, file, _ = pool.submit(module.work, module.Job(1)).result()
    assert (job.number, file) == (2, str(original))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_an_evaluator_with_processes_searches_and_resumes(method, tmp_path):
    pool = f"ProcessPoolExecutor(1, mp_context=multiprocessing.get_context({method!r}))"
    imports = "import dataclasses\nimport multiprocessing\nfrom concurrent.futures import ProcessPoolExecutor"
    path = write(
        tmp_path,
        **{
            "import dataclasses": imports,
            "class Sum:": "def one(code):\n    return lx.Outcome(float(sum(code)))\n\n\nclass Sum:",
            "return [self.outcome(code) for code in codes.tolist()]": f"with {pool} as pool:\n"
            "            return list(pool.map(one, codes.tolist()))",
        },
    )
    run = str(tmp_path / "run")
    for command in (["search", str(path), "--out", run], ["resume", run, "--budget", "6"]):
        ended = subprocess.run(
            [sys.executable, "-m", "lanas_jax.cli", *command],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            cwd="/",
            text=True,
            capture_output=True,
        )
        assert ended.returncode == 0, ended.stderr
    found = trials(tmp_path / "run")
    assert [trial.value for trial in found] == [float(sum(trial.code)) for trial in found]


CONFIG = "seed: int = 0\n    budget: int = 4"


@pytest.mark.parametrize(
    ("command", "field"),
    [
        *(("search", field) for field in ("out", "cluster", "ray", "help")),
        *(("supernet", field) for field in ("out", "hosts")),
        *(("plan", field) for field in ("topology", "only", "json")),
    ],
)
def test_a_setting_named_like_an_option_is_refused(command, field, tmp_path, capsys):
    path = write(tmp_path, **{CONFIG: f"{CONFIG}\n    {field}: int = 0"})
    message = refused(capsys, command, path)
    taken = f"the field '{field}', which is an option of lanas {command}"
    assert message == f"lanas {command}: Config has {taken}: rename it\n"


def test_a_setting_of_a_training_named_like_an_option_is_refused(tmp_path, capsys):
    text = TRAINED.replace("recipe: Recipe = RECIPE\n", "recipe: Recipe = RECIPE\n    weights: int = 0\n")
    path = write(tmp_path, text=text)
    message = refused(capsys, "train", path, "--code", "0,1")
    assert "Final has the field 'weights', which is an option of lanas train: rename it" in message


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ('ValueError("seed is odd")', "invalid settings: ValueError: seed is odd (mine.py, line "),
        ('KeyError("x")', "invalid settings: KeyError: 'x' (mine.py, line "),
        ("AssertionError", "invalid settings: AssertionError"),
        ("SystemExit(3)", "invalid settings: sys.exit(3) (mine.py, line "),
    ],
)
def test_settings_that_refuse_themselves(error, message, tmp_path, capsys):
    check = f"\n\n    def __post_init__(self):\n        if self.seed % 2:\n            raise {error}"
    path = write(tmp_path, **{"batch: int = 2": f"batch: int = 2{check}"})
    out = tmp_path / "run"
    for command in ("search", "supernet"):
        assert message in refused(capsys, command, path, "--out", out, "--seed", "1")
    assert not out.exists()
    write(tmp_path, "odd.py", text=path.read_text().replace("seed: int = 0", "seed: int = 1"))
    assert message.replace("mine", "odd") in refused(capsys, "describe", tmp_path / "odd.py", "--code", "0,0")


def test_options_out_of_range_are_refused(tmp_path, capsys):
    for command in (("search", write(tmp_path)), ("resume", tmp_path)):
        assert "cores must be greater than 0; got 0.0" in refused(capsys, *command, "--ray.cores", "0")


def test_describe_needs_defaults(tmp_path, capsys):
    path = write(tmp_path, **{CONFIG: "data: str\n    seed: int = 0\n    budget: int = 4"})
    message = refused(capsys, "describe", path, "--code", "0,0")
    assert message == "lanas describe: Config has no default for data: give one, or name a run, which has settings\n"
    assert "--data" in refused(capsys, "search", path)


@pytest.mark.parametrize(
    ("imports", "annotation"),
    [
        (
            "from __future__ import annotations\nimport typing\nif typing.TYPE_CHECKING:\n    from a import Folder",
            "Folder",
        ),
        ("import typing\nif typing.TYPE_CHECKING:\n    from decimal import Decimal as Folder", '"Folder | None"'),
    ],
)
@pytest.mark.parametrize("command", ["search", "describe", "plan", "supernet", "rank"])
def test_annotations_for_type_checkers_alone_are_refused(imports, annotation, command, tmp_path, capsys):
    text = TOY.replace("import dataclasses", f"{imports}\nimport dataclasses", 1)
    path = write(tmp_path, text=text.replace("batch: int = 2", f"batch: int = 2\n    folder: {annotation} = None"))
    if command == "rank":
        run = run_folder.create(tmp_path / "run", discovery_build(tmp_path), write(tmp_path, "plain.py"), None)
        run.source.write_text(path.read_text())
        path = run.directory
    message = refused(capsys, command, path)
    assert "an annotation of Config is not defined when the file runs (name 'Folder' is not defined)" in message


def discovery_build(folder):
    module = load_experiment(write(folder, "plain.py"))
    return module.build(module.Config())


def test_annotations_of_nested_settings_are_refused(tmp_path):
    nested = '@dataclasses.dataclass\nclass Data:\n    folder: "Folder" = None\n\n\n'
    text = TOY.replace("@dataclasses.dataclass(frozen=True)", f"{nested}@dataclasses.dataclass(frozen=True)", 1)
    text = text.replace("batch: int = 2", "batch: int = 2\n    data: tuple[Data, ...] | None = None")
    path = write(tmp_path, text=text)
    with pytest.raises(ExperimentError, match="an annotation of Data is not defined when the file runs"):
        load_experiment(path)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("OPTIONS = {", "cannot be loaded: sys.exit(4) (mine.py, line "),
        ("space = space_of(OPTIONS)", "build(config) called sys.exit(4) (mine.py, line "),
    ],
)
def test_an_experiment_that_exits_is_refused(place, message, tmp_path, capsys):
    call = "raise SystemExit(4)"
    path = write(tmp_path, **{place: f"{call}\n{'    ' if place.startswith('space') else ''}{place}"})
    assert message in refused(capsys, "search", path, "--out", tmp_path / "run")


def test_a_search_that_the_evaluator_ends_says_so(tmp_path, capsys):
    path = write(tmp_path, **{"return [self.outcome": "raise SystemExit\n        return [self.outcome"})
    message = refused(capsys, "search", path, "--out", tmp_path / "run", code=1)
    assert re.match(r"the evaluator called sys.exit\(\) \(mine.py, line \d+", message)
    assert f"0 finished trials are saved. To continue: lanas resume {tmp_path / 'run'}" in message


@pytest.mark.parametrize(("odd", "did"), [("sys.exit(3)", "called sys.exit(3)"), ("{}['x']", "raised KeyError: 'x'")])
def test_a_space_that_fails_outside_of_its_search_is_one_sentence(odd, did, tmp_path, monkeypatch, capsys):
    text = (
        TOY.replace("return lx.SearchSpace(", "return Odd(")
        + f"""

import os, sys

class Odd(lx.SearchSpace):
    def describe(self, code):
        return {odd} if os.environ.get("ODD") == "describe" else super().describe(code)

    def cost(self, codes):
        return {odd} if os.environ.get("ODD") == "cost" else super().cost(codes)
"""
    )
    path, run = write(tmp_path, text=text), tmp_path / "run"
    assert main(["search", str(path), "--out", str(run)]) == 0
    capsys.readouterr()
    for method, command in (("describe", "report"), ("describe", "describe"), ("cost", "describe")):
        monkeypatch.setenv("ODD", method)
        more = ["--code", "0,0"] if command == "describe" else []
        message = refused(capsys, command, run, *more, code=1)
        assert re.fullmatch(rf"lanas {command}: the experiment {re.escape(did)} \(experiment.py, line \d+\)\n", message)


def test_errors_of_libraries_name_the_line_that_called_them(tmp_path, capsys):
    for line, message in (
        ("np.load('none.npy')", r"raised FileNotFoundError: .*'none.npy' \(looked for in .*\) \(mine.py, line \d+\)\n"),
        ("lx.Choice('a', [])", r"raised ValueError: .* \(mine.py, line \d+\)\n"),
    ):
        path = write(tmp_path, **{"space = space_of": f"import numpy as np; {line}\n    space = space_of"})
        assert re.search(rf"build\(config\) {message}", refused(capsys, "search", path, "--out", tmp_path / "run"))


def test_an_extended_run_shows_its_history(tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["search", str(write(tmp_path)), "--out", str(run)]) == 0
    assert main(["resume", str(run), "--budget", "6"]) == 0
    assert len(trials(run)) == 6
    assert "already has 6 trials: the budget must be at least that; got 5" in refused(
        capsys, "resume", run, "--budget", "5"
    )
    assert "budget must be at least 1; got 0" in refused(capsys, "resume", run, "--budget", "0")
    assert main(["describe", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "\nbudget: 6\n" in printed
    assert "budget 4, now 6, after 4 trials" in printed
    assert "budget 4, now 6, after 4 trials" in (run / "report.html").read_text()
    assert main(["resume", str(run)]) == 0  # the new budget lasts


def test_other_versions_are_accepted_on_demand_and_listed(tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["search", str(write(tmp_path)), "--out", str(run)]) == 0
    with TrialStore.open(run / "trials.sqlite") as store:
        for trial in store.trials():
            store._write("REPLACE", dataclasses.replace(trial, software=dict(trial.software) | {"numpy": "2.0.1"}))
    more = ("resume", run, "--budget", "6")
    message = refused(capsys, *more)
    assert run_folder.open_run(run).record["budget"] == 4  # the refused command changed nothing
    assert main(["resume", str(run)]) == 0
    assert "recorded with other versions (numpy 2.0.1, now " in message
    assert "accept the present ones with --accept-versions" in message
    assert main([*map(str, more), "--accept-versions"]) == 0
    assert main(["trials", str(run)]) == 0
    line = f"numpy 2.0.1 (trials 0-3), {np.__version__} (trials 4-5)"
    assert capsys.readouterr().out.splitlines()[-1] == f"versions: {line}"
    assert line in (run / "report.html").read_text()


def test_the_command_line_runs_as_a_module():
    command = [sys.executable, "-m", "lanas_jax.cli"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    listed = subprocess.run([*command, "--help"], env=environment, text=True, capture_output=True)
    assert (listed.returncode, listed.stdout.splitlines()[0][:5]) == (0, "lanas")
    wrong = subprocess.run([*command, "serach"], env=environment, text=True, capture_output=True)
    assert (wrong.returncode, wrong.stderr[:40]) == (2, "lanas: there is no command 'serach'; cho")


def test_the_folder_for_children_is_removed_at_the_end(tmp_path):
    (tmp_path / "jobs.py").write_text(JOBS)
    code = (
        "from pathlib import Path; from lanas_jax.study import discovery; "
        f"discovery.load_experiment(Path({str(tmp_path / 'jobs.py')!r})); print(discovery._folder_for_children())"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True, check=True)
    assert not Path(printed.stdout.strip()).exists()
