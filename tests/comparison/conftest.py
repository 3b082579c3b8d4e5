"""A small table to compare searchers on."""

import pytest

import lanas_jax as lx
from tests.comparison.small_table import CODES, SPACE, VALUES


@pytest.fixture(scope="module")
def table():
    return lx.Table(SPACE, CODES, VALUES)
