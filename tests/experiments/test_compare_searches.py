import json
from pathlib import Path

import numpy as np
import pytest

from lanas_jax import study
from lanas_jax.experiments import compare_searches
from lanas_jax.storage.trials import TrialStore
from tests import quick_experiment

SOURCE = Path(quick_experiment.__file__)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("comparison")


@pytest.fixture(scope="module")
def table(out):
    compare(out)
    return json.loads((out / "comparison.json").read_text())


def compare(out):
    compare_searches.main([str(SOURCE), "--out", str(out), "--seeds", "2", "--searchers", "random", "lanas"])


def values(directory):
    with TrialStore.open(directory / "trials.sqlite", read_only=True) as store:
        return [trial.value for trial in store.trials()]


def test_best_values_are_those_of_the_runs(out, table):
    assert [row["searcher"] for row in table] == ["random", "lanas"]
    for row in table:
        found = [values(out / f"{row['searcher']}-{seed}") for seed in range(2)]
        assert row["best"] == {str(n): [max(run[:n]) for run in found] for n in (8, 16, 24)}
        gains = [np.mean(run[-6:]) - np.mean(run[:6]) for run in found]
        assert row["last_over_first_quarter"] == pytest.approx(gains)


def test_a_search_is_what_it_is_alone(out, table, tmp_path):
    assert table
    alone = quick_experiment.build(quick_experiment.Config(seed=1, searcher="lanas"))
    study.run(alone, tmp_path / "alone")
    assert values(tmp_path / "alone") == values(out / "lanas-1")


def test_started_again_it_only_reads(out, table, capsys):
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/trials.sqlite")}
    compare(out)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/trials.sqlite")} == before
    assert json.loads((out / "comparison.json").read_text()) == table
    by_random, by_lanas = (np.array(row["best"]["24"]) for row in table)
    difference = 100 * (by_random - by_lanas).mean()
    printed = capsys.readouterr().out.replace("\N{NO-BREAK SPACE}", " ")
    assert f"best value, random over lanas, paired by seed: {difference:.2f} % (" in printed
