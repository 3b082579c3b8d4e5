"""The final network: that of `NASNet.for_code`, an auxiliary head of known size, and branches dropped by chance."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lanas_jax.models import layers
from lanas_jax.models.nasnet import FinalNASNet, NASNet
from lanas_jax.models.nasnet.network import NASNetCell
from lanas_jax.models.nasnet.operations import Arithmetic
from lanas_jax.spaces.nasnet import MAX_POOL_3X3, SEP_CONV_3X3, SKIP_CONNECT, NASNetSpace

LANET = np.array([2, 2, 0, 2, 1, 2, 0, 2, 2, 3, 2, 1, 2, 0, 0, 1, 1, 1, 2, 1, 1, 0, 3, 4, 3, 0, 3, 1])
SPACE = NASNetSpace(1, channels=4, cells=4, image_size=8, image_channels=2, classes=5)
CODE = np.array([SEP_CONV_3X3, SKIP_CONNECT, 0, 1], np.int32)
NETWORK = NASNet(SPACE, weight_standardisation=True)
IMAGES = jax.random.normal(jax.random.key(9), (6, 8, 8, 2))
# Float32 sums in the order of two compiled programs.
CLOSE = {"rtol": 1e-3, "atol": 1e-4}

quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(name="final", scope="module")
def _final():
    return FinalNASNet(NETWORK, CODE)


@pytest.fixture(name="weights", scope="module")
def _weights(final):
    return quick_jit(final.init)(jax.random.key(0))


@pytest.fixture(name="step", scope="module")
def _step(final):
    """`(logits, auxiliary logits, statistics), gradient of the auxiliary logits`; the list counts traces."""
    traces = []

    def outputs(params, stats, key, drop_path):
        traces.append(key)

        def total(params):
            outputs = final.apply(params, stats, IMAGES, train=True, key=key, drop_path=drop_path)
            return (outputs[1] * jnp.arange(30.0).reshape(6, 5)).sum(), outputs

        (_, outputs), gradient = jax.value_and_grad(total, has_aux=True)(params)
        return outputs, gradient

    return quick_jit(outputs), traces


def trunk(tree):
    return {name: value for name, value in tree.items() if name != "auxiliary"}


def count(tree):
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "cells", "alone", "with_head"),
    [(128, 24, 44_591_498, 45_256_340), (36, 20, 3_222_982, 3_699_408)],
)
def test_parameters_are_those_published(channels, cells, alone, with_head):
    final = FinalNASNet(NASNet(NASNetSpace(7, channels=channels, cells=cells)), LANET)
    params, _ = jax.eval_shape(final.init, jax.random.key(0))
    assert count(params) == with_head
    assert count(trunk(params)) == alone


@pytest.mark.slow
def test_all_but_the_head_is_the_network_for_the_code(final, weights, step):
    """Weights; without drop-path also logits and statistics, training or not."""
    fixed, (params, stats) = NETWORK.for_code(CODE), weights
    their_params, their_stats = quick_jit(fixed.init)(jax.random.key(0), CODE)
    equal_but_for_rounding = partial(np.testing.assert_allclose, rtol=1e-6)
    jax.tree.map(equal_but_for_rounding, trunk(params), their_params)
    jax.tree.map(np.testing.assert_array_equal, trunk(stats), their_stats)
    (logits, _, new_stats), _ = step[0](params, stats, jax.random.key(1), jnp.float32(0))
    apply = quick_jit(fixed.apply, static_argnames="train")
    theirs, their_stats = apply(their_params, their_stats, CODE, IMAGES, train=True)
    np.testing.assert_allclose(logits, theirs, **CLOSE)
    jax.tree.map(partial(np.testing.assert_allclose, **CLOSE), trunk(new_stats), their_stats)
    assert np.abs(new_stats["auxiliary"]["conv_norm"]["mean"]).max() > 0
    tested, none, same = quick_jit(partial(final.apply, train=False))(
        params, new_stats, IMAGES, key=jax.random.key(1), drop_path=jnp.float32(0.5)
    )
    assert none is None
    jax.tree.map(np.testing.assert_array_equal, same, new_stats)
    np.testing.assert_allclose(tested, apply(their_params, their_stats, CODE, IMAGES, train=False)[0], **CLOSE)


@pytest.mark.slow
def test_the_head_reads_the_second_reduction(weights, step):
    (logits, auxiliary, _), gradient = step[0](*weights, jax.random.key(1), jnp.float32(0))
    assert auxiliary.shape == logits.shape == (6, 5)
    reached = [any(np.any(x) for x in jax.tree.leaves(gradient["cells"][i])) for i in range(4)]
    assert reached == [True, True, True, False]
    assert not np.any(gradient["head"]["kernel"])


@pytest.mark.slow
def test_a_schedule_of_drop_path_compiles_once(weights, step):
    run, traces = step
    outputs = [run(*weights, jax.random.key(k), jnp.float32(p))[0][0] for k, p in ((1, 0), (2, 0), (1, 0.2), (2, 0.2))]
    assert len(traces) == 1
    np.testing.assert_array_equal(outputs[0], outputs[1])  # the key matters only where something is dropped
    assert np.abs(outputs[0] - outputs[2]).max() > 0.01
    assert np.abs(outputs[2] - outputs[3]).max() > 0.01


def test_scales_are_zero_with_the_probability_and_one_on_average():
    """Of 100,000 numbers, 1% are six standard deviations of the share dropped."""
    scales = layers.path_scales(jax.random.key(0), jnp.float32(0.2), (10, 100, 100))
    np.testing.assert_array_equal(np.unique(scales), np.float32([0, 1.25]))
    assert np.mean(scales == 0) == pytest.approx(0.2, abs=0.01)
    np.testing.assert_array_equal(layers.path_scales(jax.random.key(0), jnp.float32(0), (2, 3)), 1)


STATES = (jax.random.normal(jax.random.key(3), (3, 8, 8, 12)), jax.random.normal(jax.random.key(4), (3, 8, 8, 12)))


def run_cell(*operations, reduction=False):
    """One block on the two cells before, as it tests: the cell, and its output for what branches are scaled by."""
    code = np.array([*operations, 0, 1])
    shape = SPACE.shapes[1 if reduction else 0]._replace(sources=(-1, -1))
    cell = NASNetCell(SPACE, code, shape, arithmetic=Arithmetic(jnp.float32, False), rngs=nnx.Rngs(0))
    cell.eval()
    return cell, jax.jit(lambda scales: cell(*STATES, scales))


def test_a_branch_is_dropped_for_whole_images():
    cell, run = run_cell(SEP_CONV_3X3, MAX_POOL_3X3)
    left, right = (run(jnp.array(only)[:, None] * jnp.ones(3)[None]) for only in ([1.0, 0], [0, 1.0]))
    np.testing.assert_allclose(left + right, quick_jit(lambda: cell(*STATES))(), **CLOSE)
    scales = jnp.array([[0, 1.25, 1.25], [0, 0, 1.25]])
    expected = scales[0][:, None, None, None] * left + scales[1][:, None, None, None] * right
    np.testing.assert_allclose(run(scales), expected, **CLOSE)
    assert not run(scales)[0].any()


def test_an_identity_is_never_dropped():
    cell, run = run_cell(SKIP_CONNECT, MAX_POOL_3X3)
    np.testing.assert_allclose(run(jnp.zeros((2, 3))), cell.inputs[0](STATES[0]), **CLOSE)


def test_a_skip_that_halves_is_dropped():
    _, run = run_cell(SKIP_CONNECT, SKIP_CONNECT, reduction=True)
    assert run(jnp.ones((2, 3))).any()
    assert not run(jnp.zeros((2, 3))).any()


def test_dropping_keeps_the_mean():
    """Over 2,000 keys, whose mean has a standard deviation of 0.011 of a branch: 0.1 is nine, six where two add."""
    _, run = run_cell(MAX_POOL_3X3, SKIP_CONNECT, reduction=True)
    scales = layers.path_scales(jax.random.key(0), jnp.float32(0.2), (2000, 2, 3))
    mean = quick_jit(lambda scales: jnp.mean(jax.lax.map(run, scales), axis=0))(scales)
    left, right = (run(jnp.array(only)[:, None] * jnp.ones(3)[None]) for only in ([1.0, 0], [0, 1.0]))
    assert np.all(np.abs(mean - (left + right)) <= 0.1 * np.maximum(np.abs(left), np.abs(right)) + 1e-6)


@pytest.mark.slow
def test_bfloat16_gives_what_float32_gives_but_for_roundings(weights, step):
    """The same paths are dropped; norms of differences over norms."""
    rounded = FinalNASNet(NASNet(SPACE, jnp.bfloat16, weight_standardisation=True), CODE)
    key, drop_path = jax.random.key(1), jnp.float32(0.2)
    ours = quick_jit(partial(rounded.apply, train=True))(*weights, IMAGES, key=key, drop_path=drop_path)
    theirs, _ = step[0](*weights, key, drop_path)
    for mine, exact in zip(ours[:2], theirs[:2], strict=True):
        assert mine.dtype == jnp.float32
        assert 0 < np.linalg.norm(mine - exact) < 0.1 * np.linalg.norm(exact)
    assert {x.dtype for x in jax.tree.leaves(ours[2])} == {jnp.dtype(jnp.float32)}


@pytest.mark.slow
def test_it_may_go_without_a_head():
    final = FinalNASNet(NETWORK, CODE, auxiliary=False)
    key = jax.random.key(0)
    params, stats = jax.eval_shape(final.init, key)
    assert "auxiliary" not in params
    _, none, _ = jax.eval_shape(
        partial(final.apply, train=True), params, stats, IMAGES, key=key, drop_path=jnp.float32(0)
    )
    assert none is None
    with pytest.raises(ValueError, match="auxiliary=True"):
        nnx.eval_shape(lambda: NETWORK.build(CODE, nnx.Rngs(0)).with_auxiliary(IMAGES))


def test_what_cannot_be_built_is_refused():
    with pytest.raises(ValueError, match=r"position 0 .* holds 4, expected 0 to 3"):
        FinalNASNet(NETWORK, np.array([4, 0, 0, 0]))
    tiny = NASNet(NASNetSpace(1, cells=3, image_size=4))
    with pytest.raises(ValueError, match="at least 2x2 pixels; got 1x1"):
        FinalNASNet(tiny, CODE)
    assert not FinalNASNet(tiny, CODE, auxiliary=False).auxiliary
