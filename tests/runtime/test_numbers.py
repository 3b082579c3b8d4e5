"""Whole numbers that users give."""

import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.runtime.numbers import whole_number
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.study import Experiment
from tests.toy_experiment import Sum

SPACE = lx.SearchSpace([lx.Choice(name, "abc") for name in "xyz"])
TABLE = lx.Table(SPACE, SPACE.enumerate(), np.arange(27, dtype=np.float32))
pytestmark = pytest.mark.usefixtures("unchecked")
NO_INTEGERS = (True, np.bool_(True), 2.0, np.float32(2), "2", None, [2])


@pytest.mark.parametrize("value", [8, np.int64(8), np.uint8(8), np.array(8)])
def test_every_integer_becomes_one_of_python(value):
    assert type(whole_number("budget", value, 1)) is int
    assert whole_number("budget", value, 1) == 8


@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
def test_what_is_no_integer_is_refused_wherever_one_is_wanted(value):
    with pytest.raises(ValueError, match="budget must be an integer; got "):
        whole_number("budget", value, 1)
    for name in ("budget", "seeds", "batch", "first_seed"):
        with pytest.raises(ValueError, match=f"{name} must be an integer"):
            lx.simulate(lx.RandomSearch(SPACE), TABLE, **{"budget": 2, "seeds": 1, name: value})
    for name in ("workers", "budget", "seeds"):
        with pytest.raises(ValueError, match=f"{name} must be an integer"):
            lx.simulate_workers(lx.RandomSearch(SPACE), TABLE, **{"workers": 1, "budget": 2, "seeds": 1, name: value})
    for name in ("budget", "batch", "seed"):
        with pytest.raises(ValueError, match=f"{name} must be an integer"):
            Experiment("x", SPACE, lx.RandomSearch(SPACE), Sum(), **{"budget": 1, "batch": 1, "seed": 0, name: value})
    for searcher, names in (
        (lx.LaNAS, ("height", "min_samples", "initial", "relearn_every", "patience", "chains", "steps", "capacity")),
        (lx.RegularizedEvolution, ("population", "tournament", "capacity")),
        (lx.LocalSearch, ("initial", "capacity")),
        (lx.BayesianOptimization, ("initial", "capacity")),
        (lx.ActionMCTS, ("capacity",)),
        (lx.RandomSearch, ("capacity",)),
    ):
        for name in names:
            with pytest.raises(ValueError, match=f"{name} must be an integer"):
                searcher(SPACE, **{name: value})
    with pytest.raises(ValueError, match="blocks must be an integer"):
        NASNetSpace(value)


@pytest.mark.parametrize(("name", "value"), [("height", 0), ("chains", -1), ("capacity", 0), ("relearn_every", 0)])
def test_sizes_below_the_smallest_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least 1; got {value}"):
        lx.LaNAS(SPACE, **{name: value})


@pytest.mark.parametrize(("name", "most"), [("budget", 2**31 - 2), ("batch", 2**31 - 2), ("seed", 2**32 - 1)])
def test_numbers_that_32_bits_do_not_hold_are_refused(name, most):
    def experiment(value):
        return Experiment(
            "x", SPACE, lx.RandomSearch(SPACE), Sum(), **{"budget": 1, "batch": 1, "seed": 0, name: value}
        )

    assert getattr(experiment(most), name) == most
    for value in (most + 1, 10**20):
        with pytest.raises(ValueError, match=f"{name} must be at most {most:,}; got {value}"):
            experiment(value)
    with pytest.raises(ValueError, match="first_seed must be at most 4,294,967,295"):
        lx.simulate(lx.RandomSearch(SPACE), TABLE, 2, 1, first_seed=10**20)


def test_integers_of_numpy_are_those_of_python_in_an_experiment():
    given = Experiment("x", SPACE, lx.RandomSearch(SPACE), Sum(), np.int64(8), np.int32(2), np.uint32(1))
    assert [type(number) for number in (given.budget, given.batch, given.seed)] == [int] * 3
