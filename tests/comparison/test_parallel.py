"""Comparisons of numbers of workers: what is run, what is refused, what is printed and written."""

import csv

import numpy as np
import pytest
from rich.console import Console

from lanas_jax.cli import main
from lanas_jax.commands import compare as command
from lanas_jax.comparison import parallel
from lanas_jax.comparison.compare import Comparison, compare_searchers
from lanas_jax.comparison.statistics import Quartiles, samples_to, times_to
from lanas_jax.tables.benchmark import Benchmark
from tests.comparison.small_table import CODES, SPACE, VALUES


def result(workers, median, top=10.0, time=5.0, name="lanas"):
    around, sooner, when = (Quartiles(n / 2, n, n * 2) for n in (median, top, time))
    values = np.zeros((2, 50), np.float32)
    return Comparison(name, values, np.zeros((2, 3), np.int32), around, sooner, None, {}, 1e-3, workers, values, when)


@pytest.mark.slow
def test_each_searcher_is_run_with_each_number_of_workers(table):
    results = compare_searchers(table, ["local"], budget=30, seeds=3, workers=[2, 1])
    assert [(r.name, r.workers) for r in results] == [("local", 2), ("local", 1)]
    batches = compare_searchers(table, ["local"], budget=30, seeds=3)[0]
    assert (batches.workers, batches.times, batches.time_to_optimum) == (None, None, None)
    np.testing.assert_array_equal(results[1].values, batches.values)
    for r in results:
        reached = times_to(r.values, r.times, table.best)
        samples = samples_to(r.values, table.best)
        for values, times, n, at in zip(r.values, r.times, samples, reached, strict=True):
            assert at == (times[int(n) - 1] if table.best in values else np.inf)
        assert r.time_to_optimum.median == np.median(reached)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"workers": [4, 0]}, "workers must be at least 1; got 0"),
        ({"workers": [-2]}, "workers must be at least 1; got -2"),
        ({"workers": [4, 2, 4]}, "the number of workers 4 is given twice"),
        ({"workers": [4], "batch": 5}, "but batch is 5: leave out batch or workers"),
        (
            {"workers": [4], "names": ["random", "tpe"]},
            "tpe runs one trial at a time, without workers: leave it out, or leave out workers",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_runs(table, wrong, message):
    with pytest.raises(ValueError, match=message):
        compare_searchers(table, **{"names": ["random"], "note": lambda done: pytest.fail("ran")} | wrong)


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        ("0", "workers must be at least 1; got 0"),
        ("8,-1", "workers must be at least 1; got -1"),
        ("many", "workers must be integers separated by commas; got 'many'"),
        ("1,,8", "workers must be integers separated by commas; got '1,,8'"),
        ("2.5", "workers must be integers separated by commas; got '2.5'"),
    ],
)
def test_the_command_line_refuses_numbers_that_are_none(tmp_path, capsys, workers, message):
    path = tmp_path / "small.npz"
    Benchmark("small", SPACE, CODES, VALUES[:, None], VALUES[:, None]).save(path)
    status = main(["compare", str(path), f"--workers={workers}", "--out", str(tmp_path / "out")])
    assert status == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_ratios_are_those_of_medians_to_one_worker_of_the_same_searcher():
    results = [result(1, 20.0), result(8, 30.0, top=25.0), result(64, np.inf), result(8, 40.0, name="local")]
    assert parallel.ratio(results, results[0]) == 1
    assert parallel.ratio(results, results[1]) == 1.5
    assert parallel.ratio(results, results[1], "to_top") == 2.5
    assert parallel.ratio(results, results[2]) == np.inf
    assert np.isnan(parallel.ratio(results, results[3]))
    assert np.isnan(parallel.ratio([result(1, np.inf), results[1]], results[1]))


def test_what_was_not_reached_is_empty_in_columns_and_shown_as_such(capsys):
    results = [result(1, 20.0), result(64, np.inf, time=np.inf)]
    assert parallel.columns(results, results[1]) == {
        "workers": "64",
        "optimum_ratio_to_one_worker": "",
        "top_ratio_to_one_worker": "1",
        "optimum_time_lower_quartile": "",
        "optimum_time_median": "",
        "optimum_time_upper_quartile": "",
    }
    Console(width=200).print(parallel.table(results, [0.9, 0.8]))
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.lstrip().startswith("LaNAS")]
    assert rows[0][:8] == ["LaNAS", "1", "20", "(10-40)", "1.00", "5", "(2.5-10)", "10"]
    assert rows[1][:5] == ["LaNAS", "64", ">50", "-", "-"]


@pytest.mark.slow
def test_the_command_prints_and_writes_a_row_per_searcher_and_number_of_workers(tmp_path, capsys):
    path, out = tmp_path / "small.npz", tmp_path / "out"
    Benchmark("small", SPACE, CODES, VALUES[:, None], 1 - VALUES[:, None]).save(path)
    settings = command.CompareArguments(str(path), ("random",), 4, 60, 1, 0, out, workers=(1, 6))
    command.run_comparison(Console(width=200), settings)
    said = capsys.readouterr().out
    assert "random search, 1 worker: " in said
    assert "random search, 6 workers: " in said
    with (out / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["searcher"], row["workers"], row["budget"]) for row in rows] == [
        ("random", "1", "48"),
        ("random", "6", "48"),
    ]
    with np.load(out / "traces.npz") as traces:
        assert sorted(traces) == ["random_1", "random_1_times", "random_6", "random_6_times"]
        medians = [np.median((traces[f"random_{n}"] == VALUES.max()).argmax(axis=1) + 1) for n in (1, 6)]
        reached = traces["random_6_times"][traces["random_6"] == VALUES.max()]
    assert float(rows[1]["optimum_median"]) == medians[1]
    assert float(rows[1]["optimum_ratio_to_one_worker"]) == pytest.approx(medians[1] / medians[0], rel=1e-5)
    assert float(rows[1]["optimum_time_median"]) == pytest.approx(np.median(reached), rel=1e-5)
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
