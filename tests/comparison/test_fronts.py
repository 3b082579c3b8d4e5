"""Comparisons on several objectives: how searches are judged, what is refused, printed and written."""

import csv
import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.commands import compare as command
from lanas_jax.comparison import fronts, peers
from lanas_jax.runtime.console import terminal
from lanas_jax.searchers.hypervolume import hypervolume
from lanas_jax.tables.benchmark import Benchmark
from lanas_jax.tables.objectives import objective_names, objective_values
from tests.comparison.small_table import CODES, SPACE, VALUES

OTHER = np.float32(1 - VALUES**2) * (1 + 0.1 * np.float32(CODES[:, 0] == 1))
OTHER = OTHER / OTHER.max()
BENCHMARK = Benchmark("small", SPACE, CODES, VALUES[:, None], OTHER[:, None], "made up")
TWO = ("accuracy", "test_accuracy")


@pytest.fixture(scope="module")
def problem():
    table = lx.Table(SPACE, CODES, objective_values(BENCHMARK, TWO))
    return fronts.FrontProblem.of(table, TWO, (0.2, 0.3))


def test_a_table_of_several_objectives_answers_with_all_of_them(problem):
    codes = jnp.concatenate([problem.table.codes[:2], jnp.full((1, SPACE.dims), -1)])
    values = problem.table.lookup(codes)
    np.testing.assert_array_equal(values[:2], np.stack([VALUES, OTHER], axis=1)[:2])
    assert np.isnan(values[2]).all()
    with pytest.raises(ValueError, match="a table of 2 objectives has a front, not one highest value"):
        _ = problem.table.best
    trace = lx.simulate(lx.RandomSearch(SPACE, objectives=2), problem.table, budget=10, seeds=2, batch=4)
    assert trace.values.shape == (2, 10, 2)
    np.testing.assert_array_equal(trace.values[1], problem.table.lookup(trace.codes[1]))


def test_a_front_of_a_single_network_has_a_reference():
    """A network that beats all others: the margin is a share of the table's range."""
    table = lx.Table(SPACE, CODES[:3], np.float32([[0.1, 0.2], [0.3, 0.4], [0.9, 0.8]]))
    problem = fronts.FrontProblem.of(table, TWO)
    np.testing.assert_allclose(problem.reference, [0.9 - 0.08, 0.8 - 0.06], rtol=1e-5)
    assert problem.largest > 0


def test_volumes_of_three_objectives_are_those_of_the_front_alone():
    """Trials that others beat, failed ones, and those below the reference do not count."""
    values = np.asarray(np.stack([VALUES, OTHER, 1 - VALUES * OTHER], axis=1), np.float32)
    problem = fronts.FrontProblem.of(lx.Table(SPACE, CODES, values), (*TWO, "parameters"))
    trials = values[np.random.default_rng(0).permutation(len(values))][None, :30]
    trials[0, 4] = np.nan
    found = problem.volumes(trials, [1, 7, 30])
    above = (np.nan_to_num(trials[0], nan=-9) - np.array(problem.reference)) / values.astype(float).std(axis=0)
    expected = [hypervolume(jnp.float32(above), jnp.arange(30) < n, jnp.zeros(3)) for n in (1, 7, 30)]
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-6)


def test_a_search_is_judged_by_shares_of_the_tables_hypervolume_and_front(problem):
    values = np.asarray(problem.table.values)
    last = np.argsort(problem.front, kind="stable")  # the front comes last
    done = fronts.judge_front("random", problem, np.stack([values[last], values[last[::-1]]]), 0.1)
    assert done.points[0] == 1
    assert done.points[-1] == len(values)
    np.testing.assert_allclose(done.shares[:, -1], 1, rtol=1e-5)
    np.testing.assert_allclose(done.found[:, -1], 1)
    assert (np.diff(done.shares, axis=1) >= -1e-6).all()
    before = done.points.index(max(n for n in done.points if n <= len(values) - problem.front.sum()))
    assert done.found[0, before] == 0
    assert done.shares[0, before] < 1
    ended = np.stack([values[last], np.full_like(values, np.nan)])
    assert fronts.judge_front("random", problem, ended, 0.1).shares[1, -1] == 0


def test_the_reference_is_a_tenth_below_the_front_unless_it_is_given(problem):
    values = np.asarray(problem.table.values)
    best, worst = values[problem.front].max(axis=0), values[problem.front].min(axis=0)
    found = fronts.FrontProblem.of(problem.table, TWO).reference
    np.testing.assert_allclose(found, worst - 0.1 * (best - worst), rtol=1e-5)
    with pytest.raises(ValueError, match="the reference is too good: no network of the table"):
        fronts.FrontProblem.of(problem.table, TWO, (2.0, 0.0))
    with pytest.raises(ValueError, match="needs a value for each of accuracy, test_accuracy; got 1"):
        fronts.FrontProblem.of(problem.table, TWO, (0.1,))


def test_objectives_of_a_benchmark_have_names_and_costs_are_negative():
    space = lx.NASBench201Space()
    codes = space.enumerate()[::5000]
    accuracy = np.full((len(codes), 1), 0.5, np.float32)
    speed = np.array([1.0, np.nan, 3.0, 4.0], np.float32)
    benchmark = dataclasses.replace(Benchmark("b", space, codes, accuracy, accuracy), throughputs={"chip": speed})
    assert objective_names(benchmark) == (*TWO, "multiply_adds", "parameters", "throughput_chip")
    found = objective_values(benchmark, ("parameters", "throughput_chip"))
    np.testing.assert_array_equal(found[:, 0], -space.cost(codes).parameters)
    np.testing.assert_array_equal(found[:, 1], speed)
    assert objective_names(BENCHMARK) == TWO
    with pytest.raises(ValueError, match="small has no objective 'colour'; choose from accuracy, test_accuracy"):
        objective_values(BENCHMARK, ("accuracy", "colour"))


def test_unknown_searchers_and_peers_on_samples_are_refused_before_anything_runs(problem, monkeypatch):
    never = {"budget": 5, "seeds": 2, "progress": lambda *call: pytest.fail("ran")}
    with pytest.raises(ValueError, match=r"no searcher 'lanas' for several objectives; choose from pareto, nsga2"):
        fronts.compare_fronts(problem, ["random", "lanas"], **never)
    with pytest.raises(ValueError, match="the searcher nsga2 is given twice"):
        fronts.compare_fronts(problem, ["nsga2", "nsga2"], **never)
    monkeypatch.setattr(peers, "require", lambda name: None)
    half = fronts.FrontProblem.of(lx.Table(SPACE, CODES[::2], problem.table.values[::2]), TWO)
    with pytest.raises(ValueError, match="the table has only 24 of 48: leave optuna-nsga2 out"):
        fronts.compare_fronts(half, ["optuna-nsga2"], **never)


def test_the_command_prints_and_writes_what_it_found(tmp_path, capsys):
    BENCHMARK.save(tmp_path / "small.npz")
    arguments = [str(tmp_path / "small.npz"), "--objectives", "accuracy,test-accuracy", "--reference", "0.2,0.3"]
    more = ["--searchers", "random", "--seeds", "3", "--budget", "48", "--out", str(tmp_path / "out")]
    assert command.compare([*arguments, *more]) == 0
    said = capsys.readouterr().out
    assert "the reference is accuracy 0.2, test_accuracy 0.3" in said
    with (tmp_path / "out" / "comparison.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["searcher"], row["seeds"], row["budget"]) == ("random", "3", "48")
    with np.load(tmp_path / "out" / "traces.npz") as traces:
        assert traces["random"].shape == (3, 48, 2)
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objectives": ("accuracy", "accuracy")}, "the objective 'accuracy' is given twice"),
        ({"objectives": TWO, "workers": (3,)}, "workers are simulated for a single objective"),
        (
            {"objectives": ("accuracy", "throughput")},
            "small has no objective 'throughput'; choose from accuracy, test_acc",
        ),
        ({"objectives": TWO, "reference": (0.1,)}, "the reference needs a value for each of accuracy, test_accuracy"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, settings, message):
    BENCHMARK.save(tmp_path / "small.npz")
    given = command.CompareArguments(str(tmp_path / "small.npz"), ("random",), 2, 5, 1, 0, tmp_path / "out")
    with pytest.raises(ValueError, match=message):
        command.run_front_comparison(terminal(), dataclasses.replace(given, **settings))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", fronts.PEERS)
def test_peers_try_distinct_codes_of_the_table(problem, name):
    pytest.importorskip("optuna", reason="the extra peers is not installed")
    values = np.asarray(problem.table.values)
    found = fronts.search_front_by_peer(name, SPACE, CODES, values, 30, seed=1)
    tried = found[~np.isnan(found[:, 0])]
    assert len(tried) > 15
    assert all((values == row).all(axis=1).any() for row in tried)
