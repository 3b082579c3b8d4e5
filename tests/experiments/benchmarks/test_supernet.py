"""The benchmark of the supernet: what it counts, and that it can be measured."""

import time

import numpy as np
import optax
import pytest

from lanas_jax.experiments.benchmarks import supernet
from lanas_jax.experiments.benchmarks.supernet import Config, PassCost, Size, costs


def test_a_row():
    cost = PassCost("small", "forward", 9.0, (7.0, 8.0, 12.0), (0.03, 0.02, 0.05), (0.02, 0.02, 0.02))
    assert cost.ratios == pytest.approx([1.5, 1.0, 2.5])
    assert list(cost.row.values()) == ["small, forward", "3", "30.0", "20.0", "1.50", "1.00 - 2.50", "9.0", "8.0"]


@pytest.mark.slow
def test_both_passes_are_measured_and_compute_the_same_in_both_networks(monkeypatch):
    """Logits, and the loss and its gradient, of whose norms the supernet's is that of the standalone network."""
    results, seconds = [], iter(([0.5, 0.25], [3.0, 2.0]))

    def in_turns(calls, rounds):
        assert rounds == 3
        results.append([call() for call in calls])
        return next(seconds)

    monkeypatch.setattr(supernet, "in_turns", in_turns)
    size, began = Size(2, 1, 4, 1, batch_size=2, masks=1, blocks=1), time.perf_counter()
    done = list(costs(Config(sizes=("small",), rounds=3, small=size)))
    passed = time.perf_counter() - began
    assert [(cost.size, cost.kind, cost.supernet, cost.alone) for cost in done] == [
        ("small", "forward", (0.5,), (0.25,)),
        ("small", "training", (3.0,), (2.0,)),
    ]
    compiling = [second for cost in done for second in (cost.supernet_compile, *cost.alone_compile)]
    assert len(compiling) == 4
    assert 0 < min(compiling) < sum(compiling) < passed
    (ours, theirs), trained = results
    assert ours.shape == (2, 10)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    losses, norms = zip(*((loss, optax.tree.norm(gradient)) for (loss, _), gradient in trained), strict=True)
    np.testing.assert_allclose(*losses, rtol=1e-5)
    np.testing.assert_allclose(*norms, rtol=1e-4)


def test_the_fastest_round_counts_and_short_calls_are_repeated(monkeypatch):
    """By a clock that only the calls move: 10 ms and 200 ms, where the first rounds take three times as long."""
    now, calls = [0.0], {"short": 0, "long": 0}
    monkeypatch.setattr(supernet.time, "perf_counter", lambda: now[0])

    def call(name, seconds):
        calls[name] += 1
        now[0] += seconds * (3 if 2 < calls[name] <= 2 + {"short": 5, "long": 1}[name] else 1)

    found = supernet.in_turns([lambda: call("short", 0.01), lambda: call("long", 0.2)], rounds=4)
    assert found == pytest.approx([0.01, 0.2])
    assert calls == {"short": 2 + 4 * 5, "long": 2 + 4}  # 5 calls of 10 ms take 50 ms
