"""The comparisons of the paper: saved searches are read, ratios of samples are right, the figure is complete."""

import math

import numpy as np
import pytest

from lanas_jax.experiments import paper_figures
from lanas_jax.formats.npz import read_npz, write_npz
from tests.experiments.schemes import checked

INFINITE = math.inf


def panel(**traces):
    arrays = {name: np.array(values, np.float32) for name, values in traces.items()}
    return paper_figures.TableSearches("a table", 0.9, 1000, 1, arrays)


@pytest.mark.parametrize(
    ("samples", "expected", "is_bound"),
    [
        ([80.0] * 5, 4.0, False),
        ([10.0] * 5, 0.5, False),
        ([INFINITE] * 5, 10.0, True),
        ([40.0, INFINITE] * 3, 10.0, True),
    ],
)
def test_ratios_of_medians(samples, expected, is_bound):
    ratio = paper_figures.ratio_of(np.array(samples), np.full(7, 20.0), 200)
    assert (ratio.ratio, ratio.is_bound) == (expected, is_bound)
    assert ratio.low <= expected <= ratio.high


def test_an_interval_of_a_ratio_covers_the_truth():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        ratio = paper_figures.ratio_of(
            rng.geometric(0.01, 40).astype(float), rng.geometric(0.05, 40).astype(float), 9999
        )
        covered += ratio.low <= math.log(0.5) / math.log(0.99) / (math.log(0.5) / math.log(0.95)) <= ratio.high
    assert covered >= 50


def test_a_searcher_that_never_arrives_has_an_open_ratio():
    found, never = [[0.5, 0.9, 0.9, 0.9]] * 4, [[0.5, 0.6, 0.7, 0.8]] * 4
    rows = paper_figures.markdown(panel(lanas=found, evolution=never, random=never), 2).splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells[2] == ["LaNAS", "2", "0 %", "0 (0-0)", "0 (0-0)", "1"]
    assert cells[3] == ["regularized evolution", ">4", "100 %", "30 (30-30)", "10 (10-10)", ">2.0 (2.0-?)"]
    assert (cells[4][1], cells[4][-1]) == ("500 (exact median)", "250")


def test_losses_are_not_percentages():
    losses = paper_figures.TableSearches("a table", -2.0, 10, 1, {"lanas": np.array([[-3.0, -2.5]], np.float32)})
    assert "regret after 2, units of the loss" in paper_figures.markdown(losses, 2)
    assert losses.regrets("lanas").tolist() == [[1.0, 0.5]]


@pytest.mark.slow
def test_the_figure_is_drawn():
    rng = np.random.default_rng(0)
    traces = {name: rng.uniform(0.5, 0.9, (5, 8)) for name in paper_figures.SEARCHERS}
    picture = checked(lambda scheme: paper_figures.draw([panel(**traces), panel(**traces)], 4, scheme))
    for text in ("LaNAS as published", "Optuna TPE", "a table, 5 searches", "regret after 4 networks"):
        assert text in picture


def test_searches_are_run_once(tmp_path):
    def found(**settings):
        config = paper_figures.Config(("nasbench201-cifar10",), ("random",), comparisons=tmp_path, **settings)
        return paper_figures.panel_of("nasbench201-cifar10", config, lambda text: None)

    first = found(seeds=3, budget=20).traces["random"]
    assert first.shape == (3, 20)
    path = tmp_path / "nasbench201-cifar10" / "random.npz"
    write_npz(path, {"values": read_npz(path, ("values",))["values"] / 2})
    again = found(seeds=2, budget=10)
    assert again.searches == "2"
    np.testing.assert_array_equal(again.traces["random"], first[:2, :10] / 2)
    assert len(found(seeds=9, slow=("random",), slow_seeds=3, budget=20).traces["random"]) == 3
