"""Many workers at once on a small table: the order of completion, no code twice, and one worker as the known case."""

import itertools

import jax
import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.comparison import simulated_workers

SPACE = lx.SearchSpace([lx.Choice("op", ("a", "b", "c")), lx.Choice("mode", ("x", "y")), lx.Choice("width", range(4))])
CODES = SPACE.enumerate()


@pytest.fixture(scope="module")
def table():
    return lx.Table(SPACE, CODES, np.sin(CODES @ [1.0, 2.0, 0.7]).astype(np.float32))


SLOW = [pytest.param(make, marks=pytest.mark.slow) for make in (lx.LocalSearch, lx.LaNAS)]


@pytest.mark.parametrize("make", [lx.RandomSearch, *SLOW])
def test_one_worker_tries_the_codes_of_the_simulation_in_batches_of_one(table, make):
    searcher = make(SPACE)
    alone = lx.simulate_workers(searcher, table, 1, budget=20, seeds=2)
    known = lx.simulate(searcher, table, budget=20, seeds=2)
    np.testing.assert_array_equal(alone.codes, known.codes)
    np.testing.assert_array_equal(alone.values, known.values)
    np.testing.assert_array_less(np.zeros((2, 19)), np.diff(alone.times))


@pytest.mark.parametrize("make", [lx.RandomSearch, lx.RegularizedEvolution, *SLOW])
def test_no_code_is_tried_twice_until_the_table_is_exhausted(table, make):
    trace = lx.simulate_workers(make(SPACE), table, 5, budget=27, seeds=2)
    assert (trace.codes.shape, trace.values.shape, trace.times.shape) == ((2, 27, 3), (2, 27), (2, 27))
    for codes, values, times in zip(*map(np.asarray, trace), strict=True):
        np.testing.assert_array_equal(np.unique(codes[:24], axis=0), np.unique(CODES, axis=0))
        np.testing.assert_array_equal(values[:24], table.lookup(codes[:24]))
        assert (np.diff(times[:24]) > 0).all()
        assert (codes[24:] == -1).all()
        assert np.isnan(values[24:]).all()
        assert np.isnan(times[24:]).all()


@pytest.mark.slow
def test_searches_are_those_of_asking_and_telling_in_the_order_of_completion(table):
    """The same search written as a plain loop over workers, of which the one that is done first asks next."""
    workers, budget = 3, 12
    trace = lx.simulate_workers(lx.LocalSearch(SPACE, initial=2), table, workers, budget=budget, seeds=2)
    searcher = lx.LocalSearch(SPACE, pool=CODES, initial=2, capacity=budget + workers - 1)
    key = jax.random.fold_in(jax.random.key(0), 1)
    state = searcher.init(key)
    time_key = jax.random.fold_in(key, simulated_workers.TIMES)
    times = iter(np.asarray(jax.random.uniform(time_key, (budget + workers - 1,), minval=0.5, maxval=1.5)))
    pending, now, done, asked = [], np.float32(0), [], []
    for i in itertools.count():
        state, codes = searcher.ask(state, 1)
        asked.append(codes)
        pending.append((now + next(times), i))
        if i < workers - 1:
            continue
        now, first = min(pending)
        pending.remove((now, first))
        done.append((now, first))
        state = searcher.tell(state, asked[first], table.lookup(asked[first]))
        if len(done) == budget:
            break
    ends, order = zip(*done, strict=True)
    assert list(order) != sorted(order)
    np.testing.assert_array_equal(trace.codes[1], np.concatenate([asked[i] for i in order]))
    np.testing.assert_allclose(trace.times[1], ends, rtol=1e-6)


def test_a_budget_smaller_than_the_number_of_workers_takes_the_first_that_are_done(table):
    trace = lx.simulate_workers(lx.RandomSearch(SPACE), table, 9, budget=4, seeds=3)
    more = lx.simulate_workers(lx.RandomSearch(SPACE), table, 9, budget=7, seeds=3)
    # Of nine trials that began at 0, the four done first ended before 1.5; another begun then takes 0.5 at least.
    assert np.asarray(trace.times).max() < 1.5
    np.testing.assert_array_equal(trace.codes[:, :3], more.codes[:, :3])


def test_more_workers_than_there_are_codes(table):
    trace = lx.simulate_workers(lx.RandomSearch(SPACE), table, 30, budget=26, seeds=1)
    assert len(np.unique(trace.codes[0, :24], axis=0)) == 24
    assert (np.asarray(trace.codes[0, 24:]) == -1).all()
    assert np.asarray(trace.times[0, :24]).max() < 1.5


def test_workers_share_the_time(table):
    """Mean training times are 1: four workers do 24 trials in about 6, and the clock is that of one of them."""
    one, four = (lx.simulate_workers(lx.RandomSearch(SPACE), table, n, budget=24, seeds=20).times for n in (1, 4))
    # The sum of 24 times has a standard deviation of 1.41, the mean of 20 sums 0.32.
    assert np.mean(one[:, -1]) == pytest.approx(24, abs=1.6)
    assert np.mean(four[:, -1]) == pytest.approx(6.6, abs=0.7)


@pytest.mark.parametrize("setting", ["workers", "budget", "seeds"])
@pytest.mark.parametrize("value", [0, -3])
def test_settings_below_one_are_refused(table, setting, value):
    with pytest.raises(ValueError, match=f"{setting} must be at least 1; got {value}"):
        lx.simulate_workers(lx.RandomSearch(SPACE), table, **{"workers": 2, "budget": 2, "seeds": 2} | {setting: value})
