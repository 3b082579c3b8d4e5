"""Product spaces: features, embeddings, and codes checked at the door."""

import os
import re

import jax
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


def test_numbers_are_a_scale_and_strings_are_labels_unless_declared_otherwise():
    scales = [(1, 2, 3), (3, 1, 2), (0, 1), (0.1, 1, 10), range(8)]
    labels = ["abc", ("0", "1", "2"), ("a", 1, 2), (True, False), (None, 1, 2)]
    assert [lx.Choice("c", options).ordered for options in scales] == [True] * 5
    assert [lx.Choice("c", options).ordered for options in labels] == [False] * 5
    assert lx.Choice("c", ("16", "8", "32"), ordered=True).levels == (1, 0, 2)
    assert not lx.Choice("c", (1, 2, 3), ordered=False).ordered
    for wrong in ("ab", ("8", "nan"), (True, False), (1, None)):
        with pytest.raises(ValueError, match=r"choice 'c' is declared a scale, but its option .* is not a number"):
            lx.Choice("c", wrong, ordered=True)
    with pytest.raises(ValueError, match="repeats a number"):
        lx.Choice("c", ("8", "8.0"), ordered=True)
    with pytest.raises(ValueError, match="must be finite"):
        lx.Choice("c", (1.0, float("inf")))


def test_ranges_are_scales_of_numbers():
    rate = lx.Range("learning_rate", 1e-5, 1e-1, log=True, steps=33)
    assert len(rate.options) == 33
    assert (rate.options[0], rate.options[-1]) == (1e-5, 1e-1)
    np.testing.assert_allclose(rate.options[16], 1e-3)
    np.testing.assert_allclose(np.diff(np.log(rate.options)), np.log(10) / 8, rtol=1e-6)
    assert rate.texts[1] == "1.33352e-05"
    layers = lx.Range("layers", 1, 8)
    assert layers == lx.Choice("layers", range(1, 9))
    assert {type(option) for option in layers.options} == {int}
    assert lx.Range("units", 16, 1024, log=True, steps=7).options == (16, 32, 64, 128, 256, 512, 1024)
    assert lx.Range("dropout", 0, 0.5, steps=3).options == (0.0, 0.25, 0.5)
    assert {type(option) for option in lx.Range("dropout", 0, 0.5, steps=3).options} == {float}


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((8, 1), {}, "goes from 8 to 1; the first end must be below the second"),
        ((1, 1), {}, "the first end must be below"),
        ((0.0, 1.0), {"log": True, "steps": 5}, "with log=True both ends must be above 0"),
        ((-1.0, 1.0), {"log": True, "steps": 5}, "with log=True both ends must be above 0"),
        ((0.0, 1.0), {"steps": 1}, "steps must be a whole number, at least 2; got 1"),
        ((0.0, 1.0), {"steps": 2.5}, "steps must be a whole number, at least 2; got 2.5"),
        ((0.0, 1.0), {"steps": True}, "steps must be a whole number, at least 2; got True"),
        ((0.0, 1.0), {"steps": 10**9}, "range 'r' has 1,000,000,000 steps; give at most 4,096"),
        ((0.0, 1.0), {}, "range 'r' of real numbers needs steps"),
        ((1, 8), {"log": True}, "range 'r' with log=True needs steps"),
        ((1, 10**9), {}, "range 'r' of more than 1024 numbers needs steps"),
        ((0, 1), {"steps": 5}, "fewer than 5 different numbers from 0 to 1: .* such as 1.0"),
        ((float("nan"), 1.0), {"steps": 5}, "two finite numbers as ends"),
        (("a", 1), {}, "two finite numbers as ends"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_ranges_are_refused(arguments, settings, message):
    with pytest.raises(ValueError, match=message):
        lx.Range("r", *arguments, **settings)


def test_features_are_one_hot_or_at_least_and_doubted_scales_have_both():
    assert SPACE.feature_names == (
        *("a=x", "a=y", "a=z", "b=x", "b=y", "b=z", "width>=16", "width>=32", "width>=64"),
        *("width=8", "width=16", "width=32", "width=64", "flag=0", "flag=1"),
    )
    expected = [0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 1]
    np.testing.assert_array_equal(SPACE.features(np.array([[1, 0, 2, 1]])), [expected])
    sizes = lx.NATSBenchSizeSpace()
    assert len(sizes.feature_names) == 35
    np.testing.assert_array_equal(sizes.features(np.array([[2, 0, 7, 0, 0]]))[0, :14], [1, 1, 0, 0, 0, 0, 0] + [0] * 7)


def test_a_scale_is_the_same_in_whatever_order_its_numbers_are_given():
    shuffled = lx.SearchSpace([lx.Choice("width", (32, 8, 64, 16)), lx.Choice("kind", "ab")])
    ascending = lx.SearchSpace([lx.Choice("width", (8, 16, 32, 64)), lx.Choice("kind", "ab")])
    assert shuffled.feature_names[:3] == ascending.feature_names[:3] == ("width>=16", "width>=32", "width>=64")
    codes, same = np.array([[0, 1], [3, 0], [2, 1]], np.int32), np.array([[2, 1], [1, 0], [3, 1]], np.int32)
    np.testing.assert_array_equal(shuffled.features(codes)[:, :3], ascending.features(same)[:, :3])
    np.testing.assert_allclose(
        shuffled.embed(codes) @ shuffled.embed(codes).T, ascending.embed(same) @ ascending.embed(same).T, atol=1e-6
    )


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


def test_codes_are_checked_at_once():
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
        (range(10**9), "choice 'op' has 1,000,000,000 options; give at most 4,096"),
        ((len, lambda x: x), "has the option <function .*, whose text differs in each process"),
        ((object(), "a"), "has the option <object .*, whose text differs in each process"),
    ],
)
def test_options_that_are_equal_or_too_many_or_have_no_lasting_text_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        lx.Choice("op", options)


def test_choices_in_a_set_are_refused():
    with pytest.raises(ValueError, match="the choices of a space are a set, which has no fixed order"):
        lx.SearchSpace({lx.Choice("a", "xy"), lx.Choice("b", "xy")})


@pytest.mark.parametrize("choices", [["a", "b"], {"a": (1, 2)}, [("a", (1, 2))], [lx.Choice]])
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_choice_is_refused(choices):
    with pytest.raises(ValueError, match=r"a search space is a list of choices, such as Choice\('a', \(1, 2\)\); got "):
        lx.SearchSpace(choices)


OPTIMIZERS = lx.SearchSpace(
    [
        lx.Choice("optimizer", ("sgd", "adam", "none")),
        lx.Range("rate", 1e-4, 1e-2, log=True, steps=3, when={"optimizer": ("sgd", "adam")}),
        lx.Choice("momentum", (0.0, 0.9, 0.99), when={"optimizer": "sgd"}),
        lx.Choice("nesterov", (False, True), when={"momentum": (0.9, 0.99)}),
        lx.Choice("norm", (None, "layer")),
    ]
)


def networks(choices, taken=None):
    """All assignments of options to the choices that exist, by the meaning of `when`."""
    taken = taken or {}
    if not choices:
        return [taken]
    first, *others = choices
    if not all(taken.get(name, ...) in options for name, options in first.when):
        return networks(others, taken)
    return [found for option in first.options for found in networks(others, taken | {first.name: option})]


DEEP = lx.SearchSpace(
    [
        lx.Range("layers", 1, 3),
        *(
            lx.Choice(f"{name} {i}", options, when={"layers": range(i + 1, 4)} | ({"op 0": "b"} if i == 2 else {}))
            for i in range(3)
            for name, options in (("op", "abc"), ("width", (8, 16)))
        ),
        lx.Choice("last", "xy", when={"width 2": 16, "op 1": ("a", "c")}),
    ]
)


@pytest.mark.parametrize("space", [OPTIMIZERS, DEEP, SPACE], ids=["optimizers", "deep", "plain"])
def test_a_space_counts_and_lists_each_network_once(space):
    expected = networks(space.choices)
    codes = space.enumerate()
    assert space.size == len(expected) == len(codes)
    assert [space.options(code) for code in codes] == expected  # in ascending order
    np.testing.assert_array_equal(codes, space.canonical(codes))
    drawn = space.random(jax.random.key(0), 64)
    np.testing.assert_array_equal(drawn, space.canonical(drawn))


def test_inactive_choices_weigh_nothing_and_are_not_described():
    codes = np.array([[1, 2, 2, 1, 0], [1, 2, 0, 0, 0], [0, 2, 0, 1, 0], [0, 2, 0, 0, 0]], np.int32)
    np.testing.assert_array_equal(OPTIMIZERS.canonical(codes), codes[[1, 1, 3, 3]])
    for described in (OPTIMIZERS.features(codes), OPTIMIZERS.embed(codes)):
        np.testing.assert_array_equal(described[0], described[1])
        np.testing.assert_array_equal(described[2], described[3])
        assert (described[1] != described[3]).any()
    assert OPTIMIZERS.count_changes(codes[1:2], codes[3:]).tolist() == [1]  # another optimizer, which brings a momentum
    momentum = [i for i, name in enumerate(OPTIMIZERS.feature_names) if name.startswith(("momentum", "nesterov"))]
    assert not np.asarray(OPTIMIZERS.features(codes))[:2, momentum].any()
    assert OPTIMIZERS.describe(codes[0]) == "optimizer  adam\nrate       0.01\nnorm       None"
    options = OPTIMIZERS.options(codes[2])
    assert options == {"optimizer": "sgd", "rate": 1e-2, "momentum": 0.0, "norm": None}
    assert OPTIMIZERS.options(np.array([0, 0, 1, 1, 0]))["nesterov"] is True


@pytest.mark.usefixtures("unchecked")
def test_wrong_conditions_are_refused():
    parent, child = lx.Choice("a", "xy"), lx.Choice("b", "uv", when={"a": "x"})
    with pytest.raises(ValueError, match=r"choice 'b' depends on 'a', which comes no earlier .* \(there is none\)"):
        lx.SearchSpace([child, parent])
    with pytest.raises(ValueError, match=r"choice 'b' depends on 'a', which does not exist: .* \(c\)"):
        lx.SearchSpace([lx.Choice("c", "xy"), child])
    with pytest.raises(ValueError, match="depends on the option 'z' of 'a', which has only 'x', 'y'"):
        lx.SearchSpace([parent, lx.Choice("b", "uv", when={"a": ("x", "z")})])
    with pytest.raises(ValueError, match="depends on the option 1 of 'a', which has only False, True"):
        lx.SearchSpace([lx.Choice("a", (False, True)), lx.Choice("b", "uv", when={"a": 1})])
    with pytest.raises(ValueError, match="the condition on 'a' lists no options"):
        lx.Choice("b", "uv", when={"a": ()})
    with pytest.raises(ValueError, match="when must map names of choices to options"):
        lx.Choice("b", "uv", when=("a", "x"))
