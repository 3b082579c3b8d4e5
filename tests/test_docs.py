"""The documentation: its Python code runs, it describes every public name, and no page is missing from the site."""

import os
import re
from pathlib import Path

import jax
import pytest

import lanas_jax as lx

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FAST = ("spaces", "how_to/scales", "how_to/ranges", "how_to/conditions", "how_to/alike")
SLOW = ("tutorials/own_function", "tutorials/own_space", "coming_from")


def run_page(page, folder, monkeypatch):
    """Runs all Python code of a page from top to bottom in an empty folder; `py` marks code that does not run."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)
    monkeypatch.chdir(folder)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as users have it
        exec(compile("\n".join(blocks), f"docs/{page}.md", "exec"), {"__name__": "page"})


@pytest.mark.parametrize("page", FAST)
def test_code_of_a_page_runs(page, tmp_path, monkeypatch):
    run_page(page, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW)
def test_code_of_a_page_that_searches_runs(page, tmp_path, monkeypatch):
    run_page(page, tmp_path, monkeypatch)
    assert os.listdir(tmp_path) == ["runs"]


def test_pages_print_what_they_say(tmp_path, monkeypatch, capsys):
    """Comments behind `print` show what it prints, up to an ellipsis or words."""
    for page in ("how_to/scales", "how_to/ranges", "how_to/alike"):
        shown = re.findall(r"^print\(.*\)  # (\(.*?\)|[0-9.]+)", (DOCS / f"{page}.md").read_text(), re.MULTILINE)
        run_page(page, tmp_path, monkeypatch)
        printed = capsys.readouterr().out.splitlines()
        assert len(shown) >= 3
        for text in shown:
            start, _, end = text.partition(" ..., ")
            assert any(line.startswith(start) and line.endswith(end) for line in printed), text


def test_reference_has_every_public_name():
    pages = "".join(file.read_text() for file in (DOCS / "reference").glob("*.md"))
    described = set(re.findall(r"^::: (\S+)$", pages, re.MULTILINE))
    missing = {f"::: lanas_jax.{home}.{name}" for name, home in lx._HOMES.items()}
    missing -= {f"::: {name}" for name in described}
    assert not missing, "add these lines to pages of docs/reference"
    index = (DOCS / "reference" / "index.md").read_text()
    assert not [name for name in lx.__all__ if f"`{name}`" not in index], "add these names to docs/reference/index.md"


def test_experiments_page_has_every_experiment():
    text = (DOCS / "experiments.md").read_text() + (DOCS / "benchmark_programs.md").read_text()
    described = {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE)}
    files = (ROOT / "experiments").rglob("[!_]*.py")
    programs = {file.stem for file in files if re.search(r"^def (build|main)\(", file.read_text(), re.MULTILINE)}
    assert programs - {"pictures", "prepared_pictures", "ship_tables"} <= described


def test_pictures_of_pages_exist():
    pages = [ROOT / "README.md", *DOCS.rglob("*.md")]
    named = [(page, name) for page in pages for name in re.findall(r'(?:src|srcset)="([^"]+)"', page.read_text())]
    assert named
    assert [name for page, name in named if not (page.parent / name).exists()] == []
