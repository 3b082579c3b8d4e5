"""Product spaces: features, embeddings, and codes checked at the door."""

import os
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lanas_jax as lx
from lanas_jax.spaces.nasnet import NASNetSpace
from lanas_jax.spaces.nasnet_masks import NASNetMasks

SPACE = lx.SearchSpace(
    [lx.Choice("a", "xyz"), lx.Choice("b", "xyz"), lx.Choice("width", (8, 16, 32, 64)), lx.Choice("flag", (0, 1))]
)


def test_only_ascending_numbers_are_ordered():
    ordered = {options: lx.Choice("c", options).ordered for options in [(1, 2, 3), (1, 3, 2), (0, 1), ("a", "1", "2")]}
    assert ordered == {(1, 2, 3): True, (1, 3, 2): False, (0, 1): False, ("a", "1", "2"): False}


def test_features_are_one_hot_or_at_least():
    assert SPACE.feature_names == (
        *("a=x", "a=y", "a=z", "b=x", "b=y", "b=z"),
        *("width>=16", "width>=32", "width>=64", "flag=0", "flag=1"),
    )
    np.testing.assert_array_equal(SPACE.features(np.array([[1, 0, 2, 1]])), [[0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 1]])


def test_embedding_prefers_near_options_and_shares_effects():
    codes = np.array([[0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 3, 0], [1, 0, 0, 0], [1, 2, 0, 0]], np.int32)
    embedded = np.asarray(SPACE.embed(codes))
    inner = embedded @ embedded.T
    assert inner[0, 1] > inner[0, 2]
    assert inner[0, 3] > inner[0, 4] > 0  # the same options in other places have something in common
    assert embedded.shape[1] == SPACE.embedding_size


def test_embeddings_have_norms_of_about_one():
    for space in (SPACE, NASNetSpace(5, two_cells=True), NASNetMasks()):
        codes = np.random.default_rng(1).integers(0, space.cardinalities, (500, space.dims)).astype(np.int32)
        assert np.square(np.asarray(space.embed(codes))).sum(axis=1).mean() == pytest.approx(1, abs=0.15)


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=10, deadline=None)
def test_equivalent_codes_lie_in_one_place(seed):
    space = NASNetSpace(4)
    codes = np.random.default_rng(seed).integers(0, space.cardinalities, (50, space.dims)).astype(np.int32)
    np.testing.assert_array_equal(space.embed(codes), space.embed(space.canonical(codes)))


def test_codes_are_checked_at_the_door():
    with pytest.raises(ValueError, match=r"code 1: position 2 \(width\) holds 4, expected 0 to 3 \(8, 16, 32, 64\)"):
        SPACE.check([[0, 0, 0, 0], [0, 0, 4, 0]])
    with pytest.raises(ValueError, match=r"shape \[n, 4\]"):
        SPACE.check([[0, 0, 0]])
    with pytest.raises(ValueError, match="must be integers"):
        SPACE.check([[0.5, 0, 0, 0]])
    with pytest.raises(ValueError, match="share a name"):
        lx.SearchSpace([lx.Choice("a", "xy"), lx.Choice("a", "xy")])
    with pytest.raises(ValueError, match="no options"):
        lx.Choice("a", ())
    with pytest.raises(ValueError, match="repeats an option"):
        lx.Choice("a", (1, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conv", "pool", "skip"}, "in a set, which has no fixed order"),
        (frozenset("ab"), "in a frozenset, which has no fixed order"),
        ({"a": 1}.keys() | {"b"}, "in a set, which has no fixed order"),
        ((option for option in "ab"), "in a generator, which can be read only once: give a list or a tuple"),
        (map(str, (1, 2)), "in a map, which can be read only once"),
        (iter(["a", "b"]), "in a list_iterator, which can be read only once"),
        pytest.param(
            3,
            "has the options 3: give a list or a tuple",
            marks=pytest.mark.skipif(os.environ.get("LANAS_CHECK_SHAPES") == "1", reason="beartype refuses it first"),
        ),
    ],
)
def test_options_without_a_lasting_order_are_refused(options, message):
    with pytest.raises(ValueError, match=f"choice 'op' has .*{re.escape(message.removeprefix('has '))}"):
        lx.Choice("op", options)


@pytest.mark.parametrize(
    "options", [["a", "b"], ("a", "b"), "ab", {"a": 1, "b": 2}, {"a": 1, "b": 2}.keys(), np.array(["a", "b"])]
)
def test_options_in_any_order_that_lasts(options):
    assert lx.Choice("op", options).options == ("a", "b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((1, True), "equal options 1 and True"),
        ((0.0, False, "x"), "equal options 0.0 and False"),
        ((2, 3, 2.0), "equal options 2 and 2.0"),
        ((1, "1"), "repeats an option"),
        (("a", "b", "a"), "repeats an option"),
    ],
)
def test_equal_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        lx.Choice("op", options)


def test_choices_in_a_set_are_refused():
    with pytest.raises(ValueError, match="the choices of a space are a set, which has no fixed order"):
        lx.SearchSpace({lx.Choice("a", "xy"), lx.Choice("b", "xy")})
