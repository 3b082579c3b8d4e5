"""ParetoLaNAS: that it learns, that exact costs need no model, that one objective given twice is one, refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.searchers import pareto_lanas, partition, surrogate
from lanas_jax.searchers.front_model import Beliefs
from lanas_jax.searchers.hypervolume import hypervolume
from lanas_jax.searchers.hypervolume_improvement import front_of
from lanas_jax.searchers.objectives import check_objectives
from lanas_jax.searchers.sampling import Pool
from lanas_jax.spaces.base import Cost
from lanas_jax.spaces.nasnet import NASNetSpace
from tests.searchers.canonical import BATCH, LATTICE_SPACE, POOL, POOL_SPACE, additive, run, told

TWO = ("accuracy", "parameters")  # both are learned in the canonical spaces, which define no costs
VALUES = additive(POOL)


@dataclasses.dataclass(frozen=True, init=False)
class Priced(lx.SearchSpace):
    """The space of the canonical pool, with costs that follow from its codes."""

    def cost(self, codes):
        total = np.asarray(codes).astype(np.int64) @ [1, 2, 3, 4, 5]
        return Cost(10 * total, total)


PRICED = Priced(POOL_SPACE.choices)


def share(searcher, values, seed):
    """The share of the pool's hypervolume that a search of 32 trials found; `values` gives two objectives."""
    state, found = searcher.init(jax.random.key(seed)), []
    for _ in range(8):
        state, codes = searcher.ask(state, BATCH)
        found.append(values(codes))
        state = searcher.tell(state, codes, found[-1])
    everything = values(POOL)
    reference = everything.min(axis=0)
    volume = jax.jit(hypervolume)
    largest = volume(everything, jnp.ones(len(POOL), bool), reference)
    return float(volume(jnp.concatenate(found), jnp.ones(32, bool), reference) / largest)


@pytest.mark.slow
def test_it_finds_more_of_the_hypervolume_than_random_search():
    def values(codes):
        return told(lx.NSGA2(POOL_SPACE, TWO), jnp.asarray(additive(codes) / 4))

    seeds = range(4)
    ours = [share(lx.ParetoLaNAS(POOL_SPACE, TWO, pool=POOL, initial=10), values, seed) for seed in seeds]
    random = [share(lx.RandomSearch(POOL_SPACE, pool=POOL, objectives=2), values, seed) for seed in seeds]
    assert np.mean(ours) > np.mean(random)
    assert np.mean(ours) > 0.97


@pytest.mark.slow
def test_one_objective_given_twice_behaves_as_one():
    """Its regions are those of LaNAS, its node values follow from the best trials, and it chooses as one would.

    Uniform draws of 32 of 64 codes miss the best in one of two searches; six searches find it with chance 1/64.
    """
    searcher = lx.ParetoLaNAS(POOL_SPACE, TWO, pool=POOL, initial=10)
    one = lx.LaNAS(POOL_SPACE, pool=POOL, initial=10, height=3, min_samples=10, ridge=20.0)
    for seed in range(6):
        state, alone = searcher.init(jax.random.key(seed)), one.init(jax.random.key(seed))
        best = -np.inf
        for _ in range(8):
            state, codes = searcher.ask(state, BATCH)
            value = additive(codes)
            best = max(best, value.max())
            state = searcher.tell(state, codes, np.stack([value, value], axis=1))
            alone = one.tell(alone, codes, value)
            for part in ("is_split", "results"):
                np.testing.assert_array_equal(getattr(state.tree, part), getattr(alone.tree, part))
            np.testing.assert_allclose(state.tree.weights, alone.tree.weights, atol=1e-5)
        assert bool(state.tree.is_split[0])
        assert best == VALUES.max()

        model = pareto_lanas._model(searcher, state)
        points, done = np.asarray(model.units.of(model.units.scores))[:, 0], np.asarray(state.history.done)
        inside = np.asarray(partition.members(state.tree, POOL_SPACE.features(state.history.codes))) & done
        highest = np.where(inside, points, 0).max(axis=1)
        np.testing.assert_allclose(state.tree.means, (highest / points[done].max()) ** 2, rtol=1e-5)

        beliefs = Beliefs(state.history, state.tree, state.model.best, model.units.scores, state.history.done)
        unseen = ~np.asarray(state.history.seen)
        front = front_of(model.units.of(beliefs.points), beliefs.counted)
        gain = model.log_gain(beliefs, front, searcher.pool.embedded, searcher.costs)
        mean, deviation = model.predict(state.model.best, searcher.pool.embedded, searcher.costs)
        incumbent = model.posteriors[0].incumbent
        alone_gain = surrogate.log_expected_improvement(mean[:, 0], deviation[:, 0], incumbent)
        chosen = np.asarray(alone_gain)[unseen][np.asarray(gain)[unseen].argmax()]
        assert chosen > np.asarray(alone_gain)[unseen].max() - 0.1


@pytest.mark.slow
def test_a_cost_is_exact_in_a_pool_and_finds_the_cheapest_codes():
    """All accuracies are equal: what is left to gain is known, the cheapest code of all, and the model is not asked."""
    searcher = lx.ParetoLaNAS(PRICED, ("accuracy", "parameters"), pool=POOL, initial=10)
    assert searcher.is_exact == (False, True)
    np.testing.assert_array_equal(searcher.costs[:, 0], -PRICED.cost(POOL).parameters)
    state, costs = searcher.init(jax.random.key(0)), []
    for _ in range(4):
        state, codes = searcher.ask(state, BATCH)
        cost = PRICED.cost(np.asarray(codes)).parameters
        costs.append(cost)
        state = searcher.tell(state, codes, np.stack([np.full(BATCH, 0.5), -cost], axis=1).astype(np.float32))
    assert np.concatenate(costs).min() == PRICED.cost(POOL).parameters.min()


@pytest.mark.slow
def test_pending_trials_are_points_with_their_predicted_objectives():
    searcher = lx.ParetoLaNAS(PRICED, ("accuracy", "parameters"), pool=POOL, initial=10)
    state, codes, _ = run(searcher, 3)
    state, codes = searcher.ask(state, BATCH)
    model = pareto_lanas._model(searcher, state)
    beliefs = Beliefs(state.history, state.tree, state.model.best, model.units.scores, state.history.done)
    beliefs = model.with_outstanding(beliefs)
    assert int(beliefs.counted.sum()) == 4 * BATCH
    np.testing.assert_array_equal(beliefs.points[3 * BATCH : 4 * BATCH, 1], -PRICED.cost(np.asarray(codes)).parameters)
    assert int(beliefs.model.count) == int(state.model.count) + BATCH
    assert int(state.tree.visits[0]) == 4 * BATCH

    ends = np.asarray(jax.vmap(model.draw_end)(jax.random.split(jax.random.key(0), 1000)))
    assert set(ends.tolist()) == {-1, 0}  # the end of the exact objective is known
    assert np.mean(ends == 0) == pytest.approx(0.2, abs=0.05)  # 4 standard deviations
    front = front_of(model.units.of(beliefs.points), beliefs.counted)
    gain = model.log_gain(beliefs, front, searcher.pool.embedded, searcher.costs, 0)
    mean, deviation = model.predict(beliefs.model, searcher.pool.embedded, searcher.costs)
    incumbent = model.posteriors[0].incumbent
    np.testing.assert_allclose(
        gain, surrogate.log_expected_improvement(mean[:, 0], deviation[:, 0], incumbent), rtol=1e-5
    )


def test_node_values_are_shares_of_the_hypervolume():
    state, _, _ = run(lx.ParetoLaNAS(POOL_SPACE, TWO, pool=POOL, initial=10), 8)
    tree = state.tree
    means = np.asarray(tree.means)
    assert bool(tree.is_split[0])
    assert means[0] == pytest.approx(1)
    assert (means <= 1 + 1e-5).all()
    assert means[1:3].max() > 0.5  # of two halves of a set of trials, one has half of its hypervolume at least


@pytest.mark.slow
def test_costs_are_exact_in_a_lattice_and_hard_limits_hold():
    sizes = {"blocks": 3, "two_cells": False, "channels": 8, "cells": 3, "image_size": 8, "image_channels": 1}
    space = NASNetSpace(**sizes, max_parameters=20_000)
    searcher = lx.ParetoLaNAS(space, ("accuracy", "parameters"), initial=8)
    assert searcher.is_exact == (False, True)
    state, found = searcher.init(jax.random.key(0)), []
    for _ in range(6):
        state, codes = searcher.ask(state, BATCH)
        assert bool(space.valid(codes).all())
        found.append(space.cost(np.asarray(codes)).parameters)
        value = np.cos(np.asarray(codes)).mean(axis=1)
        state = searcher.tell(state, codes, np.stack([value, -found[-1]], axis=1).astype(np.float32))
    assert max(map(max, found)) <= 20_000
    # Cheap cells are on the front whatever their values, so the search knows where to look for them.
    assert min(map(min, found[2:])) < min(map(min, found[:2]))


@pytest.mark.slow
def test_three_objectives_in_batches():
    searcher = lx.ParetoLaNAS(PRICED, ("a", "b", "parameters"), pool=POOL, initial=8)

    def values(codes):
        value = additive(codes)
        return np.stack([value, np.cos(value), -PRICED.cost(np.asarray(codes)).parameters], axis=1).astype(np.float32)

    state, asked = searcher.init(jax.random.key(0)), []
    for _ in range(6):
        state, codes = searcher.ask(state, BATCH)
        asked.append(np.asarray(codes))
        state = searcher.tell(state, codes, values(codes))
    assert len(np.unique(np.concatenate(asked), axis=0)) == 24


@pytest.mark.parametrize(
    ("objectives", "more", "message"),
    [
        (("a", "a"), {}, "the objective 'a' is given twice; give each once"),
        (("a",), {}, "a search for a front has 2 to 4 objectives; got 1: a"),
        (tuple("abcde"), {}, "a search for a front has 2 to 4 objectives; got 5: a, b, c, d, e"),
        (("a", "b"), {"reference": (1.0,)}, r"reference needs a value per objective \(a, b\); got 1"),
    ],
)
def test_bad_objectives_are_refused_at_once(objectives, more, message):
    with pytest.raises(ValueError, match=message):
        lx.ParetoLaNAS(POOL_SPACE, objectives, pool=POOL, **more)


def test_costs_are_exact_where_they_can_be_known_and_learned_elsewhere():
    lattice = Priced(LATTICE_SPACE.choices)  # costs on the host alone
    traced = NASNetSpace(blocks=3, two_cells=False, channels=8, cells=3, image_size=8, image_channels=1)
    pool = np.asarray(traced.random(jax.random.key(0), 64))
    pool = pool[np.asarray(traced.valid(pool))]
    for space, codes, exact in (
        (POOL_SPACE, POOL, False),
        (LATTICE_SPACE, None, False),
        (lattice, None, False),
        (PRICED, POOL, True),
        (traced, None, True),
        (traced, pool, True),
    ):
        searcher = lx.ParetoLaNAS(space, ("parameters", "accuracy", "multiply_adds"), pool=codes)
        assert searcher.is_exact == (exact, False, exact)
        assert searcher.costs.shape == (0 if codes is None else len(searcher.pool.codes), 2 * exact)
    with pytest.raises(ValueError, match="are known before training; give an objective to learn too"):
        lx.ParetoLaNAS(PRICED, ("multiply_adds", "parameters"), pool=POOL)


def test_cells_of_one_function_are_apart_since_their_costs_differ():
    space = lx.NASBench201Space()
    codes = np.asarray(space.enumerate())
    functions = np.unique(space.functions(codes), return_inverse=True)[1]
    alike = codes[functions == np.bincount(functions).argmax()][:16]
    searcher = lx.ParetoLaNAS(space, ("accuracy", "latency"), pool=alike)
    assert len(np.unique(searcher.pool.embedded, axis=0)) == 16
    assert len(np.unique(lx.LaNAS(space, pool=alike).pool.embedded[:, : space.embedding_size], axis=0)) == 1


def test_the_pool_of_lanas_has_no_sizes_here():
    pool = lx.LaNAS(PRICED, pool=POOL).pool
    assert pool.embedded.shape[1] == PRICED.embedding_size + 2
    assert lx.ParetoLaNAS(PRICED, ("accuracy", "parameters"), pool=pool).pool == Pool.of(PRICED, POOL)


def test_one_text_is_not_several_names():
    with pytest.raises(ValueError, match="objectives must be several names; got the single text 'accuracy'"):
        check_objectives("accuracy")


def test_a_trial_that_lacks_an_objective_is_a_failed_one():
    searcher = lx.ParetoLaNAS(POOL_SPACE, TWO, pool=POOL, initial=10)
    state, codes = searcher.ask(searcher.init(jax.random.key(0)), BATCH)
    values = np.ones((BATCH, 2), np.float32)
    values[1, 1] = np.nan
    state = searcher.tell(state, codes, values)
    np.testing.assert_array_equal(state.history.status[:BATCH], [2, 3, 2, 2])
