"""LaNAS: draws obey their region, learning pays."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.runtime.arithmetic import in_32_bits
from lanas_jax.searchers import first_draws, hypotheses, partition, surrogate
from lanas_jax.searchers import history as hist
from tests.searchers.canonical import BATCH, LATTICE_SPACE, POOL, POOL_SPACE, additive, product, run
from tests.trees import same


def on_pool(**numbers):
    return lx.LaNAS(POOL_SPACE, pool=POOL, **numbers)


@pytest.mark.parametrize(
    ("make", "where"),
    [
        pytest.param(lx.LaNAS, (POOL_SPACE, POOL), id="pool-default"),
        pytest.param(lx.LaNAS.paper, (POOL_SPACE, POOL), id="pool-paper"),
        pytest.param(lx.LaNAS, (LATTICE_SPACE, None), id="lattice-default"),
        pytest.param(lx.LaNAS.paper, (LATTICE_SPACE, None), id="lattice-paper", marks=pytest.mark.slow),
    ],
)
def test_a_drawn_code_satisfies_every_half_space_on_the_path_of_its_leaf(make, where):
    """With exploration off the first draw of a batch is from the best leaf with unseen codes; its region is known."""
    searcher = dataclasses.replace(make(*where), cp=0.0)
    state, _, _ = run(searcher, 8)
    means, left = np.asarray(state.tree.means), np.full(len(state.tree.means), True)
    if searcher.pool is not None:
        unseen = ~state.history.seen
        left = (
            np.asarray(partition.subtotals(state.tree, partition.route(state.tree, searcher.pool.features), unseen)) > 0
        )
    node = 0
    while node < len(state.tree.is_split) and state.tree.is_split[node]:
        good, bad = 2 * node + 1, 2 * node + 2
        node = good if left[good] and (means[good] >= means[bad] or not left[bad]) else bad
    assert node > 0
    features = np.asarray(searcher.space.features(searcher.ask(state, BATCH)[1]), np.float64)[0]
    while node:
        parent = (node - 1) // 2
        score = np.asarray(state.tree.weights[parent], np.float64) @ features
        assert (score >= float(state.tree.thresholds[parent])) == (node % 2 == 1)
        node = parent


def test_the_tree_of_the_state_is_the_fit_of_its_history():
    state, _, _ = run(on_pool(), 10)
    history = state.history
    assert int(state.tree.visits[0]) == int(history.count) == 40
    leaves = np.asarray(partition.route(state.tree, POOL_SPACE.features(history.codes)))[:40]
    assert len(np.unique(leaves)) > 2
    for leaf in np.unique(leaves):
        assert int(state.tree.visits[leaf]) == int((leaves == leaf).sum())


def test_codes_that_others_try_are_pending_as_if_asked_for():
    searcher = on_pool()
    state, asked, _ = run(searcher, 6)
    after, codes = searcher.ask(state, BATCH)
    added = searcher.add_pending(state, codes)
    assert same((added.history, added.tree), (after.history, after.tree))
    again = searcher.add_pending(added, np.stack([codes[0], asked[0], [-1] * POOL_SPACE.dims, codes[1]]))  # all known
    assert same((again.history, again.tree), (after.history, after.tree))


def test_a_batch_counts_its_pending_trials_as_visits():
    state, _, _ = run(on_pool(), 6)
    after, _ = on_pool().ask(state, BATCH)
    assert int(after.tree.visits[0]) == int(state.tree.visits[0]) + BATCH
    assert int(after.tree.results[0]) == int(state.tree.results[0])


def test_a_pending_trial_stays_a_visit_when_others_are_told():
    searcher = on_pool()
    state, _ = searcher.ask(searcher.init(jax.random.key(0)), BATCH)
    state, later = searcher.ask(state, BATCH)
    state = searcher.tell(state, later, additive(later))
    assert (int(state.tree.visits[0]), int(state.tree.results[0])) == (2 * BATCH, BATCH)


@in_32_bits
def test_codes_drawn_before_anything_is_told_spread_out():
    """After the first, codes are taken where the model knows least: no unseen code has a larger variance.

    The pool has no more codes than are drawn as candidates for an initial draw.
    """
    assert len(POOL) <= first_draws.CANDIDATES
    searcher = on_pool(initial=8)
    state = searcher.init(jax.random.key(0))
    model = hypotheses.prior(64, POOL_SPACE.embedding_size, 0).best
    for _ in range(4):
        before = state
        state, codes = searcher.ask(state, BATCH)
        seen = np.array(before.history.seen)
        for code in np.asarray(codes):
            (row,) = np.flatnonzero((code == POOL).all(axis=1))
            assert not seen[row]
            if seen.any():
                variance = np.asarray(surrogate.predict_embedded(model, searcher.pool.embedded, POOL_SPACE.dims)[1])
                assert variance[row] >= variance[~seen].max() - 1e-5
            seen[row] = True
            model = surrogate.extend(model, searcher.pool.embedded[row], jnp.bool_(True), POOL_SPACE.dims)


def test_failed_trials_do_not_count_as_initial():
    """Initial draws do not depend on values: two batches of failures and two of values are drawn, and no others."""
    searcher = on_pool(initial=8)
    states, same = [searcher.init(jax.random.key(3))] * 2, []
    for i in range(5):
        asked = []
        for which, sign in enumerate((1, -1)):
            states[which], codes = searcher.ask(states[which], BATCH)
            asked.append(np.asarray(codes))
            told = np.full(BATCH, np.nan, np.float32) if i < 2 else sign * additive(codes)
            states[which] = searcher.tell(states[which], codes, told)
        same.append(bool((asked[0] == asked[1]).all()))
    assert same == [True] * 4 + [False]


def test_the_first_draw_is_uniform():
    """Of 64 searches over 64 codes, as many begin with different codes as those of uniform draws do, 41 on average."""
    searcher = on_pool()
    first = [np.asarray(searcher.ask(searcher.init(jax.random.key(seed)), BATCH)[1])[0] for seed in range(64)]
    assert 32 <= len(np.unique(first, axis=0)) <= 50


def test_values_only_matter_through_their_ranks():
    _, codes, _ = run(on_pool(), 8)
    _, others, _ = run(on_pool(), 8, value=lambda codes: np.exp(additive(codes)))
    np.testing.assert_array_equal(codes, others)
    _, others, _ = run(on_pool(rank_targets=False), 8)
    assert (codes != others).any()


def test_a_search_without_a_gain_begins_again_and_then_learns_from_all():
    """The first code is the best by far. Its round ends after eight others; the next begins as a search does.

    When that one gains nothing more, either, a round of all results follows, and then again one of its own.
    """
    searcher = on_pool(initial=4, patience=8)
    state, codes = searcher.ask(searcher.init(jax.random.key(0)), BATCH)
    first = codes[0]
    state = searcher.tell(state, codes, additive(codes) + np.float32([100, 0, 0, 0]))
    learned, known, asked = [], [], [np.asarray(codes)]
    for i in range(9):
        state, codes = searcher.ask(state, BATCH)
        state = searcher.tell(state, codes, np.arange(-BATCH * i, -BATCH * (i + 1), -1, dtype=np.float32))
        asked.append(np.asarray(codes))
        learned.append(int(state.tree.results[0]))
        known.append(int(state.model.count))
    assert learned == known == [8, 0, 4, 8, 24, 28, 0, 4, 8]
    assert len(np.unique(np.concatenate(asked), axis=0)) == 10 * BATCH
    assert (first == state.history.codes[0]).all()
    assert int(state.history.status[0]) == hist.PAST
    state = searcher.tell(
        state, np.asarray(first)[None], np.float32([np.nan])
    )  # told again, it belongs to the present round
    assert int(state.history.status[0]) == hist.FAILED


def test_a_best_trial_that_took_long_is_given_as_long_again():
    """Its gain comes with the last of twenty trials, so the search restarts after twenty more and not after eight."""
    searcher = on_pool(initial=4, patience=8)
    state, learned = searcher.init(jax.random.key(0)), []
    for i in range(10):
        state, codes = searcher.ask(state, BATCH)
        value = np.arange(BATCH, dtype=np.float32) + BATCH * i
        state = searcher.tell(state, codes, value if i < 5 else -value)
        learned.append(int(state.tree.results[0]))
    assert learned == [4, 8, 12, 16, 20, 24, 28, 32, 36, 0]
    patient, _, _ = run(on_pool(patience=0), 15, value=lambda codes: -np.arange(len(codes), dtype=np.float32))
    assert int(patient.tree.results[0]) == 60


@pytest.mark.slow
def test_a_batch_larger_than_patience_is_learned_from():
    """Its best trial is the first, but all others were proposed without knowledge of it."""
    searcher = on_pool(initial=4, patience=8)
    state, codes = searcher.ask(searcher.init(jax.random.key(0)), 20)
    state = searcher.tell(state, codes, -np.arange(20, dtype=np.float32))
    assert int(state.tree.results[0]) == int(state.model.count) == 20
    state, codes = searcher.ask(state, BATCH)
    assert int(searcher.tell(state, codes, np.full(BATCH, -99, np.float32)).tree.results[0]) == 0


def test_results_that_were_not_asked_for_end_no_round():
    """As many as a round may take without a gain, the best one first: all are learned from, then the round goes on."""
    searcher = on_pool(initial=4, patience=8)
    state = searcher.tell(searcher.init(jax.random.key(0)), POOL[:20], np.arange(20, 0, -1, dtype=np.float32))
    assert int(state.tree.results[0]) == int(state.model.count) == 20
    learned = []
    for _ in range(3):
        state, codes = searcher.ask(state, BATCH)
        state = searcher.tell(state, codes, np.zeros(BATCH, np.float32))
        learned.append(int(state.tree.results[0]))
    assert learned == [24, 0, 4]


def test_paper_learns_every_twenty_results():
    searcher = lx.LaNAS.paper(POOL_SPACE, pool=POOL)
    state, learned = searcher.init(jax.random.key(0)), []
    for _ in range(14):
        state, codes = searcher.ask(state, BATCH)
        state = searcher.tell(state, codes, additive(codes))
        learned.append(int(state.learned))
    assert learned == [0, 0, 12, 12, 12, 12, 12, 32, 32, 32, 32, 32, 52, 52]  # 10, and then 20 more, with its batch


@pytest.mark.slow
def test_a_long_search_models_the_best_and_the_latest_trials():
    searcher = lx.LaNAS(product(6), patience=0)
    codes = searcher.space.enumerate()[:1001]
    values = np.random.default_rng(0).permutation(1000).astype(np.float32)
    state = searcher.tell(searcher.init(jax.random.key(0)), codes[:1000], values)
    assert (state.model.rows, int(state.model.count)) == (512, 384)
    modelled = np.asarray(state.modelled[:384])
    np.testing.assert_allclose(state.model.best.embedded[:384], searcher.space.embed(codes[modelled]), atol=1e-6)
    best = np.flatnonzero(values >= 1000 - 192)
    others = np.setdiff1d(np.arange(1000), best)
    np.testing.assert_array_equal(np.sort(modelled), np.sort([*best, *others[-192:]]))
    state = searcher.tell(state, codes[1000:], np.zeros(1, np.float32))
    assert (int(state.model.count), int(state.modelled[384])) == (385, 1000)
    state, more = searcher.ask(state, 4)
    assert len(np.unique(np.concatenate([codes, more]), axis=0)) == 1005


def test_a_trial_that_loses_its_value_leaves_the_model():
    state, codes, values = run(on_pool(), 5)
    assert int(state.model.count) == 20
    values[3] = np.nan
    again = on_pool().tell(state, codes[:BATCH], values[:BATCH])
    assert int(again.model.count) == 19
    np.testing.assert_array_equal(np.sort(again.modelled[:19]), np.delete(np.arange(20), 3))


@pytest.mark.slow
@pytest.mark.parametrize("space", [pytest.param(product(7), id="pool"), pytest.param(LATTICE_SPACE, id="lattice")])
def test_learning_beats_random_search(space):
    """Mean best of 40 over 12 seeds; equal searchers would differ this much with probability below 1e-4."""
    best = {
        make.__name__: [run(make(space), 10, seed)[2].max() for seed in range(12)]
        for make in (lx.LaNAS, lx.RandomSearch)
    }
    gap = np.mean(best["LaNAS"]) - np.mean(best["RandomSearch"])
    assert gap > 4 * np.std(best["RandomSearch"], ddof=1) * np.sqrt(2 / 12)
