"""Values looked up in a table."""

import time

import jax
import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.evaluators.base import Evaluator
from lanas_jax.evaluators.from_table import FromTable

SPACE = lx.SearchSpace([lx.Choice("a", "xyz"), lx.Choice("b", "xyz")])
CODES = np.array([[0, 0], [1, 2], [2, 1]], np.int32)
TABLE = lx.Table(SPACE, CODES, np.float32([0.5, 0.25, 0.75]))


def test_values_are_those_of_the_table():
    outcomes = FromTable(TABLE).evaluate(CODES[::-1], jax.random.split(jax.random.key(0), 3))
    assert [outcome.value for outcome in outcomes] == [0.75, 0.25, 0.5]
    assert isinstance(FromTable(TABLE), Evaluator)


def test_a_code_that_the_table_lacks_has_failed():
    (outcome,) = FromTable(TABLE).evaluate(np.array([[1, 1]], np.int32), jax.random.split(jax.random.key(0), 1))
    assert (outcome.value, outcome.reason) == (None, "the code is not in the table")


def test_trials_wait_as_their_key_says():
    keys = jax.random.split(jax.random.key(1), 3)
    began = time.monotonic()
    first, again = (FromTable(TABLE, seconds=0.01).evaluate(CODES, keys) for _ in range(2))
    waited = [outcome.train_seconds for outcome in first]
    assert waited == [outcome.train_seconds for outcome in again]
    assert len(set(waited)) == 3
    assert all(0.005 <= seconds <= 0.015 for seconds in waited)
    assert time.monotonic() - began >= 2 * sum(waited)


def test_costs_are_those_of_the_tables_space():
    space = lx.NASBench201Space()
    codes = np.array([[0, 1, 2, 3, 4, 0], [3, 3, 3, 3, 3, 3]], np.int32)
    outcomes = FromTable(lx.Table(space, codes, np.float32([0.5, 0.75]))).evaluate(
        codes, jax.random.split(jax.random.key(0), 2)
    )
    assert [outcome.parameters for outcome in outcomes] == space.cost(codes).parameters.tolist()


def test_a_table_of_several_objectives_is_refused():
    with pytest.raises(ValueError, match="FromTable needs a table with one value per code"):
        FromTable(lx.Table(SPACE, CODES, np.zeros((3, 2), np.float32)))


def test_negative_seconds_are_refused():
    with pytest.raises(ValueError, match=r"seconds must be at least 0; got -1\.0"):
        FromTable(TABLE, seconds=-1.0)
