"""The comparison of a search for a front with searches under limits; nothing is trained here."""

import json
from pathlib import Path

import numpy as np
import pytest

from lanas_jax.experiments import fronts
from lanas_jax.storage.trials import TrialStore
from lanas_jax.tables import catalogue
from tests import front_experiment

SOURCE = Path(front_experiment.__file__)


def compare(out):
    fronts.main([str(SOURCE), "--out", str(out), "--seeds", "2", "--budget", "4", "--scale", "0.5"])


def trials(directory):
    with TrialStore.open(directory / "trials.sqlite", read_only=True) as store:
        return store.trials()


@pytest.mark.slow
def test_both_kinds_have_the_same_number_of_trials_and_are_judged_within_the_limits(tmp_path, capsys):
    compare(tmp_path)
    found = json.loads((tmp_path / "fronts.json").read_text())
    limits = [row["limit"] for row in found["limits"]]
    assert limits == sorted(limits)
    for seed in range(2):
        front = trials(tmp_path / f"front-{seed}")
        limited = [trials(tmp_path / f"limit-{limit}-{seed}") for limit in limits]
        assert len(front) == sum(map(len, limited)) == 20
        assert max(trial.value for trial in front) <= 0.5  # the setting of the experiment
        for row, search in zip(found["limits"], limited, strict=True):
            assert all(trial.multiply_adds <= row["limit"] for trial in search)
            within = [trial.value for trial in front if trial.multiply_adds <= row["limit"]]
            assert row["front"][seed] == pytest.approx(max(within, default=np.nan), nan_ok=True)
            assert row["limited"][seed] == max(trial.value for trial in search) <= row["all_limited"][seed]
    shares = found["front"] + found["limited"]
    assert 0 <= min(shares) < max(shares) <= 1
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/trials.sqlite")}
    printed = capsys.readouterr().out.splitlines()[-3:]
    compare(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/trials.sqlite")} == before
    assert capsys.readouterr().out.splitlines()[-3:] == printed


@pytest.mark.slow
def test_searches_on_a_table_find_its_networks(tmp_path, monkeypatch):
    monkeypatch.setattr(fronts, "QUANTILES", (0.5,))
    fronts.main(["convnet-digits", "--out", str(tmp_path), "--seeds", "2", "--budget", "20"])
    found = json.loads((tmp_path / "fronts.json").read_text())
    (row,) = found["limits"]
    benchmark = catalogue.find_benchmark("convnet-digits")
    below = benchmark.space.cost(benchmark.codes).multiply_adds <= row["limit"]
    assert 0.5 <= below.mean() < 0.51
    assert max(row["front"] + row["limited"]) <= benchmark.table().values[below].max()
    assert all(0 < share <= 1 for share in found["front"] + found["limited"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fcnet-protein"], "multiply_adds"),
        (["digits", "--seeds", "0"], "--seeds must be at least 1; got 0"),
        (["convnet-digits", "--epochs", "1"], "a table has no settings, but got --epochs 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=message):
        fronts.main([*arguments, "--out", str(tmp_path)])


def test_an_experiment_without_the_settings_is_refused(tmp_path):
    source = tmp_path / "plain.py"
    source.write_text("import dataclasses\n@dataclasses.dataclass\nclass Config:\n    seed: int = 0\nbuild = print\n")
    with pytest.raises(SystemExit, match="has no setting budget; choose an experiment that has, such as digits"):
        fronts.main([str(source), "--out", str(tmp_path / "out")])
