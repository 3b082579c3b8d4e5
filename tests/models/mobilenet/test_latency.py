"""A table of latencies has every layer of the space it was measured for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lanas_jax.models import functional
from lanas_jax.models.mobilenet import latency as mobilenet_latency
from lanas_jax.models.mobilenet.latency import measure_latencies
from lanas_jax.spaces.mobilenet import MobileNetSpace
from lanas_jax.spaces.mobilenet_settings import MobileNetStage

STAGES = (MobileNetStage(8, 2, "relu"), MobileNetStage(16, 2, squeezes=True))
SETTINGS = {
    "depths": (1, 2), "kernels": (3, 5), "expansions": (2, 3), "resolutions": (8,), "stem": 8, "last": 16, "hidden": 16,
    "classes": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def table():
    return measure_latencies(MobileNetSpace(STAGES, **SETTINGS), batch=2, seconds=1e-4)


@pytest.mark.slow
def test_all_layers_are_measured(table):
    space = MobileNetSpace(STAGES, **SETTINGS, latency=table)  # raises where one is missing
    assert 0 < space.smallest.nanoseconds < space.largest.nanoseconds
    blocks = 2 * 2 * 2 * 2  # stages, first layers and later ones, kernels, expansions
    assert len(table.nanoseconds) == blocks + 3  # stem, first block, head
    assert (table.batch, table.device) == (2, f"{jax.local_devices()[0].device_kind}, float32")


@pytest.mark.slow
def test_a_latency_is_the_sum_over_the_layers_of_a_network(table):
    space = MobileNetSpace(STAGES, **SETTINGS, latency=table)
    deepest = space.nanoseconds((space.cardinalities - 1)[None])[0]
    names = [name for name in table.nanoseconds if name.startswith(("stem", "head", "block 8-8-8,"))]
    names += [n for n in table.nanoseconds if "5x5" in n and (n.startswith(("block 8-24", "block 16-48")))]
    assert len(names) == 7
    assert deepest == sum(table.nanoseconds[name] for name in names)


def test_a_layer_runs_the_given_number_of_times(monkeypatch):
    """Every time is the program's, by a clock that counts layers."""
    runs = []
    monkeypatch.setattr(mobilenet_latency.time, "perf_counter", lambda: float(sum(runs)) * 1e-6)
    layer = mobilenet_latency._repeated

    def counted(module, params, batch_stats, x, rounds):
        jax.debug.callback(lambda n: runs.append(int(n)), rounds)
        return layer(module, params, batch_stats, x, rounds)

    monkeypatch.setattr(mobilenet_latency, "_repeated", counted)
    small = MobileNetSpace(STAGES[:1], **SETTINGS | {"depths": (1,), "kernels": (3,), "expansions": (2,)})
    found = measure_latencies(small, seconds=1e-3)
    assert set(found.nanoseconds.values()) == {1000}


def test_what_is_timed_reads_what_the_round_before_gave():
    network = next(mobilenet_latency._networks(MobileNetSpace(STAGES, **SETTINGS)))
    build, shape = next(iter(mobilenet_latency._modules(network, jnp.float32)))
    module = functional.Functional(lambda: build(rngs=mobilenet_latency.nnx.Rngs(0)))
    ones = [jax.tree.map(lambda x: jnp.ones(x.shape), tree) for tree in (module.params, module.batch_stats)]
    run = jax.jit(mobilenet_latency._repeated, static_argnums=0)
    none, once = (run(module, *ones, jnp.ones((1, *shape)), jnp.int32(n)) for n in (0, 1))
    assert none == 0
    assert np.isfinite(once)
    assert once != 0
