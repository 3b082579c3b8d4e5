"""NSGA-II: its population, its parents, and that it approaches the front."""

import jax
import jax.numpy as jnp
import numpy as np

import lanas_jax as lx
from lanas_jax.searchers.dominance import front_ranks
from tests.searchers.canonical import BATCH, LATTICE_SPACE, additive, run, told

TWO = ("first", "second")


def test_the_population_are_the_best_by_rank_when_a_generation_begins():
    searcher = lx.NSGA2(LATTICE_SPACE, TWO, population=6)
    state, _, values = run(searcher, 5)
    assert int(state.sorted) == 16  # generations begin with the batches at which six results are new: 8, 16
    assert int(state.history.count) == 20
    ranks = np.array(jax.jit(front_ranks)(state.history.values, jnp.arange(state.history.capacity) < 16))
    population = np.argsort(np.array(state.place))[:6]
    assert ranks[population].max() <= np.sort(ranks[:16])[5]
    np.testing.assert_array_equal(state.history.values[:20], told(searcher, jnp.asarray(values)))


def test_children_are_nearer_to_the_front_than_uniform_draws():
    """Objectives that agree: the mean value of 12 further batches exceeds that of uniform draws by many deviations."""
    searcher = lx.NSGA2(LATTICE_SPACE, TWO, population=6)
    state = searcher.init(jax.random.key(0))
    values = []
    for _ in range(16):
        state, codes = searcher.ask(state, BATCH)
        value = additive(codes)
        values.append(value.mean())
        state = searcher.tell(state, codes, np.stack([value, value], axis=1))
    assert np.mean(values[8:]) > np.mean(values[:2]) + 2
