"""Recurrent cells: canonical codes, known cells, and costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import KDTree

from lanas_jax.models.recurrent import RecurrentModels
from lanas_jax.spaces.recurrent import COUPLED, MIX, RecurrentSpace

SPACE = RecurrentSpace(units=3, symbols=5)
MODELS = RecurrentModels(SPACE)
SYMBOLS = jax.random.randint(jax.random.key(1), (6, 2), 0, 5)


@jax.jit
@jax.vmap
def outputs(params, code):
    return MODELS.apply(params, code, SYMBOLS, MODELS.state(2))[0]


def weights(names=(0, 1, 2, 3)):
    """Initial weights, in which the gates are renamed, all with one bias."""
    params = MODELS.init(jax.random.key(0))
    order = np.array(names)
    table = params["table"].at[:, :4].set(params["table"][:, order])
    return {
        **params,
        "table": table,
        "bias": jnp.full_like(params["bias"], 0.1),
        "gates": params["gates"][:, order],
        "peepholes": params["peepholes"][order],
    }


def test_equivalent_cells_compute_the_same_with_gates_renamed_and_different_ones_do_not():
    every = np.indices(SPACE.cardinalities).reshape(6, -1).T.astype(np.int32)
    canonical = np.asarray(SPACE.canonical(every))
    np.testing.assert_array_equal(SPACE.canonical(canonical), canonical)
    changed = (canonical != every).any(axis=1)
    codes, to = every[changed], canonical[changed]
    renamed = ((codes[:, 1] > 0) | (to[:, 1] > 0)) & ((codes[:, 1] != to[:, 1]) | (codes[:, 3] != to[:, 3]))
    kept, swapped = weights(), weights((0, 3, 2, 1))
    stacked = jax.tree.map(lambda a, b: jnp.where(renamed.reshape(-1, *[1] * a.ndim), b[None], a[None]), kept, swapped)
    same = jax.tree.map(lambda a: jnp.broadcast_to(a[None], (len(codes), *a.shape)), kept)
    np.testing.assert_allclose(outputs(same, codes), outputs(stacked, to), atol=2e-5)
    cost, other = SPACE.cost(codes), SPACE.cost(to)
    np.testing.assert_array_equal(cost.parameters, other.parameters)
    np.testing.assert_array_equal(cost.multiply_adds, other.multiply_adds)
    left = SPACE.enumerate()
    assert len(left) == 6225
    # Gates with equal weights, so that no cells differ in the names of their gates alone.
    same = jax.tree.map(lambda a: jnp.broadcast_to(a[None], (len(left), *a.shape)), weights((0, 0, 0, 0)))
    found = np.asarray(outputs(same, left)).reshape(len(left), -1)
    assert not KDTree(found).query_pairs(3e-6)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def walk(name, params):
    """The textbook's equations of a named cell, symbol by symbol."""
    table, bias = np.asarray(params["table"]), np.asarray(params["bias"])
    gates, candidate, peep = (np.asarray(params[part]) for part in ("gates", "candidate", "peepholes"))
    h = c = np.zeros((2, 3))
    found = []
    for now in np.asarray(SYMBOLS):
        pre = [table[now, g] + bias[g] + h @ gates[:, g] for g in range(4)]
        r, i, f, o = (sigmoid(pre[g] + (c * peep[g] if name == "peephole-lstm" else 0)) for g in range(4))
        row = table[now, 4] + bias[4]
        if name.endswith("lstm"):
            c = f * c + i * np.tanh(row + h @ candidate)
            h = o * np.tanh(c)
        elif name == "elman":
            h = np.tanh(row + h @ candidate)
        else:
            inner = (r * h) @ candidate if name == "gru" else r * (h @ candidate)
            h = (1 - i) * h + i * np.tanh(row + inner)
        found.append(h @ np.asarray(params["head"]["kernel"]) + np.asarray(params["head"]["bias"]))
    return np.array(found)


def test_named_cells_compute_the_textbooks_equations():
    codes = np.array(list(SPACE.named_codes.values()), np.int32)
    np.testing.assert_array_equal(SPACE.canonical(codes), codes)
    params = weights()
    stacked = jax.tree.map(lambda a: jnp.broadcast_to(a[None], (len(codes), *a.shape)), params)
    expected = [walk(name, params) for name in SPACE.named_codes]
    np.testing.assert_allclose(outputs(stacked, codes), expected, atol=1e-5)


def test_costs_of_the_lstm_and_gru_by_hand():
    """Three or two gates and the candidate, each with a table, a bias and a kernel; the head."""
    lstm, gru = (SPACE.named_codes[name] for name in ("lstm", "gru"))
    cost = SPACE.cost(np.array([lstm, gru]))
    assert cost.parameters.tolist() == [4 * (15 + 3 + 9) + 20, 3 * (15 + 3 + 9) + 20]
    assert cost.multiply_adds.tolist() == [4 * 9 + 15, 3 * 9 + 15]


def test_graphs_show_the_gates():
    (graph,) = SPACE.graphs(np.array(SPACE.named_codes["gru"]))
    assert graph.nodes == ("x", "h", "c", "reset", "input", "candidate: tanh", "memory", "output: identity")
    assert (3, 5, "before") in graph.edges
    (graph,) = SPACE.graphs(np.array((0, 0, COUPLED, MIX + 1, 0, 0)))
    assert {edge for edge in graph.edges if edge[1] == 6} == {(1, 6, ""), (3, 6, "mix"), (5, 6, "")}


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="units must be"):
        RecurrentSpace(units=0)
