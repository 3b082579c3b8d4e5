"""UCB descent on trees with known answers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax.searchers import partition, selection


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
    return int(descend(tree, selection.all_open(tree) if is_open is None else is_open, jnp.float32(cp)))


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
    is_open, closed = selection.all_open(FULL), set()
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
