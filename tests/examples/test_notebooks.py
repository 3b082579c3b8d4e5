"""The notebooks of examples/ run, and are stored without outputs."""

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
# Sizes with which a notebook runs in minutes less: all that it does, on fewer and smaller networks. `make notebooks`
# runs them as they are.
SMALLER = {
    "accuracy_and_cost": {"SEEDS, BUDGET = 5, 100": "SEEDS, BUDGET = 2, 30"},
    "benchmark_table": {"SEEDS, BUDGET = 20, 100": "SEEDS, BUDGET = 2, 30"},
    "digits_in_five_minutes": {
        "--budget 16 --repeats 1 --blocks 2 --cells 2": "--budget 4 --batch 2 --blocks 1 --channels 2 --cells 1 "
        "--epochs 1 --repeats 1",
        "--winner.channels 8 --winner.cells 2 --winner.recipe.epochs 10": "--winner.channels 2 --winner.cells 1 "
        "--winner.recipe.epochs 1",
    },
    "flax_hyperparameters": {"EPOCHS, BATCH = 20, 100": "EPOCHS, BATCH = 1, 100", "budget=16": "budget=4"},
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path):
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None), "strip it: Edit, Clear All Outputs"
        assert cell["metadata"] == {}
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    assert json.dumps(notebook, indent=1, ensure_ascii=False) + "\n" == text  # as Jupyter writes it


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    """In a kernel of its own, in an empty folder, with smaller sizes."""
    nbformat = pytest.importorskip("nbformat", reason="notebooks need nbformat, of the extra 'test'")
    nbclient = pytest.importorskip("nbclient", reason="notebooks need nbclient, of the extra 'test'")
    pytest.importorskip("ipykernel", reason="notebooks need ipykernel, of the extra 'test'")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for size, smaller in SMALLER.get(path.stem, {}).items():
        (cell,) = (cell for cell in notebook.cells if size in cell.source)
        cell.source = cell.source.replace(size, smaller)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    printed = "".join(output.get("text", "") for cell in code for output in cell.outputs)
    assert "Traceback" not in printed  # of a command, which stops no notebook
    assert "error" not in printed.lower()
    shown = [output for cell in code for output in cell.outputs if "data" in output]
    assert any({"text/html", "image/png"} & set(output.data) for output in shown)  # a study or a figure
