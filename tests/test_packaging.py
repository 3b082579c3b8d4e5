"""What newcomers touch first: the wheel, the Makefile, the README."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import lanas_jax
from lanas_jax.cli import main

ROOT = Path(__file__).parents[1]
TINY_DIGITS = ("--budget=1", "--batch=1", "--epochs=1", "--blocks=1", "--cells=1")
TINY_DIGITS += ("--winner.recipe.epochs=1", "--winner.channels=2", "--winner.cells=1")
LANET = "2,2,0,2,1,2,0,2,2,3,2,1,2,0,0,1,1,1,2,1,1,0,3,4,3,0,3,1"


def python_blocks(page="README.md"):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_readme_fits_on_two_screens():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 130
    assert [line.strip() for line in lines if line.startswith("    make ")] == [
        "make search    # searches convolutional cells for the handwritten digits that scikit-learn ships",
        "make test      # runs the tests",
    ]


def test_the_version_is_written_once(capsys):
    assert re.fullmatch(r"\d+\.\d+\.\d+", lanas_jax.__version__)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lanas {lanas_jax.__version__}\n"
    assert lanas_jax.__version__ not in (ROOT / "pyproject.toml").read_text()


def test_readme_example_of_ask_and_tell_runs(capsys):
    (example,) = (block for block in python_blocks() if "searcher.ask" in block)
    exec(compile(example, "README.md", "exec"), {})
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == {"width", "depth", "norm"}


@pytest.mark.slow
def test_readme_example_of_one_call_runs(tmp_path, monkeypatch, capsys):
    (example,) = (block for block in python_blocks() if "lx.search(" in block)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    value = float(capsys.readouterr().out.splitlines()[-1].split()[0])
    assert value > 0.97  # of a default SVC: 0.969
    assert Path("runs/svm/report.html").exists()


@pytest.mark.slow
def test_example_of_own_images_runs(tmp_path, monkeypatch, capsys):
    (example,) = (block for block in python_blocks("docs/runs.md") if "def build" in block)
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(example)
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 96).astype(np.int32)
    images = random.normal(labels[:, None, None, None], 1.0, (96, 8, 8, 1)).astype(np.float32)
    np.save("images.npy", images)
    np.save("labels.npy", labels)
    assert main(["search", "mine.py", "--budget", "4", "--epochs", "2", "--out", "run"]) == 0
    assert "best of 4 trials (4 done)" in capsys.readouterr().out
    assert Path("run/report.html").exists()


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The source distribution, and the wheel built from it; from a copy of the tree, so that no products remain."""
    folder = tmp_path_factory.mktemp("distributions")
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in ("lanas_jax", "models", "experiments", "tests"):
        shutil.copytree(ROOT / name, folder / "tree" / name, symlinks=True, ignore=skip)
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE"):
        shutil.copy(ROOT / name, folder / "tree")
    command = [sys.executable, "-m", "build", "--outdir", folder / "dist", folder / "tree"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    said = built.stdout + built.stderr
    if built.returncode and "setuptools" in said and "No matching distribution" in said:
        pytest.skip("building needs setuptools >= 77 from a package index, and none can be reached")
    assert built.returncode == 0, said
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(distributions):
    (wheel,) = distributions.glob("*.whl")
    return wheel


@pytest.mark.slow
def test_distributions_pass_the_checks_of_twine(distributions):
    files = sorted(distributions.iterdir())
    assert [file.name for file in files] == [
        f"lanas_jax-{lanas_jax.__version__}-py3-none-any.whl",
        f"lanas_jax-{lanas_jax.__version__}.tar.gz",
    ]
    command = [sys.executable, "-m", "twine", "check", "--strict", *files]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    with tarfile.open(files[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "CHANGELOG.md", "CITATION.cff", "lanas_jax/tables/shipped/LICENSE-NATS-Bench"} <= names
    assert not any(name.startswith("tests") for name in names)


@pytest.mark.slow
def test_wheel_installs_one_package_with_its_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        about = archive.read(metadata).decode()
        (scripts,) = (name for name in names if name.endswith("/entry_points.txt"))
        assert "lanas = lanas_jax.cli:run_and_exit" in archive.read(scripts).decode()
    expected = {
        str(file.relative_to(ROOT))
        for package in ("lanas_jax", "lanas_jax/models", "lanas_jax/experiments")
        for file in (ROOT / package).rglob("*")
        if file.suffix == ".py" or file.name == "py.typed" or file.parent.name == "shipped"
    }
    assert expected <= names
    assert {"lanas_jax/py.typed", "lanas_jax/models/py.typed", "lanas_jax/experiments/digits.py"} <= expected
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"lanas_jax"}
    licenses = ("/LICENSE", *(f"/shipped/LICENSE-{name}" for name in ("NAS-Bench-201", "NATS-Bench", "Accel-NASBench")))
    assert all(any(".dist-info/" in name and name.endswith(end) for name in names) for end in licenses)
    version = f"Version: {lanas_jax.__version__}"
    for line in ("Name: lanas-jax", version, "License-Expression: Apache-2.0 AND MIT", "Requires-Python: >=3.11"):
        assert line in about.splitlines()


@pytest.mark.slow
def test_installed_wheel_finds_its_experiments_from_any_folder(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, 'site'); import lanas_jax; from lanas_jax.study import discovery; "
        "assert lanas_jax.__file__.startswith(sys.argv[1]); print(*discovery.experiments())"
    )
    command = [sys.executable, "-I", "-c", f"import os; os.chdir(r'{tmp_path}'); {code}", str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    files = (ROOT / "experiments").glob("[!_]*.py")
    there = {file.stem for file in files if "def build(" in file.read_text()}
    assert set(found.stdout.split()) == there


@pytest.mark.parametrize("folder", ["lanas_jax", "models", "experiments"])
def test_no_file_imports_by_the_names_of_folders_that_users_have_too(folder):
    """A project's own `models` or `experiments` would be imported in their place."""
    taken = {"models", "experiments", "tests"}
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not taken & {name.partition(".")[0] for name in names}, f"{file}:{node.lineno}"


MINE = '''"""A search of my own, with models and experiments of my own."""

import dataclasses

import experiments
import models
from experiments.settings import SEED
from models import net

assert (models.WHOSE, experiments.WHOSE) == ("mine", "mine")


@dataclasses.dataclass(frozen=True)
class Config(net.Config):
    """Settings."""

    seed: int = SEED


@dataclasses.dataclass(frozen=True)
class Final(net.Final):
    """Settings of the final training."""


def build(config):
    return net.build(config)


def final(config, settings, code):
    return net.final(config, settings, code)
'''


@pytest.fixture
def project(tmp_path):
    """A user's folder with packages of the names of this repository's folders."""
    for package in ("models", "experiments"):
        (tmp_path / "project" / package).mkdir(parents=True)
        (tmp_path / "project" / package / "__init__.py").write_text("WHOSE = 'mine'\n")
    shutil.copy(ROOT / "tests" / "trainer" / "tiny_experiment.py", tmp_path / "project" / "models" / "net.py")
    (tmp_path / "project" / "experiments" / "settings.py").write_text("SEED = 7\n")
    for name in ("digits", "cifar10"):  # experiments of this package, too
        (tmp_path / "project" / "experiments" / f"{name}.py").write_text("raise AssertionError('the user's own')\n")
    for name in ("nasnet", "mobilenet"):  # models of this package, too
        (tmp_path / "project" / "models" / f"{name}.py").write_text("raise AssertionError('the user's own')\n")
    return tmp_path / "project"


def installed_lanas(site, *arguments, cwd, path=()):
    """Runs a command of an installed package, which finds nothing of this repository."""
    command = [sys.executable, "-c", "from lanas_jax.cli import run_and_exit; run_and_exit()"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*path, site)))}
    done = subprocess.run(
        [*command, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("place", ["working directory", "beside the experiment", "PYTHONPATH"])
def test_a_users_own_models_and_experiments_stay_theirs(wheel, project, tmp_path, place):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    inside = place == "working directory"
    file = (elsewhere if place == "PYTHONPATH" else project) / "mine.py"
    file.write_text(MINE)
    how = {"cwd": project if inside else elsewhere, "path": (project,) if place == "PYTHONPATH" else ()}
    run = tmp_path / "run"

    def lanas(*arguments):
        return installed_lanas(tmp_path / "site", *arguments, **how)

    assert "best of 4 trials" in lanas("search", file.name if inside else file, "--out", run)
    assert "continuing after 4 of 4 trials" in lanas("resume", run)
    if inside:
        assert "test accuracy" in lanas("train", run, "--recipe.epochs", "1")
        lanas("export", run, "--format", "orbax")
    record = json.loads((run / "config.json").read_text())
    assert (record["config"]["seed"], record["source"]) == (7, str(file))
    assert "  digits " in lanas("search", "--help")


@pytest.mark.slow
def test_experiments_of_the_package_are_found_from_a_users_project(wheel, project, tmp_path):
    """The project is the working directory and on PYTHONPATH."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    how = {"cwd": project, "path": (project,)}
    assert "--budget" in installed_lanas(tmp_path / "site", "search", "digits", "--help", **how)
    assert "multiply_adds" in installed_lanas(tmp_path / "site", "describe", "nasnet", "--code", LANET, **how)


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """An environment with the wheel and its dependencies: a function that runs a command of it in a folder."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(command, *arguments, cwd):
        command = [folder / "venv" / "bin" / command, *map(str, arguments)]
        done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False)
        if "No matching distribution" in done.stderr:
            pytest.skip("the dependencies come from a package index, and none can be reached")
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("python", "-m", "pip", "install", "--quiet", "--no-compile", wheel, cwd=folder)
    return run


@pytest.fixture(scope="module")
def searched(environment, tmp_path_factory):
    """The folder of a search in this environment. Its winner has normal and reduction cells."""
    run = tmp_path_factory.mktemp("searched") / "run"
    said = environment("lanas", "search", "digits", *TINY_DIGITS, "--winner.cells=3", "--out", run, cwd=run.parent)
    assert "test accuracy" in said
    return run


@pytest.mark.slow
def test_wheel_works_in_an_empty_environment(environment, searched, project, tmp_path):
    """All that the two commands of the README need is declared, and a user's own packages are not in the way."""
    assert environment("lanas", "--version", cwd=project) == f"lanas {lanas_jax.__version__}\n"
    assert (searched / "report.html").exists()
    assert "continuing after 1 of 1 trials" in environment("lanas", "resume", searched, cwd=project)
    few = ("--searchers", "lanas,random", "--seeds", 2, "--budget", 20, "--out", tmp_path / "comparison")
    compared = environment("lanas", "compare", "nasbench201-cifar10", *few, cwd=project)
    assert "samples to the best network, median: LaNAS" in compared
    assert (tmp_path / "comparison" / "comparison.png").exists()


@pytest.mark.slow
def test_the_extra_onnx_converts_a_trained_network(environment, searched, wheel, tmp_path):
    """In this environment, since jax2onnx requires an older orbax than the one that the other tests have."""
    environment("python", "-m", "pip", "install", "--quiet", "--no-compile", f"{wheel}[export,onnx]", cwd=tmp_path)
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    logits = {}
    for kind in ("safetensors", "stablehlo", "onnx"):
        environment("lanas", "export", searched, "--format", kind, "--out", kind, cwd=tmp_path)
        environment("python", f"{kind}/load.py", "images.npy", f"{kind}.npy", cwd=tmp_path)
        logits[kind] = np.load(tmp_path / f"{kind}.npy")
    assert logits["onnx"].shape == (5, 10)
    np.testing.assert_allclose(logits["onnx"], logits["safetensors"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits["stablehlo"], logits["safetensors"], rtol=1e-4, atol=1e-5)


def fake_python(folder, body):
    script = folder / "python3"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    return script


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('[ "$1" = -V ] && echo "Python 3.9.2" && exit; exit 1', "is Python 3.9.2, but 3.11 or newer is needed"),
        ('[ "$1" = -m ] && exit 1; exit 0', "cannot make virtual environments: install its venv module"),
    ],
)
@pytest.mark.parametrize("target", ["search", "test"])
def test_makefile_says_what_is_wrong_with_python(tmp_path, body, message, target):
    python, venv = fake_python(tmp_path, body), tmp_path / "venv"
    make = ["make", "-C", str(ROOT), target, f"PYTHON={python}", f"VENV={venv}"]
    failed = subprocess.run(make, capture_output=True, text=True, check=False)
    assert failed.returncode != 0
    assert message in failed.stdout
    assert not venv.exists()


def test_makefile_says_when_there_is_no_python(tmp_path):
    make = ["make", "-C", str(ROOT), "search", "PYTHON=python-that-is-not-there", f"VENV={tmp_path / 'venv'}"]
    failed = subprocess.run(make, capture_output=True, text=True, check=False)
    assert failed.returncode != 0
    assert "python-that-is-not-there was not found: install Python >= 3.11" in failed.stdout
