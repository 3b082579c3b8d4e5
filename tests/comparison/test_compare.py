"""Comparisons on a small table: what is counted, what is written, and how peers are run."""

import csv
import dataclasses
import io
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

import lanas_jax as lx
from lanas_jax.cli import main
from lanas_jax.commands import compare as command
from lanas_jax.comparison import compare as comparison
from lanas_jax.comparison import output, peers, statistics
from lanas_jax.comparison.compare import compare_searchers
from lanas_jax.runtime import live_display
from lanas_jax.runtime.console import terminal
from lanas_jax.tables.benchmark import Benchmark
from tests.comparison.small_table import CODES, SPACE, VALUES


def test_each_searcher_gets_the_same_budget_of_distinct_architectures(table):
    results = compare_searchers(table, ["evolution", "random"], budget=20, seeds=6)
    assert [result.name for result in results] == ["evolution", "random"]
    for result in results:
        assert result.values.shape == (6, 20)
        np.testing.assert_allclose(table.lookup(result.winners), result.values.max(axis=1))
        assert result.regrets == {}  # the first is taken at 50
    assert results[1].expected == 24


def test_64_bit_mode_changes_no_simulation(table):
    traces = []
    for wide in (False, True):
        with jax.enable_x64(wide):
            small = lx.Table(SPACE, CODES, VALUES)
            traces.append(lx.simulate(lx.RandomSearch(SPACE), small, 10, 5))
    for narrow, wide in zip(*traces, strict=True):
        assert wide.dtype == narrow.dtype
        np.testing.assert_array_equal(wide, narrow)


def test_seconds_are_of_one_core_and_without_compilation(table, monkeypatch):
    """A clock that moves by 12 s, of which 4 s are compilation: 8 s of 3 cores for 5 searches of 10 samples."""
    now = [100.0]
    monkeypatch.setattr(comparison.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(comparison, "cores", lambda: 3)
    trace = lx.simulate(lx.RandomSearch(SPACE), table, 10, 5)

    def simulation():
        jax.monitoring.record_event_duration_secs("/jax/core/compile/backend_compile_duration", 4.0)
        jax.monitoring.record_event_duration_secs("/jax/core/compile/jaxpr_trace_duration", 1.0)
        now[0] += 12
        return trace

    assert comparison._by_program(simulation).seconds == pytest.approx(8 * 3 / 50)


def test_a_budget_beyond_the_table_ends_with_it(table):
    (result,) = compare_searchers(table, ["random"], budget=400, seeds=3)
    assert result.values.shape == (3, 48)
    np.testing.assert_array_equal(np.sort(result.values, axis=1), np.sort(VALUES)[None].repeat(3, axis=0))


def test_progress_counts_the_searches_of_each_searcher_and_changes_no_sample(table):
    calls = []
    (result,) = compare_searchers(table, ["random"], budget=5, seeds=3, progress=lambda *call: calls.append(call))
    assert calls[0] == ("random", None, 0)
    assert sorted(calls)[-1] == ("random", None, 3)
    trace = lx.simulate(lx.RandomSearch(SPACE), table, budget=5, seeds=3)
    np.testing.assert_array_equal(result.values, trace.values)


def test_unknown_searchers_are_refused_before_anything_runs(table):
    with pytest.raises(ValueError, match=r"no searcher 'lanax'; choose from lanas, paper"):
        compare_searchers(table, ["random", "lanax"], budget=5, seeds=2)
    with pytest.raises(ValueError, match="the searcher random is given twice; give each once"):
        compare_searchers(table, ["random", "lanas", "random"], budget=5, seeds=2)


def test_answers_count_what_is_new_and_stop_at_the_budget(table):
    answers = peers.Answers.of(table, 3)
    worst = CODES[VALUES.argsort()[:3]].tolist()
    for code in (worst[0], worst[0], worst[1]):
        assert answers.value(code) == pytest.approx(float(table.lookup(np.array([code]))[0]))
    assert (len(answers.values), answers.over) == (2, False)
    answers.value(worst[2])
    assert answers.over
    assert table.lookup(np.array([answers.winner]))[0] == np.sort(VALUES)[2]
    np.testing.assert_array_equal(answers.padded(), np.sort(VALUES)[:3])


def test_answers_stop_at_the_optimum_which_then_stands(table):
    answers = peers.Answers.of(table, 5)
    answers.value(CODES[0].tolist())
    answers.value(CODES[VALUES.argmax()].tolist())
    assert answers.over
    np.testing.assert_array_equal(answers.padded(), [VALUES[0], *[VALUES.max()] * 4])


def test_answers_give_up_on_a_searcher_that_repeats_itself(table):
    answers = peers.Answers.of(table, 2)
    for _ in range(2 * peers.PROPOSALS):
        assert not answers.over
        answers.value(CODES[0].tolist())
    assert answers.over
    np.testing.assert_array_equal(answers.padded(), [VALUES[0], np.nan])


def test_answers_take_equivalent_codes_for_one():
    space = lx.NASBench101Space()
    chain = np.zeros((2, 26), np.int32)
    for row, last in enumerate((1, 2)):  # in -> vertex `last` -> out, operation 1
        adjacency = np.zeros((7, 7), int)
        adjacency[0, last] = adjacency[last, 6] = 1
        chain[row, :21] = adjacency[np.triu_indices(7, 1)]
        chain[row, 20 + last] = 1
    table = lx.Table(space, chain[:1], np.float32([0.5]))
    answers = peers.Answers.of(table, 4)
    assert [answers.value(code.tolist()) for code in chain] == [0.5, 0.5]
    assert len(answers.values) == 1
    assert answers.value([0] * 26) is None  # no path from input to output
    assert len(answers.values) == 1


@pytest.mark.slow
def test_tpe_proposes_codes_of_a_table_that_is_a_sample():
    pytest.importorskip("optuna", reason="the extra peers is not installed")
    space = lx.SearchSpace([lx.Choice(f"c{i}", range(4)) for i in range(12)])  # 2e7 codes
    codes = np.unique(np.random.default_rng(0).integers(0, 4, (300, 12)), axis=0)
    table = lx.Table(space, codes, codes.sum(axis=1) / 36)
    tpe, random = compare_searchers(table, ["tpe", "random"], budget=60, seeds=10)
    assert np.isin(tpe.values, np.asarray(table.values)).all()  # without NaN: every proposal counts
    # The best of 60 uniform draws misses the optimum of 300 in 80 % of the searches.
    assert tpe.values.max(axis=1).mean() > random.values.max(axis=1).mean()


def test_smac_is_refused_where_a_table_is_a_sample(table, monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: object())
    part = lx.Table(SPACE, CODES[::2], VALUES[::2])
    assert (peers.lacks_codes(table), peers.lacks_codes(part)) == (False, True)
    with pytest.raises(ValueError, match="smac proposes codes of the whole space, but the table has only 24 of 48"):
        compare_searchers(part, ["random", "smac"], budget=5, seeds=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", peers.NAMES)
def test_peers_find_the_optimum_among_values_of_the_table(table, name):
    pytest.importorskip({"tpe": "optuna", "smac": "smac"}[name], reason="the extra peers is not installed")
    (result,) = compare_searchers(table, [name], budget=40, seeds=4)
    assert result.values.shape == (4, 40)
    for values in result.values:
        tried = values[: int(np.argmax(values == VALUES.max())) + 1] if VALUES.max() in values else values
        assert np.isin(tried[~np.isnan(tried)], VALUES).all()
    # Uniform draws of 40 out of 48 miss the optimum in one search of six; four misses have probability 1e-3.
    assert (result.values == VALUES.max()).any()


def test_the_command_prints_and_writes_what_it_found(tmp_path, capsys):
    bench = Benchmark("small [/$x_{]", SPACE, CODES, VALUES[:, None], 1 - VALUES[:, None], "made up")
    bench.save(tmp_path / "small.npz")
    settings = command.CompareArguments(str(tmp_path / "small.npz"), ("random", "local"), 4, 60, 1, 0, tmp_path / "out")
    command.run_comparison(terminal(), settings)
    said = capsys.readouterr().out
    assert "small [/$x_{]: 48 networks. made up" in said
    assert "budget 60 exceeds the table: every search tries all 48 networks" in said
    assert "Random search needs 24 samples to the optimum (exact median)" in said
    assert said.splitlines()[-1].startswith(
        "samples to the best network, median: random search 24 (exact), local search "
    )
    with (tmp_path / "out" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["searcher"], row["seeds"], row["budget"]) for row in rows] == [
        ("random", "4", "48"),
        ("local", "4", "48"),
    ]
    assert float(rows[0]["test_of_best"]) == pytest.approx(1 - VALUES.max(), abs=1e-6)
    with np.load(tmp_path / "out" / "traces.npz") as traces:
        assert traces["local"].shape == (4, 48)
        assert float(rows[1]["optimum_median"]) == np.median((traces["local"] == VALUES.max()).argmax(axis=1) + 1)
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("every", "lines"), [(0, 2), (60, 0)])
def test_where_the_output_is_no_terminal_lines_tell_the_progress(tmp_path, monkeypatch, capsys, every, lines):
    Benchmark("small", SPACE, CODES, VALUES[:, None], VALUES[:, None], "made up").save(tmp_path / "small.npz")
    monkeypatch.setattr(live_display, "PLAIN_SECONDS", every)
    arguments = ["compare", str(tmp_path / "small.npz"), "--searchers", "random", "--seeds", "8", "--budget", "3"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    said = [line.split(", ")[0] for line in capsys.readouterr().out.splitlines() if " of 8 searches, " in line]
    assert said == [f"random search: {finished} of 8 searches" for finished in (4, 8)][:lines]  # four devices


def test_the_command_searches_within_hard_limits(tmp_path, capsys):
    speeds = np.arange(48, dtype=np.float32)
    bench = Benchmark("small", SPACE, CODES, VALUES[:, None], VALUES[:, None], "made up", {"chip": speeds})
    bench.save(tmp_path / "small.npz")
    arguments = ["compare", str(tmp_path / "small.npz"), "--searchers", "random", "--seeds", "4", "--budget", "3"]
    arguments += ["--min-throughput", "chip=45", "--top", "50", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "small, at least 45 images/s on chip: 3 networks. made up" in said
    assert "top 50 %" in said
    with np.load(tmp_path / "out" / "traces.npz") as traces:
        np.testing.assert_array_equal(np.sort(traces["random"], axis=1), np.sort(VALUES[45:])[None].repeat(4, axis=0))


@pytest.mark.slow
def test_no_comparison_overwrites_another(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Benchmark("small", SPACE, CODES, VALUES[:, None], VALUES[:, None], "made up").save(tmp_path / "small.npz")
    compare = ["compare", "small.npz", "--searchers", "random", "--seeds", "2", "--budget", "3"]
    for words in ([], [], ["--objectives", "accuracy,test_accuracy"], ["--out", "mine"]):
        assert main([*compare, *words]) == 0
    results = [str(path) for path in sorted(Path().rglob("comparison.csv"))]
    folders = (
        "comparisons/small.npz",
        "comparisons/small.npz-2",
        "comparisons/small.npz-accuracy-test_accuracy",
        "mine",
    )
    assert results == [f"{folder}/comparison.csv" for folder in folders]
    before = [Path(result).read_bytes() for result in results]
    capsys.readouterr()
    assert main([*compare, "--out", "mine"]) == 2
    assert capsys.readouterr().err == "lanas compare: mine already contains a comparison; choose another folder\n"
    assert [Path(result).read_bytes() for result in results] == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mnasnet-imagenet", "--max-multiply-adds", "50"], "50 M multiply-adds: they have 84.1 to 719.0"),
        (["mnasnet-imagenet", "--max-multiply-adds", "nan"], "a positive number of M multiply-adds; got nan"),
        (["mnasnet-imagenet", "--min-throughput", "tpuv3"], "must be such as tpuv3=1500,a100=8000; got 'tpuv3'"),
        (["mnasnet-imagenet", "--min-throughput", "tpuv5=9"], "no throughput of 'tpuv5'; it has tpuv2, tpuv3, a100"),
        (["natsbench-size-cifar10", "--min-throughput", "tpuv3=9"], "it has no device at all"),
        (["mnasnet-imagenet", "--top", "0"], "top must be a percentage above 0 and at most 100; got 0"),
    ],
)
def test_limits_are_checked_before_any_search(monkeypatch, tmp_path, capsys, arguments, message):
    monkeypatch.delenv("LANAS_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_samples_beyond_the_budget_are_shown_as_such():
    assert output.samples(statistics.Quartiles(12, 40.5, np.inf), 50) == "40.5 (12->50)"
    assert output.samples(statistics.Quartiles(np.inf, np.inf, np.inf), 50) == ">50"


def test_a_table_fits_a_narrow_terminal_and_the_medians_one_line():
    values = np.full((6, 300), VALUES.max() - 0.01, np.float32)
    values[:, 175:] = VALUES.max()
    values[:3, 176:] = 0.2
    traces = comparison.Traces(values, np.zeros((6, 3), np.int32), 1e-3)
    results = [comparison.judge(name, traces, VALUES) for name in ("lanas", "evolution", "random")]
    console = Console(width=80, file=io.StringIO())
    console.print(output.table(results, [0.9] * 3, narrow=True))
    text = console.file.getvalue()
    assert "…" not in text
    assert "regret at" in text
    assert "ms per" not in text
    expected = "median: LaNAS 176, regularized evolution 176, random search 24 (exact)"
    assert output.medians(results).endswith(expected)


def test_losses_are_shown_as_losses():
    """Of two searches of two samples; the least loss of the table is 1e-5."""
    traces = comparison.Traces(np.array([[-2, -3e-5], [-4, -5e-5]], np.float32), np.zeros((2, 3), np.int32), 1e-3)
    result = comparison.judge("lanas", traces, np.array([-1e-5, -4], np.float32))
    result = dataclasses.replace(result, regrets={2: statistics.Interval(3e-5, 2e-5, 4e-5)})
    console = Console(file=io.StringIO(), width=200)
    console.print(output.table([result], [-4e-5]))
    shown = console.file.getvalue()
    for text in ("winner's loss", "4e-05", "3e-05 (2e-05-4e-05)", "Regret is in units of the loss."):
        assert text in shown


def test_a_missing_peer_names_the_extra(monkeypatch, table):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(peers.MissingPeerError, match=r"tpe needs optuna.*lanas-jax\[peers\]"):
        compare_searchers(table, ["tpe"], budget=5, seeds=2)
