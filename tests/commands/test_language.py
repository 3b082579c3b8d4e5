"""`lanas train` and `lanas export` of a language model, and the whole way from a search to a report."""

import json
import subprocess
import sys

import pytest

from lanas_jax.cli import main
from lanas_jax.export.language import Sample, load_language
from lanas_jax.export.load import load
from lanas_jax.storage.folder import RunError
from tests.refusals import refused

SMALL = ["--units", "4", "--recipe.steps", "30", "--recipe.streams", "4", "--recipe.length", "8"]


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("abcd " * 3000, encoding="utf-8")
    return str(path)


@pytest.mark.slow
def test_a_language_model_is_trained_and_exported_and_writes(tmp_path, book, capsys):
    folder = tmp_path / "gru"
    command = ["train", "recurrent_text", "--code", "2,2,3,0,0,2", "--config.file", book, "--out", str(folder), *SMALL]
    assert main(command) == 0
    final = json.loads((folder / "final.json").read_text())
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"recurrent_text: 30 steps, in {folder}"
    assert out[1].startswith("step 25/30 · ")
    assert f"test {final['test_bits']:.4f} bits per character" in out
    assert main(["train", str(folder)]) == 0
    assert "already complete" in capsys.readouterr().out
    words = ["--sample.prompt", "ABC", "--sample.length", "20", "--sample.seed", "3"]
    assert main(["export", str(folder), *words]) == 0
    text = (folder / "export" / "sample.txt").read_text()
    assert text.startswith("abc")
    assert len(text) == 24
    assert text.rstrip("\n") in capsys.readouterr().out
    model = load_language(folder / "export")
    assert model.write(Sample("ABC", 20, seed=3)) + "\n" == text
    assert model.architecture["test_bits"] == final["test_bits"]
    with pytest.raises(RunError, match="holds a language model: read it with"):
        load(folder / "export")
    assert "leave it out" in refused(capsys, "export", folder, "--format", "onnx")


@pytest.mark.slow
def test_from_a_search_to_a_report_and_another_process(tmp_path, book, capsys):
    run = tmp_path / "run"
    search = ["search", "recurrent_text", "--file", book, "--budget", "4", "--batch", "4", "--units", "4"]
    assert main([*search, "--training.steps", "20", "--out", str(run)]) == 0
    assert main(["train", str(run), *SMALL]) == 0
    assert main(["resume", str(run)]) == 0
    assert "the winner, trained for 30 steps:" in capsys.readouterr().out
    assert main(["report", str(run)]) == 0
    assert "bits per character" in (run / "report.html").read_text()
    assert main(["report", str(run), str(run), "--out", str(tmp_path / "both.html")]) == 0
    assert main(["export", str(run)]) == 0
    capsys.readouterr()
    script = [sys.executable, str(run / "final" / "export" / "load.py"), "--prompt", "ab", "--length", "9"]
    done = subprocess.run(script, capture_output=True, text=True, check=True, timeout=120)
    assert len(done.stdout) == 12
