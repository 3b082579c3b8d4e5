"""Distributions as choices: the values of a grid, and the nearest value of any other."""

import numpy as np
import pytest

pytest.importorskip("optuna", reason="optuna is not installed")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lanas_jax.integrations.grid import Grid, Parameter


@pytest.mark.parametrize(
    ("distribution", "values"),
    [
        (IntDistribution(2, 8, step=3), (2, 5, 8)),
        (IntDistribution(0, 100), (0, 25, 50, 75, 100)),
        (IntDistribution(0, 99, step=9), (0, 27, 54, 72, 99)),  # five of twelve
        (IntDistribution(1, 16, log=True), (1, 2, 4, 8, 16)),
        (IntDistribution(1, 10**6, log=True), (1, 32, 1000, 31623, 10**6)),
        (FloatDistribution(-1, 1), (-1.0, -0.5, 0.0, 0.5, 1.0)),
        (FloatDistribution(1e-4, 1.0, log=True), (1e-4, 1e-3, 1e-2, 1e-1, 1.0)),
        (FloatDistribution(0, 1, step=0.5), (0.0, 0.5, 1.0)),
        (FloatDistribution(3, 3), (3.0,)),
        (CategoricalDistribution((None, True, "a", 2.5)), (None, True, "a", 2.5)),
    ],
)
def test_values(distribution, values):
    parameter = Parameter.of("x", distribution, steps=5)
    assert parameter.values == pytest.approx(values) if isinstance(values[-1], float) else parameter.values == values
    assert [parameter.index(value) for value in parameter.values] == list(range(len(values)))
    assert {type(value) for value in parameter.values} <= {int, float, str, bool, type(None)}
    assert all(distribution._contains(distribution.to_internal_repr(value)) for value in parameter.values)
    assert parameter.choice.ordered == (not isinstance(distribution, CategoricalDistribution))


def test_the_finer_grid_includes_the_points_of_the_coarser_one():
    for distribution in (FloatDistribution(0, 1), FloatDistribution(0.01, 10, log=True), IntDistribution(0, 64)):
        coarse, fine = (Parameter.of("x", distribution, steps).values for steps in (5, 9))
        assert np.asarray(fine)[::2] == pytest.approx(np.asarray(coarse))


def test_other_values_count_as_the_nearest_on_their_scale():
    log, linear = (Parameter.of("x", FloatDistribution(0.01, 1.0, log=log), steps=3) for log in (True, False))
    assert (log.index(0.06), linear.index(0.2)) == (1, 0)
    assert (log.index(0.001), log.index("a"), Parameter.of("c", CategoricalDistribution("ab"), 3).index("c")) == (
        None,
        None,
        None,
    )


def test_codes_and_parameters():
    grid = Grid.of({"b": IntDistribution(0, 3), "a": CategoricalDistribution(("x", None))}, steps=5)
    assert [choice.name for choice in grid.space.choices] == ["a", "b"]
    assert grid.code({"a": None, "b": 2, "other": 1}) == (1, 2)
    assert grid.params((1, 2)) == {"a": None, "b": 2}
    assert grid.code({"a": "x"}) is None
    assert grid.code({"a": "x", "b": 7}) is None
