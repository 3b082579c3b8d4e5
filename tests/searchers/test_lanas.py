"""LaNAS: draws obey their region, learning pays."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax import partition, surrogate

EFFECTS = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)


def product(dims):
    return lx.SearchSpace([lx.Choice(f"c{i}", range(4)) for i in range(dims)])


def value(codes):
    codes = np.asarray(codes)
    return EFFECTS[np.arange(codes.shape[1]), codes].sum(axis=1)


def run(searcher, batches, n=5, seed=0):
    state, values = searcher.init(jax.random.key(seed)), []
    for _ in range(batches):
        state, codes = searcher.ask(state, n)
        values.append(value(codes))
        state = searcher.tell(state, codes, values[-1])
    return state, np.concatenate(values)


@pytest.mark.parametrize("make", [lx.LaNAS, lx.LaNAS.paper], ids=["default", "paper"])
@pytest.mark.parametrize("dims", [5, 30], ids=["pool", "lattice"])
def test_a_drawn_code_satisfies_every_half_space_on_the_path_of_its_leaf(make, dims):
    """With exploration off the leftmost leaf is chosen, so the expected region is known."""
    space = product(dims)
    searcher = dataclasses.replace(make(space), cp=0.0)
    state, _ = run(searcher, 8)
    # One draw a state: the best region may hold no more than one unseen code.
    checked = 0
    for _ in range(1):
        node = 0
        while node < len(state.tree.is_split) and state.tree.is_split[node]:
            means = np.asarray(state.tree.means)
            node = 2 * node + (1 if means[2 * node + 1] >= means[2 * node + 2] else 2)
        before = state
        state, codes = searcher.ask(state, 1)
        features = np.asarray(space.features(codes), np.float64)[0]
        if bool(partition.inside(before.tree, jnp.int32(node), space.features(codes))[0]):
            child = node
            while child:
                parent = (child - 1) // 2
                score = np.asarray(before.tree.weights[parent], np.float64) @ features
                assert (score >= float(before.tree.thresholds[parent])) == (child % 2 == 1)
                child = parent
            checked += 1
    assert checked == 1


def test_the_tree_of_the_state_is_the_fit_of_its_history():
    space = product(5)
    searcher = lx.LaNAS(space)
    state, _ = run(searcher, 10)
    history = state.history
    np.testing.assert_array_equal(state.tree.visits[0], 50)
    leaves = partition.route(state.tree, space.features(history.codes))
    for leaf in np.unique(np.asarray(leaves)[: int(history.count)]):
        assert int(state.tree.visits[leaf]) == int((leaves == leaf)[: int(history.count)].sum())


def test_a_batch_counts_its_pending_trials_as_visits():
    searcher = lx.LaNAS(product(5))
    state, _ = run(searcher, 6)
    after, _ = searcher.ask(state, 7)
    assert int(after.tree.visits[0]) == int(state.tree.visits[0]) + 7
    assert int(after.tree.results[0]) == int(state.tree.results[0])


def test_workers_that_ask_before_anything_is_told_spread_out():
    """After the initial draws a code is taken where the model knows least: no unseen code has a larger variance."""
    searcher = lx.LaNAS(product(5), initial=5)
    state = searcher.init(jax.random.key(0))
    for asked in range(12):
        before = state
        state, codes = searcher.ask(state, 1)
        if asked < searcher.initial:
            continue
        model = surrogate.prior(64, searcher.space.embedding_size)
        for code in before.history.codes[:asked]:
            model = surrogate.extend(model, searcher.space.embed(code[None])[0], jnp.bool_(True), searcher.space.dims)
        variance = surrogate.predict(model, searcher.pool.embedded, searcher.space.dims)[1]
        drawn = surrogate.predict(model, searcher.space.embed(codes), searcher.space.dims)[1]
        unseen = np.asarray(variance)[~np.asarray(before.history.seen)]
        # Of 1,019 unseen codes the model looks at a shortlist of some 160.
        assert float(drawn[0]) >= np.quantile(unseen, 0.95)


def test_failed_trials_do_not_count_as_initial():
    space = product(5)
    searchers = [lx.LaNAS(space, initial=6), lx.RandomSearch(space)]
    states = [searcher.init(jax.random.key(3)) for searcher in searchers]
    same = []
    for i in range(12):
        asked = []
        for which, searcher in enumerate(searchers):
            states[which], codes = searcher.ask(states[which], 1)
            asked.append(np.asarray(codes))
            states[which] = searcher.tell(
                states[which], codes, np.full(1, np.nan, np.float32) if i < 4 else value(codes)
            )
        same.append(bool((asked[0] == asked[1]).all()))
    assert same == [True] * 10 + [False] * 2


def test_values_only_matter_through_their_ranks():
    space = product(5)
    searcher = lx.LaNAS(space)
    states = [searcher.init(jax.random.key(0))] * 2
    for _ in range(8):
        (a, codes), (b, others) = searcher.ask(states[0], 5), searcher.ask(states[1], 5)
        np.testing.assert_array_equal(codes, others)
        states = [searcher.tell(a, codes, value(codes)), searcher.tell(b, codes, np.exp(value(codes)))]


def test_paper_learns_every_twenty_results():
    searcher = lx.LaNAS.paper(product(5))
    state, learned = searcher.init(jax.random.key(0)), []
    for _ in range(14):
        state, codes = searcher.ask(state, 5)
        state = searcher.tell(state, codes, value(codes))
        learned.append(int(state.learned))
    assert learned == [0, 10, 10, 10, 10, 30, 30, 30, 30, 50, 50, 50, 50, 70]


def test_a_long_search_models_the_best_and_the_latest_trials():
    searcher = lx.LaNAS(product(6))
    codes = searcher.space.enumerate()[:1001]
    values = np.random.default_rng(0).permutation(1000).astype(np.float32)
    state = searcher.tell(searcher.init(jax.random.key(0)), codes[:1000], values)
    assert (state.model.rows, int(state.model.count)) == (512, 384)
    modelled = np.asarray(state.modelled[:384])
    np.testing.assert_allclose(state.model.embedded[:384], searcher.space.embed(codes[modelled]), atol=1e-6)
    best = np.flatnonzero(values >= 1000 - 192)
    others = np.setdiff1d(np.arange(1000), best)
    np.testing.assert_array_equal(np.sort(modelled), np.sort([*best, *others[-192:]]))
    state = searcher.tell(state, codes[1000:], np.zeros(1, np.float32))
    assert (int(state.model.count), int(state.modelled[384])) == (385, 1000)
    state, more = searcher.ask(state, 4)
    assert len(np.unique(np.concatenate([codes, more]), axis=0)) == 1005


def test_a_trial_that_loses_its_value_leaves_the_model():
    searcher = lx.LaNAS(product(5))
    state, _ = run(searcher, 4)
    codes = state.history.codes[:20]
    assert int(state.model.count) == 20
    again = searcher.tell(state, codes[3:4], np.full(1, np.nan, np.float32))
    assert int(again.model.count) == 19
    np.testing.assert_array_equal(np.sort(again.modelled[:19]), np.delete(np.arange(20), 3))


@pytest.mark.parametrize("dims", [7, 30], ids=["pool", "lattice"])
def test_learning_beats_random_search(dims):
    """Mean best of 60 over 8 seeds; equal searchers would differ this much with probability below 1e-4."""
    space = product(dims)
    best = {
        make.__name__: [run(make(space), 12, seed=seed)[1].max() for seed in range(8)]
        for make in (lx.LaNAS, lx.RandomSearch)
    }
    gap = np.mean(best["LaNAS"]) - np.mean(best["RandomSearch"])
    assert gap > 4 * np.std(best["RandomSearch"]) / np.sqrt(8)
