"""Optuna's own tests of samplers: for uniform first trials by default, and for LaNAS from the first trial (slow)."""

import functools

import pytest

pytest.importorskip("optuna", minversion="4.8", reason="optuna is not installed")

from optuna.testing import pytest_samplers

from lanas_jax.integrations.optuna import LaNASSampler


class Suite(
    pytest_samplers.BasicSamplerTestCase,
    pytest_samplers.RelativeSamplerTestCase,
    pytest_samplers.SingleOnlySamplerTestCase,
):
    pass


class TestFirstTrials(Suite):
    @pytest.fixture
    def sampler(self):
        return LaNASSampler


@pytest.mark.slow
class TestLaNAS(Suite):
    """With five values per number, most of the suite's distributions give spaces that share compiled programs."""

    @pytest.fixture
    def sampler(self):
        return functools.partial(LaNASSampler, n_startup_trials=0, steps=5)


@pytest.mark.slow
class TestGroups(Suite):
    @pytest.fixture
    def sampler(self):
        return functools.partial(LaNASSampler, n_startup_trials=0, steps=5, group=True)
