"""`lanas rank` as a whole, on an experiment whose evaluators are quick."""

import contextlib
import csv
import dataclasses
import functools
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

import lanas_jax as lx
from lanas_jax.cli import main
from lanas_jax.evaluators.base import Evaluator, Prepared
from lanas_jax.ranking import Ranking, against, rank, result
from lanas_jax.ranking.correlation import rank_correlation
from lanas_jax.storage import trials
from lanas_jax.tables.benchmark import Benchmark
from tests import quick_experiment
from tests.ranking.tiny_experiment import CHOICES, Rank, Reverse, Supernet, number
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


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The table of all networks whose first digit is not 3; the mean of two repeats is 0.01 more than the number."""
    space = lx.SearchSpace(CHOICES)
    codes = space.enumerate()[:192]
    values = np.array([[number(code), number(code) + 0.02] for code in codes])
    path = tmp_path_factory.mktemp("tables") / "digits.npz"
    Benchmark("all digits", space, codes, values, 1 - values).save(path)
    return path


@pytest.fixture(scope="module")
def compared(ranked, digits):
    """A ranked run, compared with the table twice; not to be written to."""
    run = shutil.copytree(ranked, ranked.parent / "compared")
    (run / "trained.txt").unlink()
    printed = (ranked.parent / "compared.txt").open("w")
    with printed, contextlib.redirect_stdout(printed), pytest.MonkeyPatch.context() as patch:
        patch.setattr(against, "rank_correlation", functools.partial(rank_correlation, resamples=100))  # in less time
        assert main(["rank", str(run), "--against", str(digits), "--networks", "24"]) == 0
        assert main(["rank", str(run), "--against", str(digits), "--ranked"]) == 0
    return run


def rows(run, ranking="ranking"):
    with (run / ranking / "ranking.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def record(run, ranking="ranking"):
    return json.loads((run / ranking / "ranking.json").read_text())


def trained(run):
    """How often each code was trained."""
    return Counter((run / "trained.txt").read_text().split())


def undated(run):
    return {name: value for name, value in record(run).items() if name != "finished"}


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("order", [rank.spread, np.arange], ids=["same order", "another order"])
def test_once_more_nothing_is_trained_again(ranked, tmp_path, monkeypatch, order):
    monkeypatch.setattr(rank, "spread", order)
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
def test_a_killed_ranking_continues_and_trains_no_network_twice(run, ranked):
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


@pytest.mark.slow
def test_what_a_killed_ranking_has_trained_is_compared_with_a_table(run, ranked, digits, monkeypatch):
    """And what it has at the end, again."""
    monkeypatch.setattr(against, "rank_correlation", functools.partial(rank_correlation, resamples=100))
    whole = {row["code"]: row for row in rows(ranked)}
    for kill, code, kept in (("6", -signal.SIGKILL, 4), ("", 0, 8)):
        assert start(run, kill=kill).returncode == code
        assert main(["rank", str(run), "--against", str(digits), "--ranked"]) == 0
        found = rows(run, "against/digits.npz-ranked")
        assert len(found) == record(run, "against/digits.npz-ranked")["networks"] == kept
        for row in found:
            expected = whole[row["code"]]
            assert row["trained from scratch"] == expected["truth"]
            assert all(row[name] == expected[name] for name in ("one-shot", "the reverse"))
    assert rows(run) == rows(ranked)


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
def test_a_failing_evaluator_stops_a_ranking_and_the_traceback_is_recorded(run, capsys, part, message, kept):
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


@pytest.mark.slow
def test_without_a_ranking_the_evaluator_of_the_search_is_compared_and_never_twice(tmp_path, capsys):
    run, table, space = tmp_path / "run", tmp_path / "quick.npz", quick_experiment.SPACE
    assert main(["search", str(ROOT / "tests" / "quick_experiment.py"), "--out", str(run), "--budget", "4"]) == 0
    values = np.linspace(0, 1, 8)[:, None]
    Benchmark("quick", space, space.enumerate()[::18], values, values).save(table)
    found = []
    for _ in range(2):
        assert main(["rank", str(run), "--against", str(table)]) == 0
        with trials.TrialStore.open(run / "against/quick.npz/estimate-0/trials.sqlite", read_only=True) as store:
            valued = store.trials()
        found.append((valued, rows(run, "against/quick.npz")))
        (run / "against" / "quick.npz" / "ranking.csv").unlink()
    assert found[0] == found[1]
    valued, written = found[0]
    assert len(valued) == len(written) == 8
    assert [float(row["evaluator of the search"]) for row in written] == [trial.value for trial in valued]
    np.testing.assert_allclose([float(row["truth"]) for row in written], values[:, 0], atol=1e-6)
    assert list(record(run, "against/quick.npz")["correlations"]) == ["evaluator of the search"]
    with pytest.raises(SystemExit, match="0"):
        main(["rank", str(run), "--against", str(table), "--help"])
    assert "1,000" in capsys.readouterr().out


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


CONTROLS = ["parameters (control)", "multiply-adds (control)"]


def test_a_sample_of_a_table_is_valued_by_the_estimates_and_nothing_is_trained(compared):
    found, said = rows(compared, "against/digits.npz"), record(compared, "against/digits.npz")
    assert list(found[0]) == ["code", "one-shot", "the reverse", *CONTROLS, "truth", "seconds"]
    noisy = Supernet(Rank(), compared / "supernet.txt")
    for place, row in enumerate(found):
        code = np.array([int(word) for word in row["code"].split(",")], np.int32)
        assert int(number(code) * 256) // 8 == place  # one of each 24th of the 192 networks
        assert float(row["truth"]) == pytest.approx(number(code) + 0.01, abs=1e-6)
        assert float(row["one-shot"]) == noisy.evaluate(code[None], None)[0].value
        assert [float(row[name]) for name in CONTROLS] == [number(code) * 256, code.sum()]
        assert row["seconds"] == ""
    assert len(found) == 24
    truth = [float(row["truth"]) for row in found]
    for name, correlations in said["correlations"].items():
        column = [float(row[name]) for row in found]
        assert correlations["spearman"]["value"] == pytest.approx(stats.spearmanr(column, truth).statistic)
        assert correlations["kendall"]["value"] == pytest.approx(stats.kendalltau(column, truth).statistic)
        assert (correlations["networks"], correlations["missing"]) == (24, 0)
    assert said["correlations"]["the reverse"]["spearman"]["value"] == pytest.approx(-1)
    assert said["correlations"][CONTROLS[0]]["spearman"] == pytest.approx({"value": 1, "low": 1, "high": 1})
    assert (
        0
        < said["correlations"][CONTROLS[1]]["spearman"]["low"]
        < said["correlations"][CONTROLS[1]]["spearman"]["high"]
        < 1
    )
    assert (said["benchmark"], said["pool"], said["networks"], said["seed"]) == ("all digits", 192, 24, 0)
    assert not (compared / "trained.txt").exists()


def test_a_finished_ranking_is_compared_with_a_table(compared):
    """Networks of first digit 3 are not in the table; there the trainings give the order of the table."""
    found, said = rows(compared, "against/digits.npz-ranked"), record(compared, "against/digits.npz-ranked")
    before = rows(compared)
    assert [row["code"] for row in found] == [row["code"] for row in before]
    for row, earlier in zip(found, before, strict=True):
        assert (row["one-shot"], row["the reverse"]) == (earlier["one-shot"], earlier["the reverse"])
        assert row["trained from scratch"] == earlier["truth"]
        assert (row["truth"] == "") == row["code"].startswith("3")
    assert list(said["correlations"]) == ["one-shot", "the reverse", "trained from scratch", *CONTROLS]
    assert said["correlations"]["trained from scratch"]["kendall"]["value"] == pytest.approx(1)


def test_report_and_terminal_show_the_comparison_with_the_table(compared):
    page = Page((compared / "report.html").read_text(encoding="utf-8"))
    assert page.words.count("Ranking against all digits") == 2
    assert page.words.count("Does the supernet rank?") == 1
    assert "24 architectures out of 192 are compared by their values in all digits." in page.words
    assert {"ranking0-figure_1", "against0-3-figure_1", "against1-4-figure_1"} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    printed = (compared.parent / "compared.txt").read_text()
    for found in result.read_against(compared):
        for name, correlation in found.correlations.items():
            cells = [name, correlation.spearman.text, correlation.kendall.text, str(correlation.networks)]
            assert [*cells, str(correlation.missing)] in page.rows
            assert all(cell in printed for cell in cells)


def test_another_sample_of_the_same_table_is_refused(compared, digits, capsys):
    message = refused(capsys, "rank", compared, "--against", digits, "--networks", "25")
    assert "holds a ranking with other settings: networks 24, now 25" in message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("--networks", "193"), "all digits has 192 networks that are valid in the run's space, but 193 are needed"),
        (("--networks", "2"), "networks must be at least 3; got 2"),
        (("--seed", "-1"), "seed must be 0 to 2**32 - 1; got -1"),
        (("--pool", "64"), "--pool has no effect with --against"),
        (("--batch", "4"), "--batch has no effect with --against"),
        (("--ranked",), "has no ranking with 3 trained networks: omit --ranked"),
        (
            ("--ranked", "--networks", "8"),
            "--ranked compares all networks that the ranking has trained: omit --networks",
        ),
        (("--against", "nasbench"), "'nasbench' is neither a benchmark nor the path of an .npz file; choose from nasb"),
        (("--against", "nowhere.npz"), "nowhere.npz"),
        (
            ("--against", "natsbench-size-cifar10"),
            "is a table of another space: the table has NATSBenchSizeSpace of 5 choices and 32,768 codes, the run has "
            "CostedSpace of 4 choices and 256 codes",
        ),
    ],
)
def test_what_cannot_be_compared_with_a_table_is_refused(run, digits, capsys, settings, message):
    assert message in refused(capsys, "rank", run, "--against", digits, *settings)
    assert not (run / "supernet.txt").exists()
    assert not (run / "against").exists()


def test_ranked_needs_a_table(ranked, capsys):
    assert "--ranked needs --against TABLE" in refused(capsys, "rank", ranked, "--ranked")
