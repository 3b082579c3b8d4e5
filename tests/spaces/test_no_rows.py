"""Spaces and searchers given no codes, and spaces of many choices."""

import jax
import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.spaces.attentive import AttentiveSpace
from lanas_jax.spaces.mobilenet import MobileNetSpace
from lanas_jax.spaces.nasbench101 import NASBench101Space
from lanas_jax.spaces.nasbench201 import NASBench201Space
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.spaces.nasnet_masks import NASNetMasks
from lanas_jax.spaces.recurrent import RecurrentSpace

PRODUCT = lx.SearchSpace([lx.Choice(name, "abc") for name in "wxyz"])
SPACES = (
    PRODUCT,
    NASNetSpace(),
    NASNetMasks(),
    MobileNetSpace(),
    AttentiveSpace(),
    NASBench101Space(),
    NASBench201Space(),
    RecurrentSpace(),
)
MANY = lx.SearchSpace([lx.Choice(f"choice {i}", "ab"[: 1 + (i % 30 == 0)]) for i in range(80)])


@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
def test_no_codes_have_no_rows(space):
    codes = np.zeros((0, space.dims), np.int32)
    assert jax.eval_shape(space.features, codes).shape == (0, len(space.feature_names))
    assert jax.eval_shape(space.embed, codes).shape == (0, space.embedding_size)
    assert jax.eval_shape(space.canonical, codes).shape == (0, space.dims)
    assert jax.eval_shape(space.valid, codes).shape == (0,)
    assert space.check(codes).shape == space.check([]).shape == (0, space.dims)


@pytest.mark.parametrize("searcher", [lx.LaNAS(PRODUCT), lx.RandomSearch(PRODUCT)], ids=lambda s: type(s).__name__)
@pytest.mark.usefixtures("unchecked")
def test_asking_for_none_and_telling_none_change_nothing(searcher):
    state = searcher.init(jax.random.key(0))
    state, codes = searcher.ask(state, 0)
    assert codes.shape == (0, PRODUCT.dims)
    for none in ([], np.zeros((0, PRODUCT.dims), np.int32)):
        state = searcher.tell(state, none, [])
    assert int(state.history.count) == 0


def test_any_number_of_choices_can_be_listed():
    listed = MANY.enumerate()
    assert listed.shape == (8, 80)
    assert listed[:, ::30].tolist() == [[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    np.testing.assert_array_equal(PRODUCT.enumerate(), np.stack(np.unravel_index(np.arange(81), (3,) * 4), axis=1))
