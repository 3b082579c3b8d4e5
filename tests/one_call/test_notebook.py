"""A search in a notebook: one line of progress that is replaced, then the result with its plot."""

import base64
import os
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.storage.trial import Status, Trial

ROOT = Path(__file__).parents[2]
SPACE = lx.SearchSpace([lx.Choice("op", ("<a>", "b&c")), lx.Choice("n", range(3))])


def trial(i, value=None, status=Status.DONE, **changes):
    return Trial(i, i, (i % 2, i % 3), "00", status, value, finished=1.0, **changes)


def test_the_result_is_shown_with_a_plot_and_the_best_options():
    trials = [
        trial(0, 0.25),
        trial(1, status=Status.FAILED, reason="<NaN>"),
        trial(2, 0.75),
        trial(3, status=Status.PENDING),
    ]
    shown = lx.Study(Path("runs/<x>"), "<f>", SPACE, trials, 6)._repr_html_()
    assert "<b>&lt;f&gt;</b>: 3 of 6 trials, 1 failed, 1 pending" in shown
    assert "<td>op</td><td>&lt;a&gt;</td></tr><tr><td>n</td><td>2</td>" in shown
    (picture,) = re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", shown)
    drawing = base64.b64decode(picture).decode()
    assert ElementTree.fromstring(drawing).tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in drawing
    assert " %</text>" in drawing  # of an axis of shares


def test_a_search_without_results_is_shown_without_a_plot():
    shown = lx.Study(Path("runs/x"), "f", SPACE, [], 6)._repr_html_()
    assert "0 of 6 trials" in shown
    assert "<img" not in shown


@pytest.mark.slow
def test_a_notebook_shows_one_line_of_progress_and_the_result(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="notebooks need nbformat, of the extra 'test'")
    nbclient = pytest.importorskip("nbclient", reason="notebooks need nbclient, of the extra 'test'")
    pytest.importorskip("ipykernel", reason="notebooks need ipykernel, of the extra 'test'")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    source = (
        "import lanas_jax as lx\n"
        "space = lx.SearchSpace([lx.Choice('op', 'ab'), lx.Choice('n', range(3))])\n"
        "lx.search(lambda op, n: n / 3, space, 6, 'run', searcher=lx.RandomSearch(space))"
    )
    quiet = "study = " + source.splitlines()[-1].replace("'run'", "'quiet', verbose=False")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in (source, quiet)])
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = notebook.cells[0].outputs
    pages = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert sum("trials 6/6 · best 0.6667" in page for page in pages) == 1
    assert not any("trials 1/6" in page for page in pages)
    assert "6 of 6 trials" in pages[-1]
    assert "data:image/svg+xml" in pages[-1]
    assert notebook.cells[1].outputs == []
    assert np.isclose(lx.load(tmp_path / "run").best_value, 2 / 3)
