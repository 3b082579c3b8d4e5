"""The learned tree: closed form, one predicate, counts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

import lanas_jax as lx
from lanas_jax.searchers import partition

SPACE = lx.SearchSpace([lx.Choice(f"op{i}", ("none", "skip", "conv1", "conv3")) for i in range(5)])
fit = jax.jit(partition.fit_tree, static_argnames=("height", "min_samples", "ridge"))
route = jax.jit(partition.route)
inside = jax.jit(partition.inside)
CAPACITY = 80


def trials(seed, n=60, pending=5, failed=3):
    """Codes padded to CAPACITY with a noisy additive value; the last rows pending and failed."""
    rng = np.random.default_rng(seed)
    codes = np.full((CAPACITY, SPACE.dims), -1, np.int32)
    codes[: n + pending + failed] = rng.integers(0, 4, (n + pending + failed, SPACE.dims))
    effects = rng.normal(size=(SPACE.dims, 4))
    targets = effects[np.arange(SPACE.dims), codes].sum(1) + 0.1 * rng.normal(size=CAPACITY)
    rows = np.arange(CAPACITY)
    return codes, targets.astype(np.float32), rows < n, rows < n + pending + failed


def by_hand(features, targets, done, tree, ridge):
    """Checks every split against scikit-learn; returns the leaf of each row."""
    features = np.asarray(features, np.float64)
    node = np.zeros(len(features), int)
    for i in np.flatnonzero(tree.is_split):
        member = (node == i) & done
        model = Ridge(alpha=ridge).fit(features[member], targets[member])
        np.testing.assert_allclose(tree.weights[i], model.coef_, atol=2e-4)
        threshold = model.predict(features[member]).mean() - model.intercept_
        np.testing.assert_allclose(tree.thresholds[i], threshold, atol=2e-4)
        good = features @ np.asarray(tree.weights[i], np.float64) >= float(tree.thresholds[i])
        node = np.where(node == i, np.where(good, 2 * i + 1, 2 * i + 2), node)
    return node


def learned(seed, height=4, min_samples=10, ridge=1.0, **kwargs):
    codes, targets, done, used = trials(seed, **kwargs)
    features = SPACE.features(codes)
    return fit(features, targets, done, used, height=height, min_samples=min_samples, ridge=ridge), features


@pytest.mark.parametrize("seed", range(3))
def test_every_split_is_ridge_regression_cut_at_the_mean_prediction(seed):
    ridge = 0.7
    tree, features = learned(seed, ridge=ridge)
    codes, targets, done, _ = trials(seed)
    node = by_hand(features, targets, done, tree, ridge)
    assert tree.is_split.sum() >= 3
    np.testing.assert_array_equal(node[done], route(tree, SPACE.features(codes))[done])


@pytest.mark.parametrize("rows", [60, 400], ids=["rows", "columns"])
def test_few_and_many_trials_are_solved_alike(rows):
    """In the space of the rows or of the 20 features, whichever takes less work."""
    rng = np.random.default_rng(7)
    codes = rng.integers(0, 4, (rows, SPACE.dims)).astype(np.int32)
    targets, done = rng.normal(size=rows).astype(np.float32), np.arange(rows) < rows - 7
    features = SPACE.features(codes)
    assert (rows < partition.FEW * features.shape[1]) == (rows == 60)
    tree = fit(features, targets, done, done, height=3, min_samples=10, ridge=2.0)
    assert tree.is_split.sum() >= 3
    by_hand(features, targets, done, tree, 2.0)


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=20, deadline=None)
def test_region_and_route_are_one_predicate(seed):
    tree, features = learned(seed)
    every = SPACE.features(SPACE.enumerate())
    for phi in (features, every):
        leaf = np.asarray(route(tree, phi))
        for node in np.unique(leaf):
            np.testing.assert_array_equal(inside(tree, jnp.int32(node), phi), leaf == node)
    inner = np.flatnonzero(tree.is_split)
    assert 0 in inner
    leaf = np.asarray(route(tree, every))
    for node in inner:
        below = np.zeros(len(leaf), bool)
        for child in np.unique(leaf):
            ancestor = child
            while ancestor > node:
                ancestor = (ancestor - 1) // 2
            below |= (leaf == child) & (ancestor == node)
        np.testing.assert_array_equal(inside(tree, jnp.int32(node), every), below)


def test_a_prediction_at_the_threshold_is_on_the_good_side():
    """For trials, unseen codes and regions alike: at 1, 2 and 3 the tree predicts 0.5, 1 and 1.5, and it cuts at 1."""
    tree = dataclasses.replace(
        partition.lone_root(1, 1),
        weights=jnp.array([[0.5]]),
        thresholds=jnp.array([1.0]),
        is_split=jnp.array([True]),
    )
    features = jnp.array([[1.0], [2.0], [3.0]])
    assert route(tree, features).tolist() == [2, 1, 1]
    assert inside(tree, jnp.int32(1), features).tolist() == [False, True, True]
    assert inside(tree, jnp.int32(2), features).tolist() == [True, False, False]


def test_predictions_are_exact_whatever_the_batch_and_order():
    tree, _ = learned(0)
    every = np.asarray(SPACE.features(SPACE.enumerate()))
    whole = np.asarray(every @ np.asarray(tree.weights).T)
    in_double = every.astype(np.float64) @ np.asarray(tree.weights, np.float64).T
    np.testing.assert_array_equal(whole.astype(np.float64), in_double)
    one_by_one = np.array([route(tree, jnp.asarray(row[None]))[0] for row in every[::97]])
    np.testing.assert_array_equal(one_by_one, np.asarray(route(tree, jnp.asarray(every)))[::97])


def test_counts_match_a_walk_of_each_trial():
    tree, features = learned(3)
    _, targets, done, used = trials(3)
    leaf = np.asarray(route(tree, features))
    visits, results, sums = np.zeros(31, int), np.zeros(31, int), np.zeros(31)
    for row in np.flatnonzero(used):
        node = int(leaf[row])
        while True:
            visits[node] += 1
            results[node] += done[row]
            sums[node] += targets[row] if done[row] else 0.0
            if node == 0:
                break
            node = (node - 1) // 2
    np.testing.assert_array_equal(tree.visits, visits)
    np.testing.assert_array_equal(tree.results, results)
    np.testing.assert_allclose(tree.sums, sums, atol=1e-4)


def test_pending_and_failed_trials_do_not_change_the_regressions():
    codes, targets, done, used = trials(5)
    alone = fit(SPACE.features(codes), targets, done, done, height=4, min_samples=10, ridge=1.0)
    poisoned = np.where(done, targets, np.float32(1e6))
    tree = fit(SPACE.features(codes), poisoned, done, used, height=4, min_samples=10, ridge=1.0)
    for name in ("weights", "thresholds", "is_split", "results", "sums"):
        np.testing.assert_array_equal(getattr(tree, name), getattr(alone, name))
    assert int(tree.visits[0]) == int(alone.visits[0]) + 8


def test_good_children_are_better_and_leftmost_is_best():
    tree, _ = learned(1, n=70, pending=0, failed=0)
    assert tree.is_split.sum() >= 3
    for node in np.flatnonzero(tree.is_split):
        assert tree.means[2 * node + 1] > tree.means[2 * node + 2]


def test_nodes_with_few_results_or_equal_targets_stay_leaves():
    tree, _ = learned(0, n=9)
    assert not tree.is_split.any()
    codes, targets, done, used = trials(0)
    flat = fit(SPACE.features(codes), np.zeros_like(targets), done, used, height=4, min_samples=10, ridge=1.0)
    assert not flat.is_split.any()
    assert int(flat.results[0]) == 60


def test_backup_counts_a_visit_on_the_whole_path_and_nowhere_else():
    tree, _ = learned(0)
    leaf = int(np.flatnonzero(np.asarray(tree.visits) > 0).max())
    after = partition.backup(tree, jnp.int32(leaf))
    path = {leaf}
    while leaf:
        leaf = (leaf - 1) // 2
        path.add(leaf)
    grown = np.flatnonzero(np.asarray(after.visits) - np.asarray(tree.visits))
    assert set(grown.tolist()) == path


def test_count_is_what_fit_counts():
    tree, features = learned(2)
    _, targets, done, used = trials(2)
    blank = dataclasses.replace(tree, visits=tree.visits * 0, results=tree.results * 0, sums=tree.sums * 0.0)
    again = partition.count_trials(blank, features, *map(jnp.asarray, (targets, done, used)))
    for got, expected in zip(jax.tree.leaves(again), jax.tree.leaves(tree), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_explain_names_the_feature_that_decides():
    codes = SPACE.enumerate()[::7]
    targets = (codes[:, 2] == 3).astype(np.float32) - 0.5 * (codes[:, 4] == 0)
    done = np.ones(len(codes), bool)
    tree = fit(SPACE.features(codes), targets.astype(np.float32), done, done, height=2, min_samples=10, ridge=1.0)
    nodes = partition.explain(tree, SPACE.feature_names)
    root = nodes[0]
    assert (root.node, root.depth, root.samples, root.is_leaf) == (0, 0, len(codes), False)
    assert root.drivers[0][0] == "op2=conv3"
    assert root.drivers[0][1] == pytest.approx(float(tree.weights[0].max()), rel=1e-6)
    assert {node.node for node in nodes} == {0} | {
        child for i in np.flatnonzero(tree.is_split) for child in (2 * i + 1, 2 * i + 2)
    }
    assert sum(node.samples for node in nodes if node.is_leaf) == len(codes)
