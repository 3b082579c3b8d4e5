"""Tree search over fixed actions: statistics against a tree of nodes, closing, convergence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lanas_jax as lx
from lanas_jax.searchers.action_mcts import statistics
from lanas_jax.searchers.surrogate import rank_shares


def product(dims, options=3):
    return lx.SearchSpace([lx.Choice(f"c{i}", range(options)) for i in range(dims)])


def search(searcher, asks, n, value, seed=0):
    state, codes = searcher.init(jax.random.key(seed)), []
    for _ in range(asks):
        state, asked = searcher.ask(state, n)
        codes.append(np.asarray(asked))
        state = searcher.tell(state, asked, value(codes[-1]))
    return state, np.concatenate(codes)


def zeros(codes):
    """The more zeros, and the earlier, the better; no two codes are equal."""
    return (codes == 0) @ 0.5 ** np.arange(codes.shape[1], dtype=np.float32) - 1e-3 * codes.sum(axis=1)


SPACES = pytest.mark.parametrize("dims", [7, 20], ids=["pool", "lattice"])


@pytest.mark.parametrize("dims", [7, pytest.param(20, marks=pytest.mark.slow)], ids=["pool", "lattice"])
def test_statistics_are_those_of_a_tree_of_nodes(dims):
    """Trials done, failed and pending are backed up along their prefixes one by one."""
    state, _ = search(lx.ActionMCTS(product(dims)), 8, 4, lambda c: np.where(c.sum(axis=1) % 4 == 0, np.nan, zeros(c)))
    state, _ = lx.ActionMCTS(product(dims)).ask(state, 4)  # pending
    history = state.history
    told = np.sort(np.asarray(history.values)[np.asarray(history.done)])
    visits, totals, results = {}, {}, {}
    rows = (np.asarray(column)[:36] for column in (history.codes, history.status, history.values))
    for code, status, value in zip(*rows, strict=True):
        for depth in range(dims + 1):
            node = tuple(code[:depth].tolist())
            visits[node] = visits.get(node, 0) + 1
            if status == 2:
                share = (np.searchsorted(told, value) + np.searchsorted(told, value, side="right")) / 2 / len(told)
                totals[node], results[node] = totals.get(node, 0) + share, results.get(node, 0) + 1
    assert visits[()] == 36
    assert 0 < results[()] < 32
    values, checked = rank_shares(history.values, history.done), 0
    for node in [node for node in visits if len(node) < dims][:40]:
        prefix = jnp.asarray(list(node) + [0] * (dims - len(node)), jnp.int32)
        children = statistics(history, values, prefix, jnp.int32(len(node)), 3)
        assert int(children.parent_visits) == visits[node]
        for option in range(3):
            child = (*node, option)
            assert int(children.visits[option]) == visits.get(child, 0)
            near = child if child in results else node
            if near in results:
                assert float(children.mean[option]) == pytest.approx(totals[near] / results[near], rel=1e-5)
                checked += 1
    assert checked > 30


@SPACES
def test_every_child_is_visited_before_any_is_visited_twice(dims):
    """Pending trials count: nine draws open three options of the first choice, then three of the second."""
    searcher, asked = lx.ActionMCTS(product(dims)), []
    state = searcher.init(jax.random.key(0))
    for _ in range(9):
        state, code = searcher.ask(state, 1)
        asked.append(code)
    codes = np.concatenate(asked)
    assert sorted(codes[:3, 0].tolist()) == [0, 1, 2]
    assert len(np.unique(codes[:, :2], axis=0)) == 9


@pytest.mark.slow
@SPACES
def test_without_exploration_the_better_option_is_followed_down(dims):
    """Option 0 is better everywhere: once its child leads, every draw decides the first choices that way.

    Of the 81 codes of the pool that begin with three zeros, 60 draws cannot try all.
    """
    _, codes = search(lx.ActionMCTS(product(dims), cp=0.0), 60, 1, zeros)
    assert (codes[-20:, :3] == 0).all()
    assert (codes[:20, :3] != 0).any()


def test_a_child_without_unseen_codes_is_closed():
    """Of the best option the pool holds two codes only; the search goes on elsewhere, and each code comes once."""
    space = product(6)
    rest = space.enumerate()[243:]
    pool = np.concatenate([np.zeros((1, 6), np.int32), np.array([[0, 1, 2, 0, 1, 2]], np.int32), rest[:30]])
    _, codes = search(lx.ActionMCTS(space, pool=pool, cp=0.0), 32, 1, zeros)
    assert len(np.unique(codes, axis=0)) == 32
    assert (codes[:12, 0] == 0).sum() == 2


@SPACES
def test_roll_outs_reach_everything(dims):
    """First draws of 120 keys: of the 9 prefixes of 2 decisions one would be missed with probability 7e-6."""
    searcher = lx.ActionMCTS(product(dims))
    first = [searcher.ask(searcher.init(jax.random.key(seed)), 1)[1][0, :2] for seed in range(120)]
    assert len(np.unique(np.asarray(first), axis=0)) == 9
