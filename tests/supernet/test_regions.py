"""Dividing a space: each code lies in exactly one region."""

import jax
import numpy as np
import pytest

from lanas_jax.searchers import partition
from lanas_jax.spaces.base import Choice, SearchSpace
from lanas_jax.supernet import code_pool, regions
from lanas_jax.supernet.regions import OptionSplit, TreeSplit

SPACE = SearchSpace([Choice("width", "abc"), Choice("depth", "xy"), Choice("kind", "stuv"), Choice("end", "no")])
ALL = SPACE.enumerate()
NOTHING = np.zeros((0, 4), np.int32), np.zeros(0, np.float32)


def worth(codes):
    """Additive, so that a tree can learn it from few codes."""
    return (codes @ np.array([1.0, 3.0, 0.3, 0.0])).astype(np.float32)


def test_options_of_a_choice():
    split = OptionSplit("kind")
    assert split.samples == 0
    found = split.regions(SPACE, *NOTHING)
    assert found.names == ("kind: s", "kind: t", "kind: u", "kind: v")
    np.testing.assert_array_equal(found.of(ALL), ALL[:, 2])


def test_an_unknown_choice_is_refused_and_the_known_ones_are_listed():
    with pytest.raises(ValueError, match=r"unknown choice 'height'; choose from width, depth, kind, end"):
        OptionSplit("height").regions(SPACE, *NOTHING)


CODES = code_pool.draw_codes(SPACE, 200, seed=0)


def split(values, **changes):
    return TreeSplit(**{"depth": 2, "samples": 200} | changes).regions(SPACE, CODES, values)


@pytest.fixture(scope="module")
def tree():
    return split(worth(CODES))


def test_each_code_lies_in_the_leaf_that_it_is_sent_to(tree):
    region = tree.of(ALL)
    assert set(region.tolist()) == set(range(len(tree.names)))
    leaves = np.asarray(partition.route(tree.tree, SPACE.features(ALL)))
    np.testing.assert_array_equal(tree.leaves[region], leaves)


def test_leaves_go_from_good_to_bad(tree):
    """The first split is by what matters most, depth; means of values fall from region to region."""
    assert tree.names == ("good, good", "good, bad", "bad, good", "bad, bad")
    region = tree.of(ALL)
    means = [worth(ALL)[region == i].mean() for i in range(4)]
    assert means == sorted(means, reverse=True)
    assert set(ALL[region <= 1][:, 1].tolist()) == {1}


def test_values_that_are_missing_play_no_part(tree):
    """Half of the codes without a value: they are split as if there were the other half alone."""
    there = np.arange(200) % 2 == 0
    with jax.debug_nans(True), jax.debug_infs(True):  # for networks of users
        missing = split(np.where(there, worth(CODES), np.nan).astype(np.float32))
        region = missing.of(ALL)
    low = split(np.where(there, worth(CODES), -1e6).astype(np.float32))
    assert missing.names == tree.names
    means = [worth(ALL)[region == i].mean() for i in range(4)]
    assert means == sorted(means, reverse=True)
    assert (region != low.of(ALL)).any()  # values that are there count


def test_values_that_are_all_alike_give_a_single_region():
    found = split(np.ones(200, np.float32))
    assert found.names == ("all",)
    assert not found.of(ALL).any()


def test_a_node_with_few_samples_is_not_split():
    found = split(worth(CODES), min_samples=150)
    assert found.names == ("good", "bad")


@pytest.mark.parametrize("setting", ["depth", "samples"])
def test_bad_settings_are_refused(setting):
    with pytest.raises(ValueError, match=f"{setting} must be at least 1; got 0"):
        TreeSplit(**{setting: 0})


def test_samples_are_valued_only_where_a_split_wants_them():
    seen = []

    def value(codes):
        seen.append(len(codes))
        return worth(codes)

    codes, values = regions.sample(OptionSplit("kind"), SPACE, value, seed=3)
    assert (codes.shape, values.shape, seen) == ((0, 4), (0,), [])
    codes, values = regions.sample(TreeSplit(samples=30), SPACE, value, seed=3)
    assert seen == [30]
    np.testing.assert_array_equal(values, worth(codes))
    np.testing.assert_array_equal(codes, code_pool.draw_codes(SPACE, 30, seed=3))
