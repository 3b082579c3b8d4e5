"""The MobileNet space: exact costs and limits, canonical codes, features, words."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanas_jax.spaces.latency import LatencyTable
from lanas_jax.spaces.mobilenet import MobileNetSpace
from lanas_jax.spaces.mobilenet_layers import layers
from lanas_jax.spaces.mobilenet_settings import MobileNetStage

WIDE = {"widths": (1.0, 1.2), "resolutions": (160, 176, 192, 208, 224, 240)}
TINY = {
    "stages": (MobileNetStage(16, 2, "relu"), MobileNetStage(24, 2, squeezes=True)),
    "depths": (1, 2),
    "kernels": (3, 5),
    "widths": (0.5, 1.0),
    "resolutions": (16, 24, 32),
    "stem": 8,
    "last": 32,
    "hidden": 32,
    "classes": 10,
}
SPACES = {"published": MobileNetSpace(**WIDE), "tiny": MobileNetSpace(**TINY)}


def drawn(space, seed, n=64):
    codes = np.random.default_rng(seed).integers(0, space.cardinalities, (n, space.dims))
    return codes.astype(np.int32)


def equivalent(space, codes, seed):
    """The same networks, with other numbers where layers are not there."""
    absent = np.asarray(space.canonical(codes)) != np.asarray(space.canonical(drawn(space, seed, len(codes))))
    other, there = drawn(space, seed, len(codes)), np.asarray(space.present(codes))
    kept = np.concatenate([np.ones((*there.shape[:2], 1), bool), np.repeat(there, 2, axis=2)], axis=2)
    kept = np.concatenate([np.ones((len(codes), 2), bool), kept.reshape(len(codes), -1)], axis=1)
    assert absent.any()
    return np.where(kept, codes, other)


def made_up_latencies(space):
    """A table that has each layer of the space, the fewest multiply-adds not the fastest."""
    times, rng = {}, np.random.default_rng(7)
    for code in [*_covering(space)]:
        for layer in layers(space.network(code)):
            times.setdefault(layer.name, int(rng.integers(10_000, 5_000_000)))
    return LatencyTable("a made-up device", 1, times)


def _covering(space):
    """Codes that hold each layer of the space at least once."""
    options = math.prod(map(len, (space.kernels, space.expansions)))
    for network in np.ndindex(len(space.resolutions), len(space.widths)):
        for option in range(options):
            pair = np.array(divmod(option, len(space.expansions)))
            stage = np.concatenate([[len(space.depths) - 1], np.tile(pair, space.layers)])
            yield np.concatenate([network, np.tile(stage, len(space.stages))]).astype(np.int32)


@pytest.fixture(params=SPACES, name="space")
def _space(request):
    return SPACES[request.param]


def test_numbers_of_networks():
    assert MobileNetSpace().networks == (9**2 + 9**3 + 9**4) ** 5
    tiny = SPACES["tiny"]
    codes = np.stack(np.unravel_index(np.arange(tiny.size), tiny.cardinalities), axis=1).astype(np.int32)
    assert tiny.networks == len(np.unique(np.asarray(jax.jit(tiny.canonical)(codes)), axis=0))


def test_costs_are_those_of_the_networks(space):
    codes = drawn(space, 1, 300)
    cost = space.cost(codes)
    for code, multiply_adds, parameters in zip(codes, *cost, strict=True):
        assert tuple(space.network(code).cost) == (multiply_adds, parameters)
    assert cost.multiply_adds.dtype == np.int64
    assert len(space.cost(codes[:0]).parameters) == 0


def test_costs_of_many_codes_are_those_of_few():
    space = SPACES["tiny"]
    codes = drawn(space, 2, 8200)
    few = np.concatenate([space.cost(part).multiply_adds for part in np.array_split(codes, 40)])
    np.testing.assert_array_equal(space.cost(codes).multiply_adds, few)


def test_smallest_and_largest_are_those_of_all_networks():
    space = SPACES["tiny"]
    space = MobileNetSpace(**TINY, latency=made_up_latencies(space))
    codes = np.stack(np.unravel_index(np.arange(space.size), space.cardinalities), axis=1).astype(np.int32)
    for column, totals in enumerate((*space.cost(codes), space.nanoseconds(codes))):
        assert (space.smallest[column], space.largest[column]) == (totals.min(), totals.max())


def test_smallest_and_largest_of_the_published_space():
    space = SPACES["published"]
    first, last = np.zeros((1, space.dims), int), (space.cardinalities - 1)[None]
    for code, totals in ((first, space.smallest), (last, space.largest)):
        assert tuple(totals) == (*(int(cost[0]) for cost in space.cost(code)), None)


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 2**31 - 1),
    column=st.integers(0, 2),
    shift=st.integers(-1, 1),
    scale=st.sampled_from([1, 100, 10**4]),
)
def test_limits_are_exact(seed, column, shift, scale):
    """`valid` agrees with Python's integers right at the limit, however large."""
    sizes = TINY | {"resolutions": tuple(scale * r for r in TINY["resolutions"])}
    free = MobileNetSpace(**sizes)
    table = LatencyTable("d", 1, {name: scale**2 * t for name, t in made_up_latencies(free).nanoseconds.items()})
    free = MobileNetSpace(**sizes, latency=table)
    codes = drawn(free, seed, 8)
    networks = [free.network(code) for code in codes]
    times = [sum(table.nanoseconds[layer.name] for layer in layers(network)) for network in networks]
    totals = times if column == 2 else [network.cost[column] for network in networks]
    limit = max(totals[0] + shift, free.smallest[column])
    name = ("max_multiply_adds", "max_parameters", "max_latency")[column]
    limited = MobileNetSpace(**sizes, latency=table, **{name: limit})
    assert limited.valid(codes).tolist() == [total <= limit for total in totals]


def test_latency_is_the_sum_of_the_layers(space):
    table = made_up_latencies(space)
    timed = type(space)(**(WIDE if space is SPACES["published"] else TINY), latency=table)
    codes = drawn(space, 3, 40)
    expected = [sum(table.nanoseconds[layer.name] for layer in layers(space.network(code))) for code in codes]
    assert timed.nanoseconds(codes).tolist() == expected


def test_limits_that_no_network_keeps_are_refused():
    with pytest.raises(ValueError, match=r"max_multiply_adds of 63,240,527 is below .* has 63,240,528; .* 981,651,120"):
        MobileNetSpace(**WIDE, max_multiply_adds=63_240_527)
    assert MobileNetSpace(**WIDE, max_multiply_adds=63_240_528).starting_codes().tolist() == [[0] * 47]
    with pytest.raises(ValueError, match=r"max_parameters of 10 is below .*3,410,792; .* 10,701,632"):
        MobileNetSpace(**WIDE, max_parameters=10)
    table = made_up_latencies(SPACES["tiny"])
    with pytest.raises(ValueError, match="max_latency of 1 is below"):
        MobileNetSpace(**TINY, latency=table, max_latency=1)


def test_a_table_that_lacks_layers_is_refused():
    times = dict(made_up_latencies(SPACES["tiny"]).nanoseconds)
    lost = [name for name in times if name.startswith("block 16-48-16, 5x5")]
    table = LatencyTable("a device", 1, {name: time for name, time in times.items() if name not in lost})
    with pytest.raises(ValueError, match=rf"a device lacks {len(lost)} of the {len(times)} layers .* 'block 16-48-16"):
        MobileNetSpace(**TINY, latency=table)
    with pytest.raises(ValueError, match="max_latency needs a latency table"):
        MobileNetSpace(**TINY, max_latency=10**9)
    with pytest.raises(ValueError, match="no latency table"):
        SPACES["tiny"].nanoseconds(drawn(SPACES["tiny"], 0))


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"resolutions": ()}, r"resolutions must be one or more ascending numbers above 0; got \(\)"),
        ({"resolutions": (224, 160)}, "resolutions must be one or more ascending"),
        ({"depths": (0, 1)}, "depths must be one or more ascending numbers above 0"),
        ({"kernels": (3, 3)}, "kernels must be one or more ascending"),
        ({"stages": ()}, "stages must not be empty"),
        ({"classes": 0}, "classes must be at least 1; got 0"),
        ({"kernels": (3, 4), "max_parameters": 10**9}, "kernel must be odd; got 4"),
    ],
)
def test_impossible_settings_are_refused(settings_, message):
    with pytest.raises(ValueError, match=message):
        MobileNetSpace(**settings_)


def test_a_resolution_that_is_not_there():
    space = SPACES["published"]
    moved = space.at_resolution(drawn(space, 4, 8), 208)
    assert {space.network(code).resolution for code in moved} == {208}
    np.testing.assert_array_equal(moved[:, 1:], drawn(space, 4, 8)[:, 1:])
    with pytest.raises(
        ValueError, match=r"no resolution of 200 pixels; it has 6, the smallest 160 and the largest 240"
    ):
        space.at_resolution(drawn(space, 4, 8), 200)


def test_limited_costs_come_with_their_limits():
    free = SPACES["tiny"]
    space = MobileNetSpace(**TINY, max_multiply_adds=10**8, max_parameters=10**7)
    codes = drawn(space, 8, 9)
    assert free.limited(codes) == ()
    for found, (name, limit), costs in zip(
        space.limited(codes), [("multiply-adds", 10**8), ("parameters", 10**7)], free.cost(codes), strict=True
    ):
        assert (found.name, found.limit) == (name, limit)
        np.testing.assert_array_equal(found.costs, costs)


def test_starting_codes_are_valid_canonical_and_cheap():
    table = made_up_latencies(SPACES["tiny"])
    free = MobileNetSpace(**TINY, latency=table)
    max_latency = int(free.smallest.nanoseconds * 1.5)
    fast = MobileNetSpace(**TINY, latency=table, max_latency=max_latency)
    small = free.smallest.multiply_adds * 3
    both = MobileNetSpace(**TINY, latency=table, max_latency=max_latency, max_multiply_adds=small)
    for space in (fast, both):
        codes = space.starting_codes()
        assert len(codes) > 0
        valid, canonical = jax.jit(lambda codes, space=space: (space.valid(codes), space.canonical(codes)))(codes)
        assert valid.all()
        np.testing.assert_array_equal(codes, canonical)
    assert free.nanoseconds(fast.starting_codes()).min() == free.smallest.nanoseconds
    assert len(free.starting_codes()) == 0


@pytest.fixture(scope="module")
def programs():
    """Compiled once for each space."""
    return {
        name: jax.jit(lambda codes, space=space: (space.canonical(codes), space.features(codes), space.embed(codes)))
        for name, space in SPACES.items()
    }


@pytest.mark.slow
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31 - 1), name=st.sampled_from(sorted(SPACES)))
def test_layers_that_are_not_there_change_nothing(programs, seed, name):
    space = SPACES[name]
    codes = drawn(space, seed)
    others = equivalent(space, codes, seed + 1)
    assert (codes != others).any()
    for ours, theirs in zip(programs[name](codes), programs[name](others), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    canonical = np.asarray(programs[name](codes)[0])
    np.testing.assert_array_equal(canonical, programs[name](canonical)[0])
    for ours, theirs in zip(space.cost(codes), space.cost(others), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (canonical == codes)[np.asarray(space.present(codes)).all(axis=(1, 2))].all()


def test_different_networks_have_different_features():
    space = SPACES["tiny"]
    codes = np.stack(np.unravel_index(np.arange(space.size), space.cardinalities), axis=1).astype(np.int32)
    features = np.asarray(jax.jit(space.features)(codes))
    assert len(np.unique(features, axis=0)) == space.networks


def test_features_are_small_counts_and_named(programs, space):
    name = next(key for key, value in SPACES.items() if value is space)
    features = np.asarray(programs[name](drawn(space, 5))[1])
    assert features.shape[1] == len(space.feature_names) == len(set(space.feature_names))
    np.testing.assert_array_equal(features, features.astype(np.int64))
    assert features.min() == 0
    assert features.max() <= len(space.stages) * space.layers


def test_features_of_a_network_by_hand():
    space = SPACES["tiny"]
    code = np.array([[2, 1, 1, 0, 2, 1, 1, 0, 1, 0, 1, 2]])  # two layers: k3 x6, k5 x4; one: k5 x3
    value = dict(zip(space.feature_names, np.asarray(jax.jit(space.features)(code))[0].tolist(), strict=True))
    names = ("layers", "layers with kernel>=5", "layers with expansion>=4", "layers with expansion>=6")
    assert [value[name] for name in names] == [3, 2, 2, 1]
    assert [value[f"stage {s} layers with kernel>=5"] for s in range(2)] == [1, 1]
    assert [value[f"stage {s} layers with expansion>=4"] for s in range(2)] == [2, 0]
    assert (value["resolution>=24"], value["resolution>=32"], value["width=1.0"]) == (1, 1, 1)
    assert (value["stage 1 layer 0 kernel=5"], value["stage 1 layer 1 kernel=5"]) == (1, 0)


def test_embeddings_have_squared_norms_of_about_one(programs, space):
    name = next(key for key, value in SPACES.items() if value is space)
    embedded = np.asarray(programs[name](drawn(space, 6))[2])
    assert embedded.shape[1] == space.embedding_size
    norms = np.square(embedded).sum(axis=1)
    assert norms.mean() == pytest.approx(1, abs=0.1)
    assert 0.2 < norms.min() < norms.max() < 4


def test_describe():
    space = SPACES["tiny"]
    assert space.describe(np.array([2, 1, 1, 0, 2, 1, 1, 0, 1, 0, 1, 2])).splitlines() == [
        "resolution 32, width 1",
        "stage 0: 2 layers of 16 channels: k3 x6, k5 x4",
        "stage 1: 1 layer of 24 channels: k5 x3",
    ]
    with pytest.raises(ValueError, match=r"position 2 \(stage 0 depth\) holds 2, expected 0 to 1"):
        space.describe(np.array([2, 1, 2, 0, 2, 1, 1, 0, 1, 0, 1, 2]))


def test_numbers_out_of_range_are_invalid():
    space = MobileNetSpace(**TINY, max_parameters=10**9)
    codes = np.zeros((3, space.dims), np.int32)
    codes[1, 0], codes[2, 4] = 3, -1
    assert space.valid(codes).tolist() == [True, False, False]


def test_limits_beyond_int32_under_jit():
    space = MobileNetSpace(resolutions=(4096,))
    code = jnp.zeros((1, space.dims), jnp.int32)
    total = int(space.cost(code).multiply_adds[0])
    assert total > 2**34
    for limit, allowed in ((total, True), (total + 1, True)):
        limited = MobileNetSpace(resolutions=(4096,), max_multiply_adds=limit)
        assert bool(jax.jit(limited.valid)(code)[0]) is allowed
        assert bool(jax.jit(limited.valid)(code.at[0, 3].set(1))[0]) is False
