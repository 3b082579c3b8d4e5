"""The benchmark of the supernet: what it counts, and that it can be measured."""

import pytest

from experiments.bench_supernet import Config, Cost, Size, costs


def test_a_row():
    cost = Cost("small", "forward", 9.0, (7.0, 8.0, 12.0), (0.03, 0.02, 0.05), (0.02, 0.02, 0.02))
    assert cost.ratios == pytest.approx([1.5, 1.0, 2.5])
    assert list(cost.row.values()) == ["small, forward", "3", "30.0", "20.0", "1.50", "1.00 - 2.50", "9.0", "8.0"]


def test_both_passes_are_measured():
    size = Size(2, 1, 4, 1, batch_size=2, masks=1, blocks=1)
    done = list(costs(Config(sizes=("small",), rounds=1, small=size)))
    assert [(cost.size, cost.kind) for cost in done] == [("small", "forward"), ("small", "training")]
    for cost in done:
        assert len(cost.alone_compile) == len(cost.supernet) == len(cost.alone) == 1
        assert min(cost.supernet_compile, *cost.alone_compile, *cost.supernet, *cost.alone) > 0
