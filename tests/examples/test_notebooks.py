"""The notebooks of examples/ run, and are stored without outputs."""

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


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
    """In a kernel of its own, in an empty folder."""
    nbformat = pytest.importorskip("nbformat", reason="notebooks need nbformat, of the extra 'test'")
    nbclient = pytest.importorskip("nbclient", reason="notebooks need nbclient, of the extra 'test'")
    pytest.importorskip("ipykernel", reason="notebooks need ipykernel, of the extra 'test'")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    printed = "".join(output.get("text", "") for cell in code for output in cell.outputs)
    assert "Traceback" not in printed  # of a command, which stops no notebook
    assert "error" not in printed.lower()
    shown = [output for cell in code for output in cell.outputs if "data" in output]
    assert any({"text/html", "image/png"} & set(output.data) for output in shown)  # a study or a figure
