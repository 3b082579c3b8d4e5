"""`lanas rank` as a whole, on an experiment whose evaluators are quick."""

import contextlib
import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lanas_jax.cli import main
from lanas_jax.evaluators.base import Evaluator, Prepared
from lanas_jax.ranking import Ranking, result
from lanas_jax.storage import trials
from tests.ranking.tiny_experiment import Rank, Reverse, Supernet, number
from tests.refusals import refused
from tests.report.page_parser import Page

ROOT = Path(__file__).parents[2]
EXPERIMENT = ROOT / "tests" / "ranking" / "tiny_experiment.py"
SETTINGS = ("--networks", "8", "--fail-from", "3", "--batch", "2")


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A finished search without a ranking; not to be written to."""
    run = tmp_path_factory.mktemp("searched") / "back\\slash" / "run"
    assert main(["search", str(EXPERIMENT), "--out", str(run)]) == 0
    return run


@pytest.fixture(scope="module")
def ranked(searched):
    """The same with a ranking; not to be written to."""
    run = shutil.copytree(searched, searched.parent / "ranked")
    with (searched.parent / "printed.txt").open("w") as printed, contextlib.redirect_stdout(printed):
        assert main(["rank", str(run), *SETTINGS]) == 0
    return run


@pytest.fixture
def run(searched, tmp_path):
    """A copy of the search, to be ranked."""
    return shutil.copytree(searched, tmp_path / "run")


def rows(run):
    with (run / "ranking" / "ranking.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def record(run):
    return json.loads((run / "ranking" / "ranking.json").read_text())


def trained(run):
    """How often each code was trained."""
    return Counter((run / "trained.txt").read_text().split())


def undated(run):
    return {name: value for name, value in record(run).items() if name != "finished"}


def test_a_row_per_network_with_what_each_evaluator_said(ranked):
    found = rows(ranked)
    assert list(found[0]) == ["code", "one-shot", "the reverse", "truth", "seconds"]
    assert len({row["code"] for row in found}) == len(found) == 8
    noisy = Supernet(Rank(), ranked / "supernet.txt")
    for row in found:
        code = np.array([int(word) for word in row["code"].split(",")], np.int32)
        assert float(row["one-shot"]) == noisy.evaluate(code[None], None)[0].value
        assert float(row["the reverse"]) == 1 - number(code) ** 2
        assert row["truth"] == ("" if code[0] == 3 else repr(number(code)))
        assert float(row["seconds"]) == (0.0 if code[0] == 3 else 0.75)
    estimates = [float(row["one-shot"]) for row in found]
    assert estimates == sorted(estimates)
    assert 0 < sum(row["truth"] == "" for row in found) < 6


def test_the_sample_covers_the_range_of_the_estimate(ranked):
    """Of a pool of 64, one of each eighth."""
    with trials.TrialStore.open(ranked / "ranking" / "pool" / "trials.sqlite", read_only=True) as store:
        pool = sorted(store.trials(), key=lambda trial: trial.value)
    assert len(pool) == 64
    places = {trial.code: place for place, trial in enumerate(pool)}
    taken = [places[tuple(map(int, row["code"].split(",")))] for row in rows(ranked)]
    assert [place // 8 for place in taken] == list(range(8))


def test_correlations_are_those_of_the_columns(ranked):
    found, said = rows(ranked), record(ranked)
    kept = [row for row in found if row["truth"]]
    truth = [float(row["truth"]) for row in kept]
    for name in ("one-shot", "the reverse"):
        estimate = [float(row[name]) for row in kept]
        correlations = said["correlations"][name]
        assert correlations["spearman"]["value"] == pytest.approx(stats.spearmanr(estimate, truth).statistic)
        assert correlations["kendall"]["value"] == pytest.approx(stats.kendalltau(estimate, truth).statistic)
        assert (correlations["networks"], correlations["missing"]) == (len(kept), 8 - len(kept))
    assert said["correlations"]["the reverse"]["kendall"] == pytest.approx({"value": -1, "low": -1, "high": -1})
    assert (said["networks"], said["pool"], said["batch"], said["seed"]) == (8, 64, 2, 0)
    assert said["settings"] == dataclasses.asdict(Rank(fail_from=3))
    assert said["software"]["jax"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", said["finished"])
    assert not list((ranked / "ranking").glob("*.partial"))


def test_the_report_says_it_too(ranked):
    text = (ranked / "report.html").read_text(encoding="utf-8")
    page, found = Page(text), result.read_ranking(ranked / "ranking")
    assert "Does the supernet rank?" in page.words
    assert "8 architectures out of 64" in page.words
    assert list(found.correlations) == ["one-shot", "the reverse"]
    for name, correlation in found.correlations.items():
        cells = [name, correlation.spearman.text, correlation.kendall.text]
        counts = [str(correlation.networks), str(correlation.missing)]
        assert [*cells, *counts] in page.rows
        caption = f"{name}: Spearman {cells[1]}, Kendall {cells[2]}, {counts[0]} networks, {counts[1]} failed."
        assert caption in page.words
        assert f"value by {name}" in page.words
    assert {"ranking0-figure_1", "ranking1-figure_1"} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert main(["report", str(ranked)]) == 0
    assert (ranked / "report.html").read_text(encoding="utf-8") == text


def test_a_run_without_a_ranking_has_no_such_section(searched):
    assert "supernet" not in Page((searched / "report.html").read_text(encoding="utf-8")).words


def test_it_prints_a_table(ranked):
    printed = (ranked.parent / "printed.txt").read_text()
    assert "training a supernet" in printed
    correlations = result.read_ranking(ranked / "ranking").correlations
    assert list(correlations) == ["one-shot", "the reverse"]
    for name, correlation in correlations.items():
        line = next(line for line in printed.splitlines() if line.strip().startswith(f"{name} "))
        cells = [correlation.spearman.text, correlation.kendall.text, str(correlation.networks)]
        assert re.split(r"\s{2,}", line.strip()) == [name, *cells, str(correlation.missing)]
    assert printed.splitlines()[-1] == f"report: {ranked / 'report.html'}"


def test_once_more_nothing_is_trained_again(ranked, tmp_path):
    run = shutil.copytree(ranked, tmp_path / "run")
    before = undated(run), trained(run)
    assert set(before[1].values()) == {1}
    assert main(["rank", str(run), *SETTINGS]) == 0
    assert (undated(run), trained(run)) == before
    assert (run / "supernet.txt").read_text() == "trained\n"


@pytest.mark.slow
def test_another_seed_gives_another_sample(run, ranked):
    assert main(["rank", str(run), *SETTINGS, "--seed", "1"]) == 0
    assert [row["code"] for row in rows(run)] != [row["code"] for row in rows(ranked)]


def start(run, *settings, kill=""):
    command = [sys.executable, "-c", "from lanas_jax.cli import run_and_exit; run_and_exit()"]
    environment = os.environ | {"KILL": kill, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [*command, "rank", str(run), *SETTINGS, *settings], env=environment, text=True, capture_output=True, timeout=300
    )


@pytest.mark.slow
def test_killed_it_goes_on_where_it_was_and_trains_no_network_twice(run, ranked):
    # In the first batch; then within the second batch of a process that began with the first.
    for kill, kept in (("2", 0), ("4", 2), ("1", 2)):
        assert start(run, kill=kill).returncode == -signal.SIGKILL
        assert not (run / "ranking" / "ranking.json").exists()
        with trials.TrialStore.open(run / "ranking" / "truth" / "trials.sqlite", read_only=True) as store:
            finished = [trial.code for trial in store.trials() if trial.finished is not None]
        assert len(finished) == kept
    before = trained(run)
    done = start(run)
    assert done.returncode == 0, done.stderr
    assert "continuing after 2 of 8 trials" in done.stdout
    for code in finished:
        name = ",".join(map(str, code))
        assert trained(run)[name] == before[name]
    assert (undated(run), rows(run)) == (undated(ranked), rows(ranked))
    assert (run / "supernet.txt").read_text() == "trained\n"


def test_another_ranking_in_the_same_folder_is_refused(ranked, capsys):
    message = refused(capsys, "rank", ranked, *SETTINGS, "--networks", "9", "--noise", "0.2")
    assert "holds a ranking with other settings: networks 8, now 9; pool 64, now 72; settings {" in message
    assert "move the folder away" in message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("--networks", "2"), "networks must be at least 3; got 2"),
        (("--networks", "5", "--pool", "4"), "pool must be at least 5; got 4"),
        (("--batch", "0"), "batch must be at least 1; got 0"),
        (("--seed", "-1"), "seed must be 0 to 2**32 - 1; got -1"),
        (("--networks", "300"), "the space gave 256 valid codes, but 300 networks are requested"),
        (("--broken", "rank"), "rank(...) raised ZeroDivisionError: no supernet"),
        (("--epochs", "3"), "--epochs"),
    ],
)
def test_what_cannot_be_is_refused(run, capsys, settings, message):
    assert message in refused(capsys, "rank", run, *settings)
    assert not (run / "trained.txt").exists()


@pytest.mark.parametrize(
    ("part", "message", "kept"),
    [
        ("prepare", "the preparation of one-shot failed: ZeroDivisionError: no images (experiment.py, line", 0),
        ("truth", "the evaluator raised an error for each of the last 8 trials: ZeroDivisionError: no steps", 0),
    ],
)
def test_a_broken_evaluator_stops_it_and_the_traceback_is_kept(run, capsys, part, message, kept):
    error = refused(capsys, "rank", run, "--networks", "8", "--batch", "8", "--broken", part, code=1)
    assert message in error
    assert f"{kept} trained networks are saved. To continue, repeat the command" in error
    assert "ZeroDivisionError" in (run / "ranking" / "traceback.txt").read_text()


def test_what_is_no_run_or_offers_no_ranking_is_refused(tmp_path, capsys):
    assert f"there is no folder {tmp_path / 'nowhere'}" in refused(capsys, "rank", tmp_path / "nowhere")
    assert f"{tmp_path} contains no run" in refused(capsys, "rank", tmp_path)
    quick = ROOT / "tests" / "quick_experiment.py"
    assert main(["search", str(quick), "--out", str(tmp_path / "run"), "--budget", "4"]) == 0
    message = refused(capsys, "rank", tmp_path / "run")
    assert "has no dataclass Rank and no function rank(config, settings, directory)" in message


def test_damaged_files_are_named_by_the_report(ranked, tmp_path, capsys):
    run = shutil.copytree(ranked, tmp_path / "run")
    path = run / "ranking" / "ranking.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 9'))
    assert f"{path} is not of format 1" in refused(capsys, "report", run)
    path.write_text("{")
    assert f"the ranking in {run / 'ranking'} is damaged" in refused(capsys, "report", run)
    path.unlink()
    assert main(["report", str(run)]) == 0


def test_what_is_written_is_read(ranked, tmp_path):
    found = result.read_ranking(ranked / "ranking")
    assert [",".join(map(str, code)) for code in found.codes] == [row["code"] for row in rows(ranked)]
    np.testing.assert_array_equal(found.truth, [float(row["truth"] or "nan") for row in rows(ranked)])
    said = record(ranked)["correlations"]["one-shot"]
    assert found.correlations["one-shot"].spearman._asdict() == said["spearman"]
    copied = tmp_path / "ranking"
    copied.mkdir()
    result.write_ranking(copied, found)
    for name in ("ranking.json", "ranking.csv"):
        assert (copied / name).read_bytes() == (ranked / "ranking" / name).read_bytes()


def test_what_an_experiment_may_offer():
    with pytest.raises(ValueError, match="needs at least one estimate"):
        Ranking({}, Reverse())
    with pytest.raises(ValueError, match="an estimate is named 'truth'; choose a name other than code, truth"):
        Ranking({"truth": Reverse()}, Reverse())
    supernet = Supernet(Rank(), Path("supernet.txt"))
    assert isinstance(supernet, Prepared)
    assert isinstance(supernet, Evaluator)
    assert not isinstance(Reverse(), Prepared)
