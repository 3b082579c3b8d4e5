"""Several runs on one page; no network is trained here."""

import numpy as np

from lanas_jax.cli import main
from lanas_jax.evaluators.base import Outcome
from lanas_jax.report import curves
from lanas_jax.report.several import RunData, render_runs
from lanas_jax.spaces.base import Choice, SearchSpace
from lanas_jax.storage.trials import TrialStore
from tests.refusals import refused
from tests.report import made_up_run
from tests.report.page_parser import Page
from tests.report.test_report_run import begin


def test_a_band_against_trials_ends_with_the_shortest_run():
    band = curves.band_by_trial([np.array([np.nan, 1, 2]), np.array([0.0, 0, 3, 5])])
    np.testing.assert_array_equal(band, [[2, 3], [0.5, 2.5], [0, 2], [1, 3]])
    assert not len(curves.band_by_trial([np.zeros(0), np.zeros(3)]).x)


def test_a_band_against_time_has_the_values_that_all_runs_have():
    one, other = (np.array([1.0, 3.0]), np.array([1.0, 2.0])), (np.array([2.0, 4.0]), np.array([0.0, 5.0]))
    np.testing.assert_array_equal(curves.band_by_time([one, other]), [[2, 3], [0.5, 1], [0, 0], [1, 2]])
    assert not len(curves.band_by_time([one, (np.zeros(0), np.zeros(0))]).x)


def made_up(place, searcher, seed, **fields):
    trials = made_up_run.trials(12, seed)
    return RunData(
        **{
            "place": place,
            "name": "made up",
            "searcher": searcher,
            "seed": seed,
            "budget": 12,
            "trials": trials,
            "space": made_up_run.SPACE,
            "settings": {"searcher": searcher, "seed": str(seed), "epochs": "2"},
        }
        | fields
    )


RUNS = [made_up("a", "lanas", 0), made_up("b", "lanas", 1), made_up("c", "<i>mine</i>", 2)]


def test_runs_are_grouped_by_searcher():
    text = render_runs(RUNS)
    page = Page(text)
    assert "<i>" not in text
    assert len(page.ids) == len(set(page.ids))
    assert page.classes.count("plot") == 2
    assert "made up: 3 runs" in page.words
    best = [max(t.value for t in run.trials if t.value is not None) for run in RUNS]
    rows = {row[0]: row[1:] for row in page.rows}
    low, high = sorted(best[:2])
    assert rows["lanas"][:2] == ["2", f"{100 * (low + high) / 2:.2f}\xa0%"]
    assert rows["lanas"][2] == f"{100 * low:.2f}\xa0% to {100 * high:.2f}\xa0%"
    assert rows["a"][:3] == ["lanas", "0", f"{100 * best[0]:.2f}\xa0%"]
    assert rows["<i>mine</i>"][0] == "1"
    assert "epochs" not in page.words  # equal in all runs
    assert [row for row in page.rows if row[0] == "searcher"][-1] == ["searcher", "lanas", "lanas", "<i>mine</i>"]
    places = [page.words.index(f"{run.place}: {100 * value:.2f}") for run, value in zip(RUNS, best, strict=True)]
    assert np.argsort(places).tolist() == np.argsort(best)[::-1].tolist()  # winners from best to worst


def test_runs_with_the_same_objectives_are_compared_by_hypervolume():
    """The box reaches from (0.46, 5400) to (0.9, 1000)."""
    names = ("accuracy", "parameters")
    one = [made_up_run.trial(0, reason="lost"), made_up_run.trial(1, 0.9, parameters=5000)]
    other = [made_up_run.trial(0, 0.5, parameters=1000), *one[1:]]
    runs = [made_up(f"r{i}", f"s{i}", i, trials=given, objectives=names) for i, given in enumerate((one, other, []))]
    page = Page(render_runs(runs))
    assert "Hypervolume so far" in page.words
    rows = {row[0]: row[1:] for row in page.rows}
    width, height = 0.4 + 0.04, 4000 + 400  # of the front, and a tenth of it
    first, both = 400 / height, (0.44 * 400 + 0.04 * 4000) / (width * height)
    assert rows["s0"][1] == f"{100 * first:.2f}\xa0%"
    assert rows["s1"][1] == f"{100 * both:.2f}\xa0%"
    assert "value of the knee" in page.words
    page = Page(render_runs([runs[0], made_up("r2", "s2", 2)]))
    assert "The runs have different objectives, so only the values of their trials are compared." in page.words
    assert "Best value so far" in page.words


def test_what_else_differs_is_said():
    other = made_up("b", "lanas", 0, name="other", budget=20, trials=[])
    page = Page(render_runs([RUNS[0], other]))
    assert "The runs are of different experiments, so their values may not be comparable." in page.words
    assert "The budget is not used up by b." in page.words
    assert {row[0] for row in page.rows} > {"made up, lanas", "other, lanas"}
    space = SearchSpace([Choice(f"op{i}", "abcde") for i in range(6)])
    page = Page(render_runs([RUNS[0], made_up("b", "lanas", 0, space=space)]))
    assert "The runs search different spaces." in page.words
    assert "lanas: 2 runs have 1 seed." in page.words


def test_the_command_reads_runs_with_and_without_an_experiment(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in (("one", 0.25), ("two", 0.75)):
        (tmp_path / name).mkdir()
        here, _ = begin(tmp_path / name, searcher="random", seed=len(name))
        with TrialStore.open(here.trials) as store:
            store.add_pending(0, [(0, 0, 0, 1)], ["00"], {"jax": "0"})
            store.finish([0], [Outcome(value, None, 10, 5, 0.25, 0.5)], {}, 0.0)
    here.source.unlink()  # as of a run from Python
    assert main(["report", "one/run", "two/run", "two/run"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'runs.html'}\n"
    page = Page((tmp_path / "runs.html").read_text())
    assert [row[:4] for row in page.rows if row[0].endswith("/run")] == [
        ["one/run", "random", "3", "25.00\xa0%"],
        ["two/run", "random", "3", "75.00\xa0%"],
    ]
    assert "small: 2 runs" in page.words
    assert "--out is the file of a report of several runs" in refused(capsys, "report", "one/run", "--out", "x.html")
