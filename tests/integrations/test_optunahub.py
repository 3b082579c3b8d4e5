"""The package for OptunaHub: its layout, and that it loads."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="optuna is not installed")

from lanas_jax.integrations.optuna import LaNASSampler

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "examples" / "optunahub" / "package" / "samplers" / "lanas"


def test_layout():
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} == {
        "LICENSE",
        "README.md",
        "__init__.py",
        "example.py",
        "requirements.txt",
    }
    _, front, text = (PACKAGE / "README.md").read_text().split("---\n", 2)
    fields = dict(line.split(": ", 1) for line in front.splitlines())
    assert list(fields) == ["author", "title", "description", "tags", "optuna_versions", "license"]
    assert fields["tags"].startswith("[sampler, ")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == ["Abstract", "Class or Function Names", "Installation", "Example", "Others"]
    assert (PACKAGE / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_it_loads():
    spec = importlib.util.spec_from_file_location("optunahub_registry_lanas", PACKAGE / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.LaNASSampler is LaNASSampler
    assert module.__all__ == ["LaNASSampler"]


@pytest.mark.slow
def test_the_example_runs_from_a_local_registry():
    pytest.importorskip("optunahub", reason="optunahub is not installed")
    done = subprocess.run([sys.executable, PACKAGE / "example.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[0]) < 1.0
