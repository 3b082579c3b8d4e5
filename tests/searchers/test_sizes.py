"""Sizes of networks as columns of embeddings in spaces whose codes are not listed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.searchers import sampling, sizes
from lanas_jax.searchers.hypotheses import HYPOTHESES
from lanas_jax.spaces.feature_scale import random_codes
from lanas_jax.spaces.mobilenet import MobileNetSpace
from lanas_jax.spaces.mobilenet_settings import STAGES
from lanas_jax.spaces.nasnet import NASNetSpace

TRIALS = 48
MOBILENETS = {"stages": STAGES[:2], "depths": (1, 2), "widths": (0.5, 1.0), "resolutions": (32, 48, 64)}
SPACES = {
    "NASNet cells": NASNetSpace(3, two_cells=False, channels=8, cells=3, image_size=8, image_channels=1),
    "MobileNets": MobileNetSpace(**MOBILENETS),
}


@pytest.mark.parametrize("name", SPACES)
def test_sampled_networks_have_standardised_sizes(name):
    space = SPACES[name]
    codes = np.asarray(space.random(jax.random.key(7), 400))
    codes = codes[np.asarray(space.valid(codes))]
    found = np.asarray(jax.jit(lambda codes: sizes.sizes(space, codes))(codes))
    assert found.shape == (len(codes), sizes.number_of_sizes(space))
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=0.25)
    np.testing.assert_allclose(found.std(axis=0), 1, atol=0.25)
    for column, cost in zip(found.T, space.cost(codes), strict=True):
        assert np.corrcoef(column, np.log1p(cost.astype(np.float64)))[0, 1] == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_limits_bound_the_networks_over_which_sizes_are_standardised():
    free = SPACES["MobileNets"]
    middle = int(np.median(free.cost(np.asarray(free.random(jax.random.key(0), 200))).multiply_adds))
    space = MobileNetSpace(**MOBILENETS, max_multiply_adds=middle)
    codes = np.asarray(free.random(jax.random.key(1), 400))
    codes = codes[np.asarray(space.valid(codes))]
    assert abs(np.asarray(sizes.sizes(space, codes))[:, 0].mean()) < 0.25
    assert np.asarray(sizes.sizes(free, codes))[:, 0].mean() < -0.5


def test_limits_that_few_networks_meet_do_not_blow_sizes_up():
    free = SPACES["MobileNets"]
    codes = random_codes(free)
    tight = MobileNetSpace(**MOBILENETS, max_multiply_adds=int(np.sort(free.cost(codes).multiply_adds)[2]))
    assert 0 < np.asarray(tight.valid(codes)).sum() < sizes.ENOUGH
    np.testing.assert_array_equal(sizes.sizes(tight, codes[:9]), sizes.sizes(free, codes[:9]))


def test_a_space_whose_costs_no_program_computes_has_no_sizes():
    space = lx.SearchSpace([lx.Choice(f"c{i}", range(4)) for i in range(12)])
    assert (sizes.number_of_sizes(space), sizes.sizes(space, jnp.zeros((3, 12), jnp.int32)).shape) == (0, (3, 0))
    assert sampling.embedding_size(space, None) == space.embedding_size


@pytest.mark.slow
def test_values_that_follow_the_sizes_of_sampled_networks_make_sizes_count():
    space = SPACES["MobileNets"]
    searcher = lx.LaNAS(space)
    codes = np.asarray(space.canonical(space.random(jax.random.key(3), 4 * TRIALS)))
    logs = np.log(space.cost(codes).multiply_adds)
    state = searcher.tell(searcher.init(jax.random.key(0)), codes[:TRIALS], logs[:TRIALS].astype(np.float32))
    assert HYPOTHESES[int(state.model.chosen)].sizes > 0
    others = codes[TRIALS:]
    predicted = sampling.embed(space, None, others, state.model.embedding_size) @ state.model.best.weights
    assert np.corrcoef(predicted, logs[TRIALS:])[0, 1] > 0.9


def test_searchers_without_expected_improvement_have_no_sizes():
    space = SPACES["MobileNets"]
    assert lx.LaNAS.paper(space).init(jax.random.key(0)).model.embedding_size == space.embedding_size
