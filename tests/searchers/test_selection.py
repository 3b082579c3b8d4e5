"""UCB descent on trees with known answers, and draws from a lattice against exact enumeration."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import lanas_jax as lx
from lanas_jax.searchers import history as hist
from lanas_jax.searchers import hypotheses, partition, selection


def tree_of(means, visits, splits):
    """A tree of height 2 with the given node means and visits."""
    visits = jnp.asarray(visits, jnp.int32)
    return dataclasses.replace(
        partition.lone_root(2, 1),
        is_split=jnp.asarray(splits),
        visits=visits,
        results=visits,
        sums=jnp.asarray(means, jnp.float32) * visits.astype(jnp.float32),
    )


descend = jax.jit(selection.descend)
backup = jax.jit(partition.backup)


def leaf(tree, cp, is_open=None):
    return int(descend(tree, jnp.ones(7, bool) if is_open is None else is_open, jnp.float32(cp)))


FULL = tree_of([0.5, 0.7, 0.3, 0.8, 0.6, 0.4, 0.2], [16, 8, 8, 4, 4, 4, 4], [True] * 3)


def test_without_exploration_the_best_mean_wins():
    assert leaf(FULL, 0.0) == 3


def test_bound_is_the_formula_of_the_paper():
    bound = selection.upper_confidence(
        jnp.array([0.8, 0.6]), jnp.array([9, 4], jnp.int32), jnp.int32(13), jnp.float32(0.1)
    )
    expected = [0.8 + 0.2 * np.sqrt(2 * np.log(13) / 9), 0.6 + 0.2 * np.sqrt(2 * np.log(13) / 4)]
    np.testing.assert_allclose(bound, expected, rtol=1e-6)


def test_unvisited_child_comes_first():
    bound = selection.upper_confidence(
        jnp.array([0.9, 0.0]), jnp.array([100, 0], jnp.int32), jnp.int32(100), jnp.float32(0.1)
    )
    assert int(jnp.argmax(bound)) == 1


def test_pending_visits_push_the_next_draw_elsewhere():
    tree, leaves = FULL, []
    for _ in range(200):
        leaves.append(leaf(tree, 0.5))
        tree = backup(tree, jnp.int32(leaves[-1]))
    share = {node: leaves.count(node) for node in (3, 4, 5, 6)}
    assert share[3] > share[4] > 0
    assert share[5] > share[6] > 0
    assert share[3] + share[4] > share[5] + share[6]


def test_unsplit_nodes_are_leaves():
    assert leaf(tree_of([0.5, 0.7, 0.3, 0, 0, 0.4, 0.2], [16, 8, 8, 0, 0, 4, 4], [True, False, True]), 0.0) == 1
    assert leaf(tree_of([0.5] * 7, [16, 0, 0, 0, 0, 0, 0], [False] * 3), 0.0) == 0


@pytest.mark.parametrize("order", [(3, 4, 5, 6), (6, 5, 4, 3), (3, 5, 4, 6)])
def test_closed_leaves_are_never_entered_and_closing_all_closes_the_root(order):
    is_open, closed = jnp.ones(7, bool), set()
    for node in order:
        assert bool(is_open[0])
        assert leaf(FULL, 0.0, is_open) not in closed
        is_open = selection.close(FULL, is_open, jnp.int32(node))
        closed.add(node)
    assert not is_open[0]


def test_child_without_results_is_judged_by_its_parent():
    tree = tree_of([-1.0, -0.5, -2.0, 0, 0, 0, 0], [16, 8, 8, 0, 0, 0, 0], [True, False, False])
    tree = dataclasses.replace(tree, results=tree.results.at[2].set(0))
    assert leaf(tree, 0.0) == 1


@dataclasses.dataclass(frozen=True, init=False)
class Limited(lx.SearchSpace):
    """Codes whose sum keeps a limit, as the cost of a network does."""

    def valid(self, codes):
        codes = jnp.asarray(codes)
        return super().valid(codes) & (jnp.sum(codes, axis=1) <= 9)


SPACE = Limited([lx.Choice(f"c{i}", "abcd") for i in range(5)])
TOLD = 120


@pytest.fixture(scope="module")
def known():
    rng = np.random.default_rng(0)
    codes = rng.choice(SPACE.enumerate(), TOLD, replace=False)
    values = rng.normal(size=(5, 4))[np.arange(5), codes].sum(axis=1).astype(np.float32)
    history, _ = hist.record(hist.empty(SPACE, None, TOLD + 1), SPACE, None, jnp.asarray(codes), jnp.asarray(values))
    features = SPACE.features(history.codes)
    tree = jax.jit(partition.fit_tree, static_argnames=("height", "min_samples", "ridge"))(
        *(features, history.values, history.done, history.used), height=3, min_samples=10, ridge=1.0
    )
    return selection.Known(history, tree, hypotheses.prior(1, SPACE.embedding_size, 0).best)


@pytest.fixture(scope="module")
def draws(known):
    """Many draws at a weight of exploration; few chains will do, since each draw has its own."""
    walks, n = selection.Walks(chains=32, steps=64, by_model=False), 300

    def draw(key, cp):
        return selection.draw_from_lattice(key, SPACE, known, cp, 1, walks)[1][0]

    return jax.jit(lambda cp: jax.vmap(draw, (0, None))(jax.random.split(jax.random.key(1), n), cp))


@pytest.mark.parametrize(
    "cp", [0.0, pytest.param(0.5, marks=pytest.mark.slow), pytest.param(3.0, marks=pytest.mark.slow)]
)
def test_a_draw_is_uniform_over_the_unseen_valid_codes_of_its_leaf(known, draws, cp):
    drawn = draws(jnp.float32(cp))
    every = SPACE.enumerate()
    leaf = selection.descend(known.tree, jnp.ones(15, bool), jnp.float32(cp))
    members = every[np.asarray(partition.inside(known.tree, leaf, SPACE.features(every)))]
    unseen = [
        code for code in map(tuple, members.tolist()) if code not in set(map(tuple, known.history.codes.tolist()))
    ]
    assert len(unseen) > 30
    place = {code: i for i, code in enumerate(unseen)}
    counts = np.bincount([place[tuple(code)] for code in np.asarray(drawn).tolist()], minlength=len(unseen))
    # A correct sampler fails this with probability 1e-6, and the key is fixed.
    assert stats.chisquare(counts).pvalue > 1e-6


def test_codes_that_differ_have_different_fingerprints():
    every = SPACE.enumerate()
    prints = np.asarray(selection.code_fingerprints(jnp.asarray(every)))
    assert len(np.unique(prints)) == len(every)
    long = np.random.default_rng(1).integers(0, 10, (4000, 60)).astype(np.int32)
    assert len(np.unique(np.asarray(selection.code_fingerprints(jnp.asarray(long))))) == 4000


def test_looking_around_finds_what_is_next_to_a_good_code():
    space = lx.SearchSpace([lx.Choice(f"c{i}", range(3)) for i in range(10)])
    target = jnp.arange(10) % 3
    near = target.at[4].add(1) % 3

    def gain(codes):
        right = jnp.sum(codes == target[None], axis=1).astype(jnp.float32)
        return jnp.where(jnp.all(codes == near[None], axis=1), -jnp.inf, right)  # the trial next to it is known

    far = jnp.zeros((20, 10), jnp.int32)
    others = jnp.tile(near[None], (selection.PARENTS, 1))
    code, score = selection.look_around(jax.random.key(0), space, gain, far, others)
    # One move in forty leads there: another seed misses it with probability (1 - 1 / 40) ** 384 = 6e-5.
    assert code.tolist() == target.tolist()
    assert score == 10


def test_looking_around_never_ends_below_where_it_begins():
    space = lx.SearchSpace([lx.Choice(f"c{i}", range(3)) for i in range(10)])
    codes = space.random(jax.random.key(1), 40)
    weights = jax.random.normal(jax.random.key(2), (10, 3))

    def gain(codes):
        return jnp.sum(jnp.take_along_axis(weights[None], codes[:, :, None], axis=2)[..., 0], axis=1)

    code, score = selection.look_around(jax.random.key(3), space, gain, codes, codes[:4])
    np.testing.assert_allclose(score, gain(code[None])[0], rtol=1e-5)
    assert score > gain(codes).max()


def test_where_nothing_may_be_drawn_looking_around_finds_nothing():
    space = lx.SearchSpace([lx.Choice("a", range(3))])
    codes = jnp.zeros((4, 1), jnp.int32)
    _, score = selection.look_around(
        jax.random.key(0), space, lambda codes: jnp.full(len(codes), -jnp.inf), codes, codes
    )
    assert score == -jnp.inf
